//! The greatest logits of a row, chosen as chunks of it are computed.
//!
//! Whoever computes a chunk of logits also notes its [`ChunkStats`], and looks for candidates only where the greatest
//! logit of the chunk is one.

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

/// Whether `a` comes before `b`: the greater logit first, of equal ones the lesser id.
fn before(a: &Candidate, b: &Candidate) -> bool {
    a.logit.total_cmp(&b.logit).then(b.token.cmp(&a.token)).is_gt()
}

/// The `k` greatest logits so far, greatest first.
#[derive(Debug)]
pub struct Best<'a> {
    k: usize,
    candidates: &'a mut Vec<Candidate>,
}

impl<'a> Best<'a> {
    /// None yet. What was in `candidates` is dropped.
    pub fn new(k: usize, candidates: &'a mut Vec<Candidate>) -> Best<'a> {
        candidates.clear();
        Best { k, candidates }
    }

    /// Those that were found before, with the same `k`.
    pub fn resume(k: usize, candidates: &'a mut Vec<Candidate>) -> Best<'a> {
        Best { k, candidates }
    }

    /// Whether a logit of this size might still be among the best, given that ids are not known to be lesser.
    pub fn admits(&self, logit: f32) -> bool {
        self.candidates.len() < self.k
            || self.candidates.last().is_some_and(|last| logit.total_cmp(&last.logit).is_ge())
    }

    /// Takes the logit if it is among the best.
    pub fn offer(&mut self, candidate: Candidate) {
        let full = self.candidates.len() == self.k;
        if full && !self.candidates.last().is_some_and(|last| before(&candidate, last)) {
            return;
        }
        let place = self.candidates.partition_point(|other| before(other, &candidate));
        if full {
            self.candidates.pop();
        }
        self.candidates.insert(place, candidate);
    }

    /// Takes those of the first `len` logits of a block that are among the best. Its first token is `token`.
    #[inline(always)]
    pub fn offer_block(&mut self, token: usize, logits: &[f32; LANES], len: usize) {
        let full = self.candidates.len() == self.k;
        let least = self.candidates.last().filter(|_| full).map_or(f32::NEG_INFINITY, |last| last.logit);
        // All at once, which takes a few instructions: most blocks have none. What is no number is no less, either.
        let mut all_less = true;
        for &logit in logits {
            all_less &= logit < least;
        }
        if all_less {
            return;
        }
        for (&logit, token) in logits[..len].iter().zip(token..) {
            if self.admits(logit) {
                self.offer(Candidate { token: token as u32, logit });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn best_are_those_that_sorting_finds(logits in prop::collection::vec(-5i8..5, 0..60), k in 0usize..12) {
            let all: Vec<Candidate> =
                logits.iter().zip(0..).map(|(&l, token)| Candidate { token, logit: f32::from(l) }).collect();
            let mut sorted = all.clone();
            sorted.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token)));
            sorted.truncate(k);
            let mut found = vec![Candidate { token: 7, logit: 99.0 }];
            let mut best = Best::new(k, &mut found);
            // In any order: here from the back.
            for &candidate in all.iter().rev() {
                if best.admits(candidate.logit) {
                    best.offer(candidate);
                }
            }
            prop_assert_eq!(found, sorted);
        }

        #[test]
        fn best_of_blocks_are_those_that_sorting_finds(
            logits in prop::collection::vec(-50i8..50, 4 * LANES),
            k in 0usize..40,
            len in 1usize..=LANES,
        ) {
            // The last block is not whole: what pads it must not be chosen.
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let tokens = 3 * LANES + len;
            let mut sorted: Vec<Candidate> =
                logits[..tokens].iter().zip(0..).map(|(&logit, token)| Candidate { token, logit }).collect();
            sorted.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token)));
            sorted.truncate(k);
            let mut found = Vec::new();
            for block in [2, 0, 3, 1] {
                let values = logits[block * LANES..].first_chunk().unwrap();
                Best::resume(k, &mut found).offer_block(block * LANES, values, (tokens - block * LANES).min(LANES));
            }
            prop_assert_eq!(found, sorted);
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
