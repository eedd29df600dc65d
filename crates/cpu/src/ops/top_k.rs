//! The greatest logits of a row, chosen as chunks of it are computed.
//!
//! Whoever computes a chunk of logits also notes its [`ChunkStats`], and looks for candidates only where the greatest
//! logit of the chunk is one.

use std::cmp::Ordering;

use tensor::Candidate;

use crate::simd::lanes::LANES;

/// What is known of a chunk of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChunkStats {
    /// Its greatest logit.
    pub greatest: f32,
    /// Sum of exp(logit - greatest).
    pub exp_sum: f32,
}

impl Default for ChunkStats {
    fn default() -> Self {
        ChunkStats { greatest: f32::NEG_INFINITY, exp_sum: 0.0 }
    }
}

/// ln(sum(exp(logit))) of a row. Not finite where a logit is not.
pub fn log_sum_exp(chunks: impl Iterator<Item = ChunkStats> + Clone) -> f32 {
    let greatest = chunks.clone().map(|chunk| chunk.greatest).fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = chunks
        .filter(|chunk| chunk.exp_sum != 0.0)
        .map(|chunk| f64::from(chunk.exp_sum) * f64::from(chunk.greatest - greatest).exp())
        .sum();
    (f64::from(greatest) + sum.ln()) as f32
}

/// Which comes first: the greater logit, of equal ones the lesser id.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// Leaves the `k` greatest in any order, the last of them at the end if there were more.
fn keep_greatest(k: usize, candidates: &mut Vec<Candidate>) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k.saturating_sub(1), order);
        candidates.truncate(k);
    }
}

/// The `k` greatest logits of those that were offered, among some others.
#[derive(Debug)]
pub struct Best {
    k: usize,
    candidates: Vec<Candidate>,
    /// Once there were `k`: a logit that so many are not less than.
    least: f32,
}

impl Default for Best {
    fn default() -> Best {
        Best::new(0, Vec::new())
    }
}

impl Best {
    /// None yet. What was in `candidates` is dropped.
    pub fn new(k: usize, candidates: Vec<Candidate>) -> Best {
        let mut best = Best { k, candidates, least: f32::NEG_INFINITY };
        best.reset(k);
        best
    }

    /// None again. Takes memory now for all that it will ever hold.
    pub fn reset(&mut self, k: usize) {
        (self.k, self.least) = (k, f32::NEG_INFINITY);
        self.candidates.clear();
        self.candidates.reserve_exact(if k == 0 { 0 } else { self.most() });
    }

    /// How many may gather before the greatest are selected, and a block beside them.
    fn most(&self) -> usize {
        2 * (self.k + LANES)
    }

    /// Whether a logit of this size might be among the best.
    #[inline(always)]
    pub fn admits(&self, logit: f32) -> bool {
        self.k > 0 && !self.is_less(logit)
    }

    /// What is no number is not less.
    #[inline(always)]
    fn is_less(&self, logit: f32) -> bool {
        logit < self.least
    }

    /// Takes those of the first `len` logits of a block that may be among the best. Its first token is `token`.
    #[inline(always)]
    pub fn offer_block(&mut self, token: usize, logits: &[f32; LANES], len: usize) {
        // All at once, which takes a few instructions: most blocks have none.
        let mut all_less = true;
        for &logit in logits {
            all_less &= self.is_less(logit);
        }
        if all_less {
            return;
        }
        for (&logit, token) in logits[..len].iter().zip(token..) {
            if !self.is_less(logit) {
                self.candidates.push(Candidate { token: token as u32, logit });
            }
        }
        if self.candidates.len() + LANES > self.most() {
            keep_greatest(self.k, &mut self.candidates);
            self.least = self.candidates.last().map_or(f32::NEG_INFINITY, |last| last.logit);
        }
    }

    /// The best alone, greatest first.
    pub fn into_greatest(self) -> Vec<Candidate> {
        let Best { k, mut candidates, .. } = self;
        keep_greatest(k, &mut candidates);
        candidates.sort_unstable_by(order);
        candidates
    }

    /// The `k` greatest of what was offered to several, each of which keeps as many or more. Greatest first.
    pub fn merge<'a>(k: usize, parts: impl Iterator<Item = &'a Best>, out: &mut Vec<Candidate>) {
        out.clear();
        for part in parts {
            // For all that it might have, so that no later step has to take memory.
            out.reserve(part.most());
            out.extend_from_slice(&part.candidates);
            keep_greatest(k, out);
        }
        out.sort_unstable_by(order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn best_are_those_that_sorting_finds(
            logits in prop::collection::vec(-50i8..50, 20 * LANES),
            k in 0usize..100,
            len in 1usize..=LANES,
            parts in 1usize..4,
        ) {
            // The last block is not whole: what pads it must not be chosen.
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let tokens = 19 * LANES + len;
            let mut sorted: Vec<Candidate> =
                logits[..tokens].iter().zip(0..).map(|(&logit, token)| Candidate { token, logit }).collect();
            sorted.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token)));
            sorted.truncate(k);
            let mut best: Vec<Best> = (0..parts).map(|_| Best::new(k, Vec::new())).collect();
            let memory: Vec<usize> = best.iter().map(|best| best.candidates.capacity()).collect();
            // In any order: here each part from the back.
            for block in (0..20).rev() {
                let values: &[f32; LANES] = logits[block * LANES..].first_chunk().unwrap();
                let len = (tokens - block * LANES).min(LANES);
                let best = &mut best[block % parts];
                if values[..len].iter().any(|&logit| best.admits(logit)) {
                    best.offer_block(block * LANES, values, len);
                }
            }
            for (best, memory) in best.iter().zip(memory) {
                prop_assert_eq!(best.candidates.capacity(), memory);
            }
            let mut found = vec![Candidate { token: 7, logit: 99.0 }];
            Best::merge(k, best.iter(), &mut found);
            prop_assert_eq!(&found, &sorted);
            sorted.truncate(k / 2);
            Best::merge(k / 2, best.iter(), &mut found);
            prop_assert_eq!(&found, &sorted);
        }
    }

    #[test]
    fn log_sum_exp_of_chunks_is_that_of_the_row() {
        let chunk = |logits: &[f32]| {
            let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            ChunkStats { greatest, exp_sum: logits.iter().map(|l| (l - greatest).exp()).sum() }
        };
        let found = log_sum_exp([chunk(&[1.0, 2.0]), ChunkStats::default(), chunk(&[100.0, 3.0])].into_iter());
        assert_eq!(found, 100.0);
        let found = log_sum_exp([chunk(&[0.0, 0.0]), chunk(&[0.0, 0.0])].into_iter());
        assert!((found - 4.0f32.ln()).abs() < 1e-6);
    }
}
