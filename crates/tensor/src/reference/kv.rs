//! The reference's paged KV cache: f32 values that went through the storage format asked for.

use half::{bf16, f16};

use super::DEVICE;
use crate::Format;
use crate::backend::{BackendError, KvSpec, LayerDims, PAGE_TOKENS};

/// Values in a block of the quantized KV formats.
const BLOCK: usize = 32;

/// Keys and values of every layer, by page.
#[derive(Debug)]
pub(super) struct KvPages {
    key_format: Format,
    value_format: Format,
    groups: usize,
    layers: Vec<LayerPages>,
}

/// One layer's pages: `[pages][PAGE_TOKENS][kv_heads][head_dim]`.
#[derive(Debug, Clone)]
struct LayerPages {
    group: usize,
    kv_heads: usize,
    head_dim: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Default for KvPages {
    /// A cache of no layers.
    fn default() -> Self {
        KvPages { key_format: Format::F32, value_format: Format::F32, groups: 0, layers: Vec::new() }
    }
}

impl KvPages {
    pub(super) fn allocate(spec: &KvSpec, dims: &[LayerDims]) -> Result<KvPages, BackendError> {
        let mut layers = Vec::with_capacity(dims.len());
        for (index, &LayerDims { kv_heads, head_dim, .. }) in dims.iter().enumerate() {
            check_format(spec.key_format, head_dim)?;
            check_format(spec.value_format, head_dim)?;
            let group = spec.groups.iter().position(|group| group.layers.contains(&index));
            let group = group.expect("each layer is in a group");
            let len = spec.groups[group].pages * PAGE_TOKENS * kv_heads * head_dim;
            layers.push(LayerPages { group, kv_heads, head_dim, keys: vec![0.0; len], values: vec![0.0; len] });
        }
        Ok(KvPages { key_format: spec.key_format, value_format: spec.value_format, groups: spec.groups.len(), layers })
    }

    pub(super) fn groups(&self) -> usize {
        self.groups
    }

    /// The group that a layer belongs to.
    pub(super) fn group(&self, layer: usize) -> usize {
        self.layers[layer].group
    }

    /// Writes the key and value heads of one token.
    pub(super) fn store(&mut self, layer: usize, table: &[u32], position: usize, k: &[f32], v: &[f32]) {
        let (key_format, value_format) = (self.key_format, self.value_format);
        let pages = &mut self.layers[layer];
        for head in 0..pages.kv_heads {
            let at = pages.offset(table, position, head);
            let part = head * pages.head_dim..(head + 1) * pages.head_dim;
            let stored = at..at + pages.head_dim;
            pages.keys[stored.clone()].copy_from_slice(&k[part.clone()]);
            pages.values[stored.clone()].copy_from_slice(&v[part]);
            round_through(key_format, &mut pages.keys[stored.clone()]);
            round_through(value_format, &mut pages.values[stored]);
        }
    }

    /// The key of one head at a position: `[head_dim]`.
    pub(super) fn key(&self, layer: usize, table: &[u32], position: usize, head: usize) -> &[f32] {
        let pages = &self.layers[layer];
        &pages.keys[pages.offset(table, position, head)..][..pages.head_dim]
    }

    /// The value of one head at a position: `[head_dim]`.
    pub(super) fn value(&self, layer: usize, table: &[u32], position: usize, head: usize) -> &[f32] {
        let pages = &self.layers[layer];
        &pages.values[pages.offset(table, position, head)..][..pages.head_dim]
    }

    pub(super) fn copy_page(&mut self, group: usize, from: u32, to: u32) {
        for pages in self.layers.iter_mut().filter(|pages| pages.group == group) {
            let page_len = PAGE_TOKENS * pages.kv_heads * pages.head_dim;
            let (from, to) = (from as usize * page_len, to as usize * page_len);
            pages.keys.copy_within(from..from + page_len, to);
            pages.values.copy_within(from..from + page_len, to);
        }
    }
}

impl LayerPages {
    /// Where the values of a head of the token at `position` begin.
    fn offset(&self, table: &[u32], position: usize, head: usize) -> usize {
        let page = table[position / PAGE_TOKENS] as usize;
        ((page * PAGE_TOKENS + position % PAGE_TOKENS) * self.kv_heads + head) * self.head_dim
    }
}

fn check_format(format: Format, head_dim: usize) -> Result<(), BackendError> {
    let limit = match format {
        Format::F32 | Format::F16 | Format::BF16 => return Ok(()),
        Format::Q8_0 | Format::Q4_0 if head_dim.is_multiple_of(BLOCK) => return Ok(()),
        Format::Q8_0 | Format::Q4_0 => format!("head size is no multiple of {BLOCK}"),
        _ => "KV formats are f32, f16, bf16, q8_0, q4_0".into(),
    };
    let what = format!("KV format {} with heads of {head_dim} values", format.name());
    Err(BackendError::Unsupported { device: DEVICE.into(), what, limit })
}

/// Stores and loads the values of a head in `format`.
fn round_through(format: Format, head: &mut [f32]) {
    match format {
        Format::F32 => {}
        Format::F16 => head.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
        Format::BF16 => head.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
        Format::Q8_0 => head.chunks_exact_mut(BLOCK).for_each(round_q8_0),
        Format::Q4_0 => head.chunks_exact_mut(BLOCK).for_each(round_q4_0),
        _ => unreachable!("allocate_kv refused {format:?}"),
    }
}

/// 8 bits and a scale: the value farthest from zero becomes 127 or -127.
fn round_q8_0(block: &mut [f32]) {
    let scale = block.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let stored_scale = f16::from_f32(scale).to_f32();
    for x in block {
        *x = (*x * inverse).round() * stored_scale;
    }
}

/// 4 bits in `[-8, 8)` and a scale: the value farthest from zero becomes -8.
fn round_q4_0(block: &mut [f32]) {
    let farthest = block.iter().fold(0.0f32, |far, &x| if x.abs() > far.abs() { x } else { far });
    let scale = farthest / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let stored_scale = f16::from_f32(scale).to_f32();
    for x in block {
        let level = (*x * inverse + 8.5).floor().clamp(0.0, 15.0);
        *x = (level - 8.0) * stored_scale;
    }
}
