//! The greatest logits of a step, and the way of results back to the CPU.

use tensor::{BackendError, Candidate, TopK};

use super::recorder::{Launch, Recorder, bind};
use super::scratch::{KeptParts, Scratch};
use super::step::StepBuffer;
use crate::device::Gpu;
use crate::plan::{Ends, map};
use crate::queue::Submission;
use crate::shaders::{self, TopShape};

/// What was read back after a step.
#[derive(Default)]
pub(super) struct StepResults {
    logit_rows: usize,
    /// Candidates of each row.
    keep: usize,
    /// `[logit_rows]`.
    log_sum_exp: Vec<f32>,
    /// `[logit_rows][keep]`.
    values: Vec<f32>,
    ids: Vec<u32>,
    row: Vec<f32>,
    /// `k` of the last call of `top_k`: computed along with each step, so that it costs no second submit.
    expected_k: usize,
    /// Steps in a row whose greatest logits nobody asked for.
    unasked: usize,
}

impl StepResults {
    /// Candidates that the next step shall keep: none once nobody asks for them.
    pub(super) fn expected_keep(&self) -> usize {
        if self.unasked > 1 { 0 } else { self.expected_k.max(1).next_power_of_two() }
    }

    /// A step has run that kept `keep` candidates of each of `logit_rows` rows.
    pub(super) fn begin(&mut self, logit_rows: usize, keep: usize) {
        self.logit_rows = logit_rows;
        self.keep = keep;
        self.unasked += 1;
    }

    pub(super) fn logit_rows(&self) -> usize {
        self.logit_rows
    }

    /// Whether the step kept fewer than `k` candidates.
    pub(super) fn lacks(&self, k: usize) -> bool {
        self.logit_rows > 0 && k > self.keep
    }

    /// Waits for `submission`, with which a step's results were copied to `staging` for `rows` rows, and reads them.
    pub(super) fn read(
        &mut self,
        gpu: &Gpu,
        staging: &wgpu::Buffer,
        rows: usize,
        submission: Submission,
    ) -> Result<(), BackendError> {
        let parts = KeptParts::new(rows, self.keep);
        {
            let mapped = map(gpu, staging, submission)?;
            let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("chunks of 4 bytes"));
            let words = |from: usize, count: usize| mapped[4 * from..4 * (from + count)].chunks_exact(4).map(word);
            self.log_sum_exp.clear();
            self.log_sum_exp.extend(mapped[..8 * self.logit_rows].chunks_exact(8).map(|pair| {
                let (most, sum) = (f32::from_bits(word(&pair[..4])), f32::from_bits(word(&pair[4..])));
                most + sum.ln()
            }));
            let count = self.logit_rows * self.keep;
            self.values.clear();
            self.values.extend(words(parts.values, count).map(f32::from_bits));
            self.ids.clear();
            self.ids.extend(words(parts.ids, count));
        }
        staging.unmap();
        Ok(())
    }

    /// The `k` greatest of each row.
    pub(super) fn give(&mut self, k: usize, out: &mut Vec<TopK>) {
        self.expected_k = k;
        self.unasked = 0;
        out.resize_with(self.logit_rows, TopK::default);
        for (row, entry) in out.iter_mut().enumerate() {
            let at = row * self.keep;
            let pairs = self.ids[at..at + k].iter().zip(&self.values[at..at + k]);
            entry.log_sum_exp = self.log_sum_exp[row];
            entry.candidates.clear();
            entry.candidates.extend(pairs.map(|(&token, &logit)| Candidate { token, logit }));
        }
    }

    /// All logits of row `index`.
    pub(super) fn read_row(
        &mut self,
        gpu: &Gpu,
        scratch: &Scratch,
        index: usize,
        vocab: usize,
    ) -> Result<&[f32], BackendError> {
        let mut encoder = gpu.encoder();
        let (from, bytes) = ((4 * index * vocab) as u64, (4 * vocab) as u64);
        encoder.copy_buffer_to_buffer(&scratch.logits.raw, from, &scratch.row_staging, 0, bytes);
        let submission = gpu.submissions.submit(gpu, encoder.finish())?;
        self.row.clear();
        {
            let mapped = map(gpu, &scratch.row_staging, submission)?;
            let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of 4 bytes"));
            self.row.extend(mapped.chunks_exact(4).map(float));
        }
        scratch.row_staging.unmap();
        Ok(&self.row)
    }
}

/// What goes before and behind a step's kernels: tokens come from the step before, results go to where they can be mapped.
pub(super) struct Copies<'a> {
    pub(super) scratch: &'a Scratch,
    pub(super) step: &'a StepBuffer,
    pub(super) key: CopiesKey,
}

/// What the copies are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CopiesKey {
    /// Of the step before, where the tokens are its likeliest ones.
    pub(super) follows: Option<Kept>,
    /// Of this step; `None` where nothing was kept.
    pub(super) kept: Option<Kept>,
    /// Which of the staging buffers gets the results.
    pub(super) turn: usize,
}

/// The greatest logits of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) logit_rows: usize,
    /// Rows in the plan: that many or more.
    pub(super) planned_rows: usize,
    /// Candidates of each row.
    pub(super) keep: usize,
}

impl Kept {
    fn parts(self) -> KeptParts {
        KeptParts::new(self.planned_rows, self.keep)
    }
}

impl Ends for Copies<'_> {
    fn before(&self, encoder: &mut wgpu::CommandEncoder) {
        let Some(kept) = self.key.follows else { return };
        let Kept { logit_rows, keep, .. } = kept;
        let (from, ids, tokens) = (self.scratch.last_kept(keep), kept.parts().ids, self.step.at.tokens);
        // With one candidate each they lie one behind the other.
        let (copies, words) = if keep == 1 { (1, logit_rows) } else { (logit_rows, 1) };
        for row in 0..copies {
            let (source, to) = (4 * (ids + row * keep) as u64, 4 * (tokens + row) as u64);
            encoder.copy_buffer_to_buffer(&from.raw, source, &self.step.buffer.raw, to, 4 * words as u64);
        }
    }

    fn after(&self, encoder: &mut wgpu::CommandEncoder) {
        let Some(kept) = self.key.kept else { return };
        let (scratch, staging) = (self.scratch, &self.scratch.staging[self.key.turn]);
        encoder.copy_buffer_to_buffer(&scratch.last_kept(kept.keep).raw, 0, staging, 0, 4 * kept.parts().end as u64);
    }
}

/// The dispatches behind `top_k`.
impl Recorder<'_> {
    /// Finds the `keep` greatest logits of `rows` rows, and maximum and sum of their exponentials, list by list until one is
    /// left.
    pub(super) fn find_greatest(&mut self, rows: usize, keep: usize) -> Result<(), BackendError> {
        let (scratch, step) = (self.scratch, &*self.step.buffer);
        let pairs = scratch.lists(keep).next().unwrap_or(1);
        let mut count = self.dims.vocab;
        let mut from = KeptParts { values: 0, ids: 0, end: 0 };
        for (pass, lists) in scratch.lists(keep).enumerate() {
            let shape = TopShape { keep, first: pass == 0, last: lists == 1 };
            let source = if shape.first { &scratch.logits } else { &scratch.kept[(pass - 1) % 2] };
            let to = KeptParts::new(rows, lists * keep);
            let mut buffers = bind(&[(0, source), (1, &scratch.kept[pass % 2]), (2, step)]);
            if shape.first != shape.last {
                buffers.push((3, &scratch.sums));
            }
            self.push(Launch {
                source: shaders::top_k(&shape),
                buffers: &buffers,
                params: &[
                    count as u32,
                    count as u32,
                    from.values as u32,
                    from.ids as u32,
                    (lists * keep) as u32,
                    to.values as u32,
                    to.ids as u32,
                    pairs as u32,
                ],
                grid: [lists, rows, 1],
                bytes: 8 * rows * (count + lists * keep),
            })?;
            count = lists * keep;
            from = to;
        }
        Ok(())
    }
}
