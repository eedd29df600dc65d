//! Attention with the textbook softmax: all scores of a row, their greatest, their exponentials, their sum, then the
//! values.

use tensor::PAGE_TOKENS;

use super::entries::pack_queries;
use super::{Scratch, Task, tile};
use crate::simd::lanes::LANES;
use crate::simd::{Simd, math};

/// Computes finished rows `[rows][group][padded_dim]`.
#[inline(always)]
pub(super) fn attend<S: Simd>(s: S, task: &Task<'_>, scratch: &mut Scratch, out: &mut [f32]) {
    let dim = task.shape.padded_dim();
    let pages = task.pages.first..task.pages.end;
    for (query, out) in out.chunks_exact_mut(dim).enumerate() {
        let Scratch { row: scores, packed, .. } = scratch;
        packed.clear();
        pack_queries(task.kv.key_layout(), &[task.query(query)], task.shape.scale, packed);
        scores.clear();
        scores.resize(pages.len() * PAGE_TOKENS, f32::NEG_INFINITY);
        for (page, scores) in pages.clone().zip(scores.as_chunks_mut::<PAGE_TOKENS>().0) {
            tile::scores_of_one(s, task, query, packed, page, scores);
        }
        let mut greatest = s.splat(f32::NEG_INFINITY);
        for scores in scores.as_chunks::<LANES>().0 {
            greatest = s.max(s.load(scores), greatest);
        }
        let greatest = s.splat(s.greatest(greatest));
        let mut sum = s.splat(0.0);
        for scores in scores.as_chunks_mut::<LANES>().0 {
            let score = s.load(scores);
            let hidden = s.less(score, s.splat(f32::MIN));
            let weight = s.select(hidden, s.splat(0.0), math::exp_or_nan(s, s.sub(score, greatest)));
            sum = s.add(sum, weight);
            s.store(weight, scores);
        }
        let factor = s.splat(1.0 / s.sum(sum));
        for scores in scores.as_chunks_mut::<LANES>().0 {
            s.store(s.mul(s.load(scores), factor), scores);
        }
        out.fill(0.0);
        for (page, weights) in pages.clone().zip(scores.as_chunks::<PAGE_TOKENS>().0) {
            tile::add_values_of_one(s, task, query, page, weights, out);
        }
    }
}
