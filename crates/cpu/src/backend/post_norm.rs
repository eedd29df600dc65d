//! What a projection gives where it is normed before it is added to the hidden state.

use tensor::Norm;

use super::Vector;
use super::inputs::{Floats, ThreadScratch};
use super::rows::Rows;
use crate::isa::Isa;
use crate::ops::norm::inverse_rms;
use crate::pool::{Chunks, Pool, RegionPanic};
use crate::simd::lanes::LANES;
use crate::simd::{Kernel, Simd};

/// Values that one thread norms and adds sooner than it could tell others about them, which takes two regions.
const FEW_VALUES: usize = 16 << 10;

/// Rows whose factors a thread computes at a time.
const ITEM_ROWS: usize = 16;

/// What a projection gives before its norm: `dim` columns.
#[derive(Debug, Default)]
pub(super) struct Update {
    pub(super) rows: Rows,
    /// What each row is multiplied with: 1 / its root mean square.
    factors: Floats,
}

impl Update {
    /// Floats that it has room for.
    pub(super) fn floats(&self) -> usize {
        self.rows.floats() + self.factors.capacity()
    }

    /// hidden += norm(update), row by row.
    pub(super) fn add_normed(
        &mut self,
        isa: Isa,
        norm: &Norm<Vector>,
        hidden: &mut Rows,
        pool: &Pool,
        threads: &mut [ThreadScratch],
    ) -> Result<(), RegionPanic> {
        let Update { rows: update, factors } = self;
        let rows = update.rows();
        let factors = factors.room(rows);
        let update = &*update;
        let block_len = hidden.block_len();
        if rows * norm.weight.width <= FEW_VALUES {
            isa.dispatch(Factors { update, norm, first_row: 0, row: &mut threads[0].row, factors });
            isa.dispatch(AddScaled { update, norm, factors, first_block: 0, block_len, part: hidden.values_mut() });
            return Ok(());
        }
        pool.for_each_part(threads, Chunks::new(factors, ITEM_ROWS), |thread, item, factors| {
            isa.dispatch(Factors { update, norm, first_row: item * ITEM_ROWS, row: &mut thread.row, factors });
        })?;
        let factors = &*factors;
        pool.for_each_part(threads, Chunks::new(hidden.values_mut(), block_len), |_, first_block, part| {
            isa.dispatch(AddScaled { update, norm, factors, first_block, block_len, part });
        })
    }
}

/// The factors of some rows.
struct Factors<'a> {
    update: &'a Rows,
    norm: &'a Norm<Vector>,
    first_row: usize,
    /// Scratch for a row, padded.
    row: &'a mut Vec<f32>,
    factors: &'a mut [f32],
}

impl Kernel for Factors<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Norm { weight, eps, .. } = self.norm;
        self.row.resize(weight.values.len(), 0.0);
        for (row, factor) in (self.first_row..).zip(self.factors) {
            self.update.gather(row, self.row);
            *factor = inverse_rms(s, self.row, weight.width, *eps);
        }
    }
}

/// hidden += update * factor of the row * weight of the column, for some blocks of columns.
struct AddScaled<'a> {
    update: &'a Rows,
    norm: &'a Norm<Vector>,
    /// One a row.
    factors: &'a [f32],
    first_block: usize,
    block_len: usize,
    /// Blocks of the hidden state.
    part: &'a mut [f32],
}

impl Kernel for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let weights = self.norm.weight.values.as_chunks::<LANES>().0;
        for (block, hidden) in (self.first_block..).zip(self.part.chunks_exact_mut(self.block_len)) {
            let weight = s.load(&weights[block]);
            let rows = hidden.as_chunks_mut::<LANES>().0.iter_mut().zip(self.update.block(block)).zip(self.factors);
            for ((hidden, x), factor) in rows {
                let x = s.mul(s.mul(s.load(x), s.splat(*factor)), weight);
                s.store(s.add(s.load(hidden), x), hidden);
            }
        }
    }
}
