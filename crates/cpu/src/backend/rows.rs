//! Rows of f32 between two stages.

use crate::simd::lanes::LANES;

/// Rows, sixteen columns at a time: `[blocks of columns][stride][LANES]`, of which the first `rows` of a stride are in
/// use. A region that computes columns writes one contiguous piece an item; columns that pad the last block are zero.
#[derive(Debug, Default)]
pub(super) struct Rows {
    values: Vec<f32>,
    width: usize,
    rows: usize,
    stride: usize,
}

impl Rows {
    /// Makes this `rows` rows of `width` columns. What was there is lost.
    pub(super) fn reset(&mut self, rows: usize, width: usize) {
        (self.rows, self.width) = (rows, width);
        // Odd, so that the blocks of a row do not all fall into the same set of the first-level cache.
        self.stride = rows | 1;
        let len = self.blocks() * self.stride * LANES;
        if self.values.len() < len {
            self.values.resize(len, 0.0);
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Floats that it has room for.
    pub(super) fn floats(&self) -> usize {
        self.values.capacity()
    }

    /// Blocks of columns.
    pub(super) fn blocks(&self) -> usize {
        self.width.div_ceil(LANES)
    }

    /// Values from one block to the next.
    pub(super) fn block_len(&self) -> usize {
        self.stride * LANES
    }

    /// All blocks.
    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        let len = self.blocks() * self.block_len();
        &mut self.values[..len]
    }

    /// One block: the rows that are in use.
    pub(super) fn block(&self, block: usize) -> &[[f32; LANES]] {
        let start = block * self.block_len();
        self.values[start..start + self.rows * LANES].as_chunks().0
    }

    /// Copies a row into `out`, which is padded to whole blocks.
    #[inline(always)]
    pub(super) fn gather(&self, row: usize, out: &mut [f32]) {
        let blocks = self.values.chunks_exact(self.block_len());
        for (out, block) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(blocks) {
            out.copy_from_slice(&block[row * LANES..(row + 1) * LANES]);
        }
    }

    /// Keeps only some rows, given in ascending order.
    pub(super) fn keep(&mut self, rows: &[u32]) {
        let old_len = self.block_len();
        let blocks = self.blocks();
        self.rows = rows.len();
        self.stride = self.rows | 1;
        for block in 0..blocks {
            for (to, &from) in rows.iter().enumerate() {
                // Never ahead of what is still to be read: rows and blocks both ascend, and move down.
                let from = block * old_len + from as usize * LANES;
                self.values.copy_within(from..from + LANES, block * self.stride * LANES + to * LANES);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_rows_are_the_old_ones() {
        let mut rows = Rows::default();
        rows.reset(5, 40);
        let block_len = rows.block_len();
        for (i, x) in rows.values_mut().iter_mut().enumerate() {
            *x = (i / block_len * 100 + i % block_len / LANES) as f32;
        }
        rows.keep(&[1, 2, 4]);
        let mut row = vec![0.0; 48];
        for (index, old) in [1.0, 2.0, 4.0].into_iter().enumerate() {
            rows.gather(index, &mut row);
            let blocks: Vec<f32> = row.chunks(LANES).map(|block| block[3]).collect();
            assert_eq!(blocks, [old, 100.0 + old, 200.0 + old]);
        }
    }
}
