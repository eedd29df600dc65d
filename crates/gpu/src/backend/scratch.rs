//! Buffers between the stages.

use tensor::{BackendError, Dims, LayerDims, PAGE_TOKENS};

use super::{MATVEC_ROWS, SKINNY_ROWS};
use crate::device::Gpu;
use crate::layout::UNIT;
use crate::memory::Buffer;
use crate::shaders;
use crate::weights::upload_vector;

/// Most splits of a history in decode.
const MOST_SPLITS: usize = 64;

/// The same where the histories of prefill rows are split as well.
const MOST_INVARIANT_SPLITS: usize = 4;

/// Least positions in a split.
const LEAST_SPLIT: usize = PAGE_TOKENS;

/// Buffers between the stages. Strides are in values and multiples of [`UNIT`]; what pads them stays zero.
pub(super) struct Scratch {
    /// The hidden state, `[row][dim_stride]`.
    pub(super) x: Buffer,
    pub(super) normed: Buffer,
    /// Input of the cooperative kernels, f16, `[row][halves_stride]`.
    pub(super) halves: Buffer,
    pub(super) halves_stride: usize,
    /// Input of the kernels that multiply bytes, `[row]` of [`shaders::byte_row_quads`].
    pub(super) bytes: Buffer,
    /// Rows of weights as f16, where they are unpacked before they are multiplied.
    pub(super) unpacked: Option<Buffer>,
    pub(super) qkv: Buffer,
    pub(super) o: Buffer,
    pub(super) hidden: Buffer,
    pub(super) gate_up: Buffer,
    pub(super) projected: Buffer,
    /// Partial sums of attention, `[row][split][head][head_dim + 2]`.
    pub(super) partial: Buffer,
    /// `[logit row][vocab]`.
    pub(super) logits: Buffer,
    /// The greatest logits as passes find them, in turn: see [`KeptParts`].
    pub(super) kept: [Buffer; 2],
    /// Maximum and sum of exponentials, `[logit row][list]`.
    pub(super) sums: Buffer,
    /// Mapped to read a step's results; steps take turns.
    pub(super) staging: [wgpu::Buffer; 2],
    /// Mapped to read a row of logits.
    pub(super) row_staging: wgpu::Buffer,
    /// Cosine and sine by rope: `[max_context][pairs]`.
    pub(super) turns: Vec<Buffer>,
    pub(super) dim_stride: usize,
    /// Positions in a split of a history.
    pub(super) split: usize,
    vocab: usize,
}

impl Scratch {
    pub(super) fn new(gpu: &Gpu, dims: &Dims) -> Result<Scratch, BackendError> {
        // The prefill kernels store whole tiles.
        let tile_rows = gpu.tuning.unpacked_tile.batch_rows.max(shaders::WIDE_TILE);
        let rows = dims.max_rows.max(dims.max_logit_rows).next_multiple_of(tile_rows);
        let most = |size: &dyn Fn(&LayerDims) -> usize| dims.layers.iter().map(size).max().unwrap_or(1);
        let dim_stride = dims.dim.next_multiple_of(UNIT);
        let qkv = most(&|l| (l.heads + 2 * l.kv_heads) * l.head_dim);
        let o = most(&|l| (l.heads * l.head_dim).next_multiple_of(UNIT));
        let ffn = most(&|l| l.ffn.next_multiple_of(UNIT));
        let logit_rows = match dims.max_logit_rows {
            few @ 0..=SKINNY_ROWS if gpu.variants.best().cooperative == Some(16) => few.next_multiple_of(shaders::FEW),
            few @ 0..=SKINNY_ROWS => few,
            many => many.next_multiple_of(shaders::WIDE_TILE),
        };
        let halves_stride = dim_stride.max(o).max(ffn).next_multiple_of(shaders::DEPTH);
        let invariant = gpu.options.batch_invariant;
        let most_splits = if invariant { MOST_INVARIANT_SPLITS } else { MOST_SPLITS };
        let split = dims.max_context.div_ceil(most_splits).next_multiple_of(LEAST_SPLIT).max(LEAST_SPLIT);
        let splits = dims.max_context.div_ceil(split).next_power_of_two();
        let partial = most(&|l| l.heads * (l.head_dim + 2))
            * rows.max(splits * if invariant { rows } else { rows.min(MATVEC_ROWS) });
        let lists = dims.vocab.div_ceil(shaders::SORT);
        let kept = KeptParts::new(dims.max_logit_rows.max(1), lists * shaders::MOST).end;
        let byte_rows = match gpu.variants.best().dots {
            true if invariant => rows,
            true => rows.min(gpu.tuning.dots_rows.max(MATVEC_ROWS)),
            false => 0,
        };
        let byte_quads = byte_rows * shaders::byte_row_quads(halves_stride / UNIT, gpu.subgroup_size);
        let floats = |what: &str, count: usize| gpu.heap.allocate(what, 4 * count as u64);
        let staging = |label: &str, size: usize| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: size as u64,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        Ok(Scratch {
            x: floats("x", rows * dim_stride)?,
            normed: floats("normed", rows * dim_stride)?,
            halves: gpu.heap.allocate("halves", (2 * rows * halves_stride) as u64)?,
            halves_stride,
            bytes: gpu.heap.allocate("bytes", 16 * byte_quads as u64)?,
            unpacked: match unpacked_bytes(gpu, dims) {
                0 => None,
                bytes => Some(gpu.heap.allocate("unpacked weights", bytes)?),
            },
            qkv: floats("qkv", rows * qkv)?,
            o: floats("o", rows * o)?,
            hidden: floats("hidden", rows * ffn)?,
            gate_up: floats("gate and up", 2 * rows * ffn)?,
            projected: floats("projected", rows * dim_stride)?,
            partial: floats("partial sums of attention", partial)?,
            logits: floats("logits", logit_rows * dims.vocab)?,
            kept: [floats("greatest logits", kept)?, floats("greatest logits", kept)?],
            sums: floats("sums of exponentials", 2 * lists * dims.max_logit_rows.max(1))?,
            staging: ["results", "results of every other step"]
                .map(|label| staging(label, dims.max_logit_rows.max(1) * (8 + 8 * shaders::MOST))),
            row_staging: staging("row of logits", 4 * dims.vocab),
            turns: dims.ropes.iter().map(|rope| upload_turns(gpu, rope, dims.max_context)).collect::<Result<_, _>>()?,
            dim_stride,
            split,
            vocab: dims.vocab,
        })
    }

    /// How many lists of candidates each pass leaves of a row's logits, where each keeps `keep`; the last leaves one.
    pub(super) fn lists(&self, keep: usize) -> impl Iterator<Item = usize> {
        let first = self.vocab.div_ceil(shaders::SORT);
        std::iter::successors(Some(first), move |&lists| (lists > 1).then(|| (lists * keep).div_ceil(shaders::SORT)))
    }

    /// Which of the two buffers has the result: passes take turns, beginning with 0.
    pub(super) fn last_kept(&self, keep: usize) -> &Buffer {
        &self.kept[(self.lists(keep).count() - 1) % 2]
    }
}

/// Where things lie in a buffer of the greatest logits, in words: maximum and sum of exponentials of each row, then the values
/// of all rows, then their token ids.
#[derive(Clone, Copy)]
pub(super) struct KeptParts {
    pub(super) values: usize,
    pub(super) ids: usize,
    pub(super) end: usize,
}

impl KeptParts {
    /// For `rows` rows of `candidates`.
    pub(super) fn new(rows: usize, candidates: usize) -> KeptParts {
        let values = 2 * rows;
        let ids = values + rows * candidates;
        KeptParts { values, ids, end: ids + rows * candidates }
    }
}

/// Most bytes of unpacked weights: of larger matrices a part at a time.
const MOST_UNPACKED: u64 = 256 << 20;

/// Bytes for a layer's largest matrix as f16, where prompts are long enough for it to be unpacked.
pub(crate) fn unpacked_bytes(gpu: &Gpu, dims: &Dims) -> u64 {
    if dims.max_rows < gpu.tuning.unpack_from_rows || gpu.variants.best().cooperative != Some(16) {
        return 0;
    }
    let weights =
        |layer: &LayerDims| dims.dim * (2 * layer.ffn).max((layer.heads + 2 * layer.kv_heads) * layer.head_dim);
    let most = dims.layers.iter().map(weights).max().unwrap_or(0);
    (2 * most as u64).min(MOST_UNPACKED).min(gpu.max_binding_bytes())
}

/// Cosine and sine of every position and pair.
fn upload_turns(gpu: &Gpu, rope: &tensor::Rope, positions: usize) -> Result<Buffer, BackendError> {
    let mut table = Vec::with_capacity(2 * positions * rope.inv_freq.len());
    for position in 0..positions {
        for frequency in &rope.inv_freq {
            let angle = position as f32 * frequency;
            table.push(angle.cos() * rope.magnitude);
            table.push(angle.sin() * rope.magnitude);
        }
    }
    upload_vector(gpu, &table)
}
