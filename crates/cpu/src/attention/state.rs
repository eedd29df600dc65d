//! The state of a softmax on its way, and how two become one.

use super::Shape;
use crate::simd::lanes::LANES;
use crate::simd::{Kernel, Simd, math};

/// The states of an item's queries: of the chunk at work, and of all chunks before.
#[derive(Debug, Default)]
pub(super) struct States {
    /// Greatest score of the chunk so far.
    pub(super) greatest: Vec<f32>,
    /// Sum of exp(score - greatest), by lane.
    pub(super) sums: Vec<[f32; LANES]>,
    /// Sum of exp(score - greatest) * value: `[queries][padded_dim]`.
    pub(super) outputs: Vec<f32>,
    total: Vec<Total>,
    total_outputs: Vec<f32>,
}

/// What is known of a row after some chunks, besides its outputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Total {
    pub(super) greatest: f32,
    pub(super) sum: f32,
}

impl Total {
    const NOTHING: Total = Total { greatest: f32::NEG_INFINITY, sum: 0.0 };
}

/// Length of the partial state of one query: outputs, greatest score, sum.
pub(super) fn partial_len(shape: &Shape) -> usize {
    shape.padded_dim() + 2
}

impl States {
    /// Nothing seen by any of `queries`.
    pub(super) fn reset(&mut self, queries: usize, padded_dim: usize) {
        self.start_chunk(queries, padded_dim);
        self.total.clear();
        self.total.resize(queries, Total::NOTHING);
        self.total_outputs.resize(queries * padded_dim, 0.0);
    }

    /// Nothing seen of the chunk.
    pub(super) fn start_chunk(&mut self, queries: usize, padded_dim: usize) {
        self.greatest.clear();
        self.greatest.resize(queries, f32::NEG_INFINITY);
        self.sums.clear();
        self.sums.resize(queries, [0.0; LANES]);
        self.outputs.clear();
        self.outputs.resize(queries * padded_dim, 0.0);
    }

    /// Folds the chunk into the total.
    #[inline(always)]
    pub(super) fn fold_chunk<S: Simd>(&mut self, s: S, padded_dim: usize) {
        let outputs = self.outputs.chunks_exact(padded_dim).zip(self.total_outputs.chunks_exact_mut(padded_dim));
        let parts = self.total.iter_mut().zip(&self.greatest).zip(&self.sums);
        for (((total, &greatest), sums), (output, total_output)) in parts.zip(outputs) {
            fold(s, total, total_output, Total { greatest, sum: s.sum(s.load(sums)) }, output);
        }
    }

    /// The finished rows: `[queries][padded_dim]`.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(&self, s: S, padded_dim: usize, out: &mut [f32]) {
        let outputs = self.total_outputs.chunks_exact(padded_dim).zip(out.chunks_exact_mut(padded_dim));
        for (total, (output, out)) in self.total.iter().zip(outputs) {
            scale(s, output, 1.0 / total.sum, out);
        }
    }

    /// The state of the chunk, as [`Merge`] reads it: `[queries][partial_len]`.
    #[inline(always)]
    pub(super) fn write_partials<S: Simd>(&self, s: S, padded_dim: usize, out: &mut [f32]) {
        let states = self.greatest.iter().zip(&self.sums).zip(self.outputs.chunks_exact(padded_dim));
        for (((greatest, sums), output), out) in states.zip(out.chunks_exact_mut(padded_dim + 2)) {
            out[..padded_dim].copy_from_slice(output);
            out[padded_dim] = *greatest;
            out[padded_dim + 1] = s.sum(s.load(sums));
        }
    }
}

/// Folds a chunk into what is known. A chunk in which nothing was visible changes nothing: its sum is zero, while that of
/// others is 1 and more, or no number.
#[inline(always)]
fn fold<S: Simd>(s: S, total: &mut Total, total_output: &mut [f32], chunk: Total, output: &[f32]) {
    if chunk.sum == 0.0 {
        return;
    }
    if total.sum == 0.0 {
        *total = chunk;
        total_output.copy_from_slice(output);
        return;
    }
    let greatest = total.greatest.max(chunk.greatest);
    let old = exp(s, total.greatest - greatest);
    let new = exp(s, chunk.greatest - greatest);
    *total = Total { greatest, sum: total.sum * old + chunk.sum * new };
    let (old, new) = (s.splat(old), s.splat(new));
    let output = output.as_chunks::<LANES>().0;
    for (total, output) in total_output.as_chunks_mut::<LANES>().0.iter_mut().zip(output) {
        s.store(s.fma(s.load(output), new, s.mul(s.load(total), old)), total);
    }
}

#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: f32) -> f32 {
    s.greatest(math::exp(s, s.splat(x)))
}

#[inline(always)]
fn scale<S: Simd>(s: S, from: &[f32], factor: f32, to: &mut [f32]) {
    let factor = s.splat(factor);
    for (from, to) in from.as_chunks::<LANES>().0.iter().zip(to.as_chunks_mut::<LANES>().0) {
        s.store(s.mul(s.load(from), factor), to);
    }
}

/// Folds the partial states of some rows, chunk by chunk, into finished rows.
#[derive(Debug)]
pub struct Merge<'a> {
    /// `[chunks][queries][partial_len]`
    pub partials: &'a [f32],
    /// How many.
    pub chunks: usize,
    /// Padded head dimension.
    pub padded_dim: usize,
    /// `[queries][padded_dim]`
    pub out: &'a mut [f32],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.padded_dim;
        let chunk_len = self.partials.len() / self.chunks;
        for (query, out) in self.out.chunks_exact_mut(dim).enumerate() {
            let mut total = Total::NOTHING;
            for chunk in self.partials.chunks_exact(chunk_len) {
                let state = &chunk[query * (dim + 2)..(query + 1) * (dim + 2)];
                fold(s, &mut total, out, Total { greatest: state[dim], sum: state[dim + 1] }, &state[..dim]);
            }
            let factor = s.splat(1.0 / total.sum);
            for out in out.as_chunks_mut::<LANES>().0 {
                s.store(s.mul(s.load(out), factor), out);
            }
        }
    }
}
