//! The output head, and what sampling wants to know of it.

use std::ops::Range;

use tensor::{Logits, Role, TopK};

use super::CpuBackend;
use super::inputs::{RowSource, Source, ThreadScratch};
use super::project::{product, run_items};
use super::rows::Rows;
use crate::ops::top_k::{Best, ChunkStats, log_sum_exp};
use crate::pool::{Chunks, RegionPanic};
use crate::simd::lanes::LANES;
use crate::simd::{Kernel, Simd, math};

/// Blocks of sixteen logits in an item. Fixed, so that sums over a chunk do not depend on the number of threads.
const ITEM_BLOCKS: usize = 8;

/// Logits of a row in an item.
pub(super) const ITEM_COLUMNS: usize = ITEM_BLOCKS * LANES;

/// The logits of a step.
#[derive(Debug, Default)]
pub(super) struct HeadOutput {
    logits: Rows,
    /// `[chunks][rows]`
    stats: Vec<ChunkStats>,
    /// How many of a row's greatest logits each thread kept as it computed the row, in [`ThreadScratch::best`].
    kept: usize,
    /// How many were asked for after the last step: the next one is likely to be asked for as many.
    expected: usize,
    row: Vec<f32>,
}

impl CpuBackend {
    pub(super) fn project_logits(&mut self, args: &Logits<'_, CpuBackend>) {
        let rows = if self.is_idle() { 0 } else { self.step.rows() };
        self.head.logits.reset(rows, self.dims.vocab);
        if rows == 0 {
            return;
        }
        let outcome = self.run_head(args);
        self.note(outcome);
    }

    /// The `k` greatest logits of each row of the step, a row an item.
    pub(super) fn choose_candidates(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), RegionPanic> {
        let k = k.min(self.dims.vocab);
        self.head.expected = k;
        let (head, threads, vocab) = (&self.head, &self.threads, self.dims.vocab);
        out.resize_with(head.logits.rows(), TopK::default);
        let mut no_scratch = vec![(); self.pool.threads()];
        self.pool.for_each_part(&mut no_scratch, Chunks::new(out, 1), |(), row, out| {
            let TopK { candidates, log_sum_exp } = &mut out[0];
            *log_sum_exp = head.log_sum_exp(row);
            if k <= head.kept {
                Best::merge(k, threads.iter().map(|thread| &thread.best[row]), candidates);
            } else {
                *candidates = head.search(row, vocab, Best::new(k, std::mem::take(candidates))).into_greatest();
            }
        })
    }

    fn run_head(&mut self, args: &Logits<'_, CpuBackend>) -> Result<(), RegionPanic> {
        let source = Source {
            rows: RowSource::Blocks(&self.hidden),
            norm: Some(args.norm),
            width: self.dims.dim,
            forms: args.weight.forms(),
        };
        if let Some(importance) = &mut self.importance {
            importance.add(0, Role::Head, &source, self.isa);
        }
        let ready = self.inputs.prepare(&source, &self.pool, &mut self.threads)?;
        let (isa, rows, vocab, panel_rows) = (self.isa, ready.rows(), self.dims.vocab, args.weight.panel_rows());
        let HeadOutput { logits, stats, kept, expected, .. } = &mut self.head;
        *kept = std::mem::take(expected);
        for ThreadScratch { best, .. } in &mut self.threads {
            best.resize_with(best.len().max(rows), Best::default);
            best[..rows].iter_mut().for_each(|best| best.reset(*kept));
        }
        let block_len = logits.block_len();
        let chunks = logits.blocks().div_ceil(ITEM_BLOCKS);
        stats.clear();
        stats.resize(chunks * rows, ChunkStats::default());
        let parts = (Chunks::new(logits.values_mut(), ITEM_BLOCKS * block_len), Chunks::new(stats, rows));
        let most_items = run_items(ITEM_COLUMNS, rows);
        self.pool.for_each_run(&mut self.threads, parts, most_items, |thread, items, (part, stats)| {
            let first_token = items.start * ITEM_COLUMNS;
            let first_panel = first_token / panel_rows;
            let panels = part.len() / block_len * LANES / panel_rows;
            let panels = first_panel..args.weight.panels().min(first_panel + panels);
            let (activations, rest) = ready.on(thread);
            let products = rest.products.room(panels.len() * rows * panel_rows);
            args.weight.multiply(panels, activations, products);
            let products = products.chunks(ITEM_COLUMNS * rows);
            let parts = part.chunks_mut(ITEM_BLOCKS * block_len).zip(stats.chunks_mut(rows));
            for (item, ((part, stats), products)) in items.zip(parts.zip(products)) {
                let (tokens, soft_cap) = (item * ITEM_COLUMNS..vocab, args.soft_cap);
                let best = &mut rest.best[..rows];
                isa.dispatch(FinishLogits { products, panel_rows, block_len, tokens, soft_cap, part, stats, best });
            }
        })
    }
}

struct FinishLogits<'a> {
    /// `[panels][rows][panel_rows]`
    products: &'a [f32],
    panel_rows: usize,
    block_len: usize,
    /// From the first token of the item to the end of the vocabulary.
    tokens: Range<usize>,
    soft_cap: Option<f32>,
    /// Blocks of logits.
    part: &'a mut [f32],
    /// One a row.
    stats: &'a mut [ChunkStats],
    /// One a row.
    best: &'a mut [Best],
}

impl Kernel for FinishLogits<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.stats.len();
        let nothing = s.splat(f32::NEG_INFINITY);
        for (row, (stats, best)) in self.stats.iter_mut().zip(self.best).enumerate() {
            let mut greatest = nothing;
            for (block, out) in self.part.chunks_exact_mut(self.block_len).enumerate() {
                let mut x = product(s, self.products, self.panel_rows, rows, block, row);
                if let Some(cap) = self.soft_cap {
                    x = math::soft_cap(s, x, cap);
                }
                // Columns that pad the vocabulary must not be chosen.
                let left = self.tokens.len().saturating_sub(block * LANES);
                x = s.select(s.lanes_between(0, left), x, nothing);
                greatest = s.max(x, greatest);
                s.store(x, &mut out.as_chunks_mut::<LANES>().0[row]);
            }
            stats.greatest = s.greatest(greatest);
            let (mut sum, greatest) = (s.splat(0.0), s.splat(stats.greatest));
            for (block, out) in self.part.chunks_exact(self.block_len).enumerate() {
                let logit = s.load(&out.as_chunks::<LANES>().0[row]);
                // What is no number makes the sum none: neither the maximum nor `exp` keeps it.
                let x = s.add(math::exp(s, s.sub(logit, greatest)), s.sub(logit, logit));
                let left = self.tokens.len().saturating_sub(block * LANES);
                sum = s.add(sum, s.select(s.lanes_between(0, left), x, s.splat(0.0)));
            }
            stats.exp_sum = s.sum(sum);
            // Of what is no number, some may be passed over: the sum tells of it.
            if best.admits(stats.greatest) {
                for (block, out) in self.part.chunks_exact(self.block_len).enumerate() {
                    let left = self.tokens.len().saturating_sub(block * LANES);
                    let logits = &out.as_chunks::<LANES>().0[row];
                    best.offer_block(self.tokens.start + block * LANES, logits, left.min(LANES));
                }
            }
        }
    }
}

impl HeadOutput {
    /// Floats that it has room for.
    pub(super) fn floats(&self) -> usize {
        self.logits.floats() + self.row.capacity()
    }

    fn log_sum_exp(&self, row: usize) -> f32 {
        log_sum_exp(self.stats.iter().skip(row).step_by(self.logits.rows()).copied())
    }

    /// The greatest logits of a row of which fewer were kept.
    fn search(&self, row: usize, vocab: usize, mut best: Best) -> Best {
        let chunks = self.stats.iter().skip(row).step_by(self.logits.rows());
        for (chunk, stats) in chunks.enumerate() {
            if !best.admits(stats.greatest) {
                continue;
            }
            for block in chunk * ITEM_BLOCKS..self.logits.blocks().min((chunk + 1) * ITEM_BLOCKS) {
                let (first, logits) = (block * LANES, &self.logits.block(block)[row]);
                best.offer_block(first, logits, (vocab - first).min(LANES));
            }
        }
        best
    }

    /// All logits of a row.
    pub(super) fn row(&mut self, row: usize, vocab: usize) -> &[f32] {
        self.row.resize(vocab.next_multiple_of(LANES), 0.0);
        self.logits.gather(row, &mut self.row);
        &self.row[..vocab]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn a_logit_that_is_no_number_is_seen_in_the_sum() {
        for isa in Isa::available() {
            let logits = [(1.0, false), (f32::NAN, true), (-f32::NAN, true), (f32::INFINITY, true)];
            for ((logit, is_seen), soft_cap) in logits.into_iter().flat_map(|of| [(of, None), (of, Some(30.0))]) {
                // 20 columns: the last block is padded, here with what must not count.
                let mut products = [f32::NAN; 2 * LANES];
                products[..20].fill(0.5);
                products[18] = logit;
                let (mut part, mut stats) = ([0.0; 2 * LANES], [ChunkStats::default()]);
                let mut best = [Best::new(LANES + 4, Vec::new())];
                isa.dispatch(FinishLogits {
                    products: &products,
                    panel_rows: LANES,
                    block_len: LANES,
                    tokens: 0..20,
                    soft_cap,
                    part: &mut part,
                    stats: &mut stats,
                    best: &mut best,
                });
                // As many as were asked for, so all of the 20: none of what pads them.
                let [best] = best;
                let chosen = best.into_greatest();
                assert!(chosen.len() == 20 && chosen.iter().all(|chosen| chosen.token < 20), "{isa}: {chosen:?}");
                let sum = log_sum_exp(stats.into_iter());
                assert_eq!(sum.is_finite(), !is_seen, "{isa}, {logit}, {soft_cap:?}: {sum}");
            }
        }
    }
}
