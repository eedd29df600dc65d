//! Sequences of random tokens on a decoder, whose steps are timed: prefill and decode behind a context of any depth.
//!
//! The context is not computed: how long a step takes does not depend on what the cache holds, so one page is computed
//! and copied to all others. What a step computes is what the engine's runner asks for: logits of the last token of
//! each sequence, and the greatest of them.

use std::time::{Duration, Instant};

use model::Decoder;
use tensor::{Backend, BackendError, Batch, Format, LIKELIEST, PAGE_TOKENS, SeqRows, TopK};

/// Sequences with a KV cache of their own.
pub(super) struct Sequences<'d, B: Backend> {
    decoder: &'d mut Decoder<B>,
    /// `[seqs][groups][pages]`.
    tables: Vec<u32>,
    groups: usize,
    pages: usize,
    /// Of the last step.
    best: Vec<TopK>,
    random: u32,
}

/// Rows of one sequence in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    seq: usize,
    past: usize,
    rows: usize,
    /// Whether the last of them is the last of the prompt.
    is_last: bool,
}

impl<'d, B: Backend> Sequences<'d, B> {
    /// Gives `seqs` sequences pages for `tokens` tokens each, all of them written.
    ///
    /// # Errors
    /// Those of the backend.
    pub(super) fn new(
        decoder: &'d mut Decoder<B>,
        seqs: usize,
        tokens: usize,
        (keys, values): (Format, Format),
    ) -> Result<Self, BackendError> {
        let pages = tokens.div_ceil(PAGE_TOKENS).max(1);
        let groups = decoder.kv_groups().len();
        decoder.allocate_kv(&decoder.kv_spec(keys, values, &vec![seqs * pages; groups]))?;
        let table = |table: usize| (table / groups * pages..).take(pages).map(|page| page as u32);
        let tables = (0..seqs * groups).flat_map(table).collect();
        let mut sequences = Sequences { decoder, tables, groups, pages, best: Vec::new(), random: 1 };
        sequences.prefill(1, 0, PAGE_TOKENS)?;
        for group in 0..groups {
            for page in 1..seqs * pages {
                sequences.decoder.copy_page(group, 0, page as u32)?;
            }
        }
        Ok(sequences)
    }

    /// Time of computing `tokens` tokens behind `depth` in each of `seqs` sequences, as many rows a step as the decoder
    /// takes.
    pub(super) fn prefill(&mut self, seqs: usize, depth: usize, tokens: usize) -> Result<Duration, BackendError> {
        let steps = prefill_steps(seqs, depth, tokens, self.decoder.options().max_rows);
        let prompts: Vec<Vec<u32>> =
            steps.iter().map(|parts| self.random_tokens(parts.iter().map(|part| part.rows).sum())).collect();
        let start = Instant::now();
        for (parts, tokens) in steps.iter().zip(&prompts) {
            self.step(parts, tokens)?;
        }
        Ok(start.elapsed())
    }

    /// Time of `tokens` steps of one token in each of `seqs` sequences, each the likeliest after the one before, the
    /// first behind a context of `depth`. As in the engine, a step is started before the results of the one before are
    /// there, where the backend can do that.
    pub(super) fn decode(&mut self, seqs: usize, depth: usize, tokens: usize) -> Result<Duration, BackendError> {
        let parts = |past| (0..seqs).map(|seq| Part { seq, past, rows: 1, is_last: true }).collect::<Vec<Part>>();
        let unseen = vec![LIKELIEST; seqs];
        let mut next = self.random_tokens(seqs);
        let end = depth + tokens;
        let start = Instant::now();
        self.start(&parts(depth), &next)?;
        for following in depth + 1..=end {
            let ahead = following < end && self.decoder.backend().runs_ahead();
            if ahead {
                self.start(&parts(following), &unseen)?;
            }
            self.finish()?;
            if following < end && !ahead {
                next.clear();
                next.extend(self.best.iter().map(|row| row.candidates.first().map_or(0, |best| best.token)));
                self.start(&parts(following), &next)?;
            }
        }
        Ok(start.elapsed())
    }

    fn step(&mut self, parts: &[Part], tokens: &[u32]) -> Result<(), BackendError> {
        self.start(parts, tokens)?;
        self.finish()
    }

    /// Waits for the oldest step that was started, and has its likeliest tokens.
    fn finish(&mut self) -> Result<(), BackendError> {
        self.decoder.backend_mut().await_step()?;
        self.decoder.top_k(1, &mut self.best)
    }

    /// Starts a step; the sequences of its parts follow one another.
    fn start(&mut self, parts: &[Part], tokens: &[u32]) -> Result<(), BackendError> {
        let mut positions = Vec::with_capacity(tokens.len());
        let mut seqs = Vec::with_capacity(parts.len());
        let mut logit_rows = Vec::new();
        for part in parts {
            seqs.push(SeqRows { first_row: positions.len(), rows: part.rows, past: part.past });
            positions.extend((part.past as u32..).take(part.rows));
            if part.is_last {
                logit_rows.push(positions.len() as u32 - 1);
            }
        }
        let first = parts[0].seq * self.groups * self.pages;
        let tables = &self.tables[first..first + parts.len() * self.groups * self.pages];
        let batch = Batch {
            tokens,
            positions: &positions,
            seqs: &seqs,
            tables,
            table_stride: self.pages,
            logit_rows: &logit_rows,
        };
        self.decoder.start(&batch)
    }

    /// A linear congruential generator is random enough for embeddings to come from everywhere.
    fn random_tokens(&mut self, len: usize) -> Vec<u32> {
        let vocab = self.decoder.config().vocab() as u64;
        let mut token = || {
            self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((u64::from(self.random) * vocab) >> 32) as u32
        };
        (0..len).map(|_| token()).collect()
    }
}

/// Cuts prompts into steps of at most `max_rows` rows: sequence after sequence, as a scheduler packs them.
fn prefill_steps(seqs: usize, depth: usize, tokens: usize, max_rows: usize) -> Vec<Vec<Part>> {
    let mut steps = Vec::new();
    let mut step = Vec::new();
    let mut room = max_rows;
    for seq in 0..seqs {
        let mut done = 0;
        while done < tokens {
            let rows = room.min(tokens - done);
            step.push(Part { seq, past: depth + done, rows, is_last: done + rows == tokens });
            done += rows;
            room -= rows;
            if room == 0 {
                steps.push(std::mem::take(&mut step));
                room = max_rows;
            }
        }
    }
    if !step.is_empty() {
        steps.push(step);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_packed_into_full_steps() {
        let part = |seq, past, rows, is_last| Part { seq, past, rows, is_last };
        let steps = prefill_steps(3, 100, 10, 16);
        assert_eq!(
            steps,
            [vec![part(0, 100, 10, true), part(1, 100, 6, false)], vec![part(1, 106, 4, true), part(2, 100, 10, true)],]
        );
        assert_eq!(prefill_steps(1, 0, 4, 4), [vec![part(0, 0, 4, true)]]);
        assert!(prefill_steps(2, 5, 0, 4).is_empty());
    }
}
