//! What a network will take on the device, from its sizes alone.

use tensor::{Dims, Footprint, LayerDims, MatrixShape};

use crate::layout::{RowLayout, UNIT};
use crate::memory::SHARED_BYTES;
use crate::shaders::{MOST, SORT};
use crate::weights::device_format;

/// Bytes of the matrices as they are laid out, and of the buffers that a model's scratch is, `unpacked` among them.
pub(crate) fn predict(dims: &Dims, matrices: &[MatrixShape], unpacked: u64) -> Footprint {
    let part_bytes = |cols: usize, &(format, rows): &(tensor::Format, usize)| {
        (rows * RowLayout::new(device_format(format), cols).stride_bytes) as u64
    };
    let matrix_bytes =
        |matrix: &MatrixShape| matrix.parts.iter().map(|part| part_bytes(matrix.cols, part)).sum::<u64>();
    let weight_bytes = matrices.iter().map(matrix_bytes).sum();
    // The block that small weights share may have room left.
    Footprint { weight_bytes, scratch_bytes: scratch_bytes(dims) + unpacked + SHARED_BYTES }
}

/// The large buffers of the backend's scratch memory.
fn scratch_bytes(dims: &Dims) -> u64 {
    let most = |size: fn(&LayerDims) -> usize| dims.layers.iter().map(size).max().unwrap_or(1);
    let dim = dims.dim.next_multiple_of(UNIT);
    let qkv = most(|l| (l.heads + 2 * l.kv_heads) * l.head_dim);
    let o = most(|l| l.heads * l.head_dim).next_multiple_of(UNIT);
    let ffn = most(|l| l.ffn).next_multiple_of(UNIT);
    let partial = most(|l| l.heads * (l.head_dim + 2));
    // x, normed, projected; q, k, v; attention's output and partial states; gate, up and their product; halves.
    let row = 3 * dim + qkv + o + partial + 3 * ffn + dim.max(o).max(ffn) / 2;
    let turns: usize = dims.ropes.iter().map(|rope| 2 * rope.inv_freq.len()).sum();
    // Logits, and two lists of the greatest of them, values and ids.
    let logits = (dims.vocab + 4 * MOST * dims.vocab.div_ceil(SORT)) * dims.max_logit_rows;
    4 * (dims.max_rows * row + dims.max_context * turns + logits) as u64
}
