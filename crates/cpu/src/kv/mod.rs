//! Keys and values in pages of [`PAGE_TOKENS`] tokens, laid out for the attention kernels.
//!
//! For each layer there is a *slab* a key head, and one a value head: all pages of that head, one after the other. So
//! threads that work on different heads never touch the same slab, and a kernel reads one page of keys in ascending
//! order, then one page of values. [`layout`] says how a page looks inside, and appends to it.

pub mod layout;

use std::ops::Range;

use tensor::{Format, KvSpec, LayerDims, PAGE_TOKENS};

use crate::memory::{Arena, HugeBuf, OutOfMemory};
use crate::pool::{Chunks, Then};
pub use layout::{KeyLayout, ValueLayout};

/// Where a token's entries go: its page and its place in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Page of the group's pool.
    pub page: u32,
    /// Token of the page.
    pub token: u32,
}

impl Slot {
    /// The slot of a position, through a sequence's page table.
    pub fn of(table: &[u32], position: usize) -> Slot {
        Slot { page: table[position / PAGE_TOKENS], token: (position % PAGE_TOKENS) as u32 }
    }
}

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// No kernel reads such entries.
    #[error("KV format {} with heads of {head_dim} values", .format.name())]
    Format {
        /// The format.
        format: Format,
        /// Values in a head.
        head_dim: usize,
    },
    /// A layer is in no group.
    #[error("layer {layer} outside of every KV group")]
    Group {
        /// The layer.
        layer: usize,
    },
    /// Memory could not be had.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
}

/// The KV pages of all layers.
#[derive(Debug, Default)]
pub struct KvCache {
    layers: Vec<LayerKv>,
    groups: usize,
}

/// The pages of one layer.
#[derive(Debug)]
pub struct LayerKv {
    group: usize,
    heads: usize,
    pages: usize,
    key: KeyLayout,
    value: ValueLayout,
    /// `[kv_heads][pages][page]`
    keys: HugeBuf,
    /// `[kv_heads][pages][page]`
    values: HugeBuf,
}

impl KvCache {
    /// Allocates the pages; nothing is touched before it is written.
    ///
    /// # Errors
    /// Formats without a kernel, or too little memory.
    pub fn allocate(spec: &KvSpec, layers: &[LayerDims], arena: &Arena) -> Result<KvCache, KvError> {
        let allocate = |(index, dims): (usize, &LayerDims)| {
            let key = KeyLayout::new(spec.key_format, dims.head_dim)?;
            let value = ValueLayout::new(spec.value_format, dims.head_dim)?;
            let group = spec.groups.iter().position(|group| group.layers.contains(&index));
            let group = group.ok_or(KvError::Group { layer: index })?;
            let pages = spec.groups[group].pages;
            let slabs = |page_bytes: usize| {
                let size_bytes = dims.kv_heads.checked_mul(pages).and_then(|pages| pages.checked_mul(page_bytes));
                arena.alloc(size_bytes.unwrap_or(usize::MAX))
            };
            let (keys, values) = (slabs(key.page_bytes())?, slabs(value.page_bytes())?);
            Ok(LayerKv { group, heads: dims.kv_heads, pages, key, value, keys, values })
        };
        let layers = layers.iter().enumerate().map(allocate).collect::<Result<_, KvError>>()?;
        Ok(KvCache { layers, groups: spec.groups.len() })
    }

    /// Page tables that a sequence has.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The pages of a layer.
    pub fn layer(&self, layer: usize) -> &LayerKv {
        &self.layers[layer]
    }

    /// The pages of a layer, to append to.
    pub fn layer_mut(&mut self, layer: usize) -> &mut LayerKv {
        &mut self.layers[layer]
    }

    /// Gives the memory of pages in every layer of a group back to the system. They read as zeros where it took it.
    pub fn release_pages(&mut self, group: usize, pages: &[u32]) {
        let mut sorted = pages.to_vec();
        sorted.sort_unstable();
        for layer in self.layers.iter_mut().filter(|layer| layer.group == group) {
            let (pages, heads) = (layer.pages, layer.heads);
            // Neighbours together: the system takes whole pages of its own, which may be larger than one of ours.
            for run in sorted.chunk_by(|a, b| a + 1 == *b) {
                for head in 0..heads {
                    let range = |page_bytes: usize| {
                        let first = (head * pages + run[0] as usize) * page_bytes;
                        first..first + run.len() * page_bytes
                    };
                    layer.keys.give_back(range(layer.key.page_bytes()));
                    layer.values.give_back(range(layer.value.page_bytes()));
                }
            }
        }
    }

    /// Copies a page in every layer of a group.
    pub fn copy_page(&mut self, group: usize, from: u32, to: u32) {
        for layer in self.layers.iter_mut().filter(|layer| layer.group == group) {
            let pages = layer.pages;
            copy_in_slabs(&mut layer.keys, layer.key.page_bytes(), pages, from as usize, to as usize);
            copy_in_slabs(&mut layer.values, layer.value.page_bytes(), pages, from as usize, to as usize);
        }
    }
}

impl LayerKv {
    /// The group whose page tables lead to this layer's pages.
    pub fn group(&self) -> usize {
        self.group
    }

    /// How keys lie in a page.
    pub fn key_layout(&self) -> KeyLayout {
        self.key
    }

    /// How values lie in a page.
    pub fn value_layout(&self) -> ValueLayout {
        self.value
    }

    /// A page of keys of one head.
    #[inline(always)]
    pub fn key_page(&self, head: usize, page: u32) -> &[u8] {
        &self.keys[self.page_range(self.key.page_bytes(), head, page)]
    }

    /// A page of values of one head.
    #[inline(always)]
    pub fn value_page(&self, head: usize, page: u32) -> &[u8] {
        &self.values[self.page_range(self.value.page_bytes(), head, page)]
    }

    /// Writes one token's key and value of one head (`[head_dim]`, padded with zeros to the layouts' `dim`).
    pub fn append(&mut self, head: usize, slot: Slot, key: &[f32], value: &[f32]) {
        let page = self.page_range(self.key.page_bytes(), head, slot.page);
        self.key.append(&mut self.keys[page], slot.token as usize, key);
        let page = self.page_range(self.value.page_bytes(), head, slot.page);
        self.value.append(&mut self.values[page], slot.token as usize, value);
    }

    /// The slabs of `heads` key heads an item, then those of `heads` value heads an item, to append to.
    pub fn slabs_mut(&mut self, heads: usize) -> Then<Chunks<'_, u8>, Chunks<'_, u8>> {
        let (key_bytes, value_bytes) = (self.key_slab_bytes(), self.value_slab_bytes());
        Then(Chunks::new(&mut self.keys, heads * key_bytes), Chunks::new(&mut self.values, heads * value_bytes))
    }

    /// Bytes of one head's keys.
    pub fn key_slab_bytes(&self) -> usize {
        self.pages * self.key.page_bytes()
    }

    /// Bytes of one head's values.
    pub fn value_slab_bytes(&self) -> usize {
        self.pages * self.value.page_bytes()
    }

    fn page_range(&self, page_bytes: usize, head: usize, page: u32) -> Range<usize> {
        // An unknown page must not reach into the next head's slab.
        assert!((page as usize) < self.pages, "KV page {page} of {}", self.pages);
        let start = (head * self.pages + page as usize) * page_bytes;
        start..start + page_bytes
    }
}

fn copy_in_slabs(slabs: &mut [u8], page_bytes: usize, pages: usize, from: usize, to: usize) {
    for slab in slabs.chunks_exact_mut(pages * page_bytes) {
        slab.copy_within(from * page_bytes..(from + 1) * page_bytes, to * page_bytes);
    }
}
