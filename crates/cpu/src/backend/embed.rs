//! Embedding: rows of a packed matrix become the hidden state.

use tensor::Embed;

use super::CpuBackend;
use crate::pool::Chunks;
use crate::simd::lanes::LANES;

impl CpuBackend {
    pub(super) fn embed_rows(&mut self, args: &Embed<'_, CpuBackend>) {
        let dim = self.dims.dim;
        let tokens = &self.step.tokens;
        let rows = tokens.len();
        self.hidden.reset(rows, dim);
        if rows == 0 {
            return;
        }
        let padded = dim.next_multiple_of(LANES);
        let table_rows = &mut self.table_rows;
        table_rows.resize(rows * padded, 0.0);
        let outcome = self.pool.for_each_part(&mut self.threads, Chunks::new(table_rows, padded), |_, row, out| {
            args.table.dequantize_row(tokens[row] as usize, &mut out[..dim]);
            out[dim..].fill(0.0);
            out.iter_mut().for_each(|x| *x *= args.scale);
        });
        let block_len = self.hidden.block_len();
        for (block, out) in self.hidden.values_mut().chunks_exact_mut(block_len).enumerate() {
            for (row, out) in table_rows.chunks_exact(padded).zip(out.as_chunks_mut::<LANES>().0) {
                out.copy_from_slice(&row[block * LANES..(block + 1) * LANES]);
            }
        }
        self.note(outcome);
    }
}
