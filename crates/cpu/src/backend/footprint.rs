//! What a network will take, from its sizes alone: the sums of what `configure`, `prepare_matrix` and the largest step
//! allocate.

use tensor::{Dims, Footprint, LayerDims, MatrixShape};

use super::CpuBackend;
use super::logits;
use super::project::{Cut, run_items};
use crate::activation::{Activations, Forms};
use crate::pack::PackedMatrix;
use crate::simd::lanes::LANES;

impl CpuBackend {
    pub(super) fn predict(&self, dims: &Dims, matrices: &[MatrixShape]) -> Footprint {
        let (mut weight_bytes, mut input_bytes) = (0, 0);
        for MatrixShape { parts, cols, .. } in matrices {
            let (packed_bytes, forms) = PackedMatrix::predict(parts, *cols, self.isa);
            weight_bytes += packed_bytes as u64;
            input_bytes = input_bytes.max(self.input_bytes(forms, dims.max_rows, *cols));
        }
        Footprint { weight_bytes, scratch_bytes: input_bytes + 4 * self.scratch_values(dims) as u64 }
    }

    /// Rows of the widest step in the forms that a matrix reads.
    fn input_bytes(&self, forms: Forms, rows: usize, cols: usize) -> u64 {
        Activations::predict_bytes(forms, rows, cols) as u64
    }

    /// Floats of a step's rows, of the products that each thread has at a time, and of the logits.
    fn scratch_values(&self, dims: &Dims) -> usize {
        let padded = |width: usize| width.next_multiple_of(LANES);
        let most = |size: fn(&LayerDims) -> usize| dims.layers.iter().map(size).max().unwrap_or(0);
        let (dim, ffn) = (padded(dims.dim), padded(most(|layer| layer.ffn)));
        let queries = most(|layer| layer.heads * layer.head_dim.next_multiple_of(LANES));
        let angles: usize = dims.ropes.iter().map(|rope| 2 * rope.inv_freq.len()).sum();
        // The table's row, hidden state, results before their norm and its factor (never touched in networks without such
        // norms), gated half of the MLP, queries, outputs of attention, angles.
        let row = 3 * dim + 1 + ffn + 2 * queries + angles;
        let threads = self.pool.threads();
        let head = padded(most(|layer| layer.head_dim));
        let products_of = |rows: usize| {
            let of = |columns: usize, panels: usize| Cut::products(columns.div_ceil(LANES), panels, rows, threads);
            let logit_rows = rows.min(dims.max_logit_rows);
            let logits = run_items(logits::ITEM_COLUMNS, logit_rows.max(1)) * logits::ITEM_COLUMNS * logit_rows;
            of(ffn, 2).max(of(dim, 1)).max(logits).max(head * rows)
        };
        // Few rows in long runs may have more of them than the most rows.
        let products = (1..=dims.max_rows).map(products_of).max().unwrap_or(0);
        dims.max_rows * row + dims.max_logit_rows * padded(dims.vocab) + threads * products
    }
}
