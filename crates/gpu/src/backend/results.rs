//! The greatest logits of a step, and the way of results back to the CPU.

use tensor::{BackendError, Candidate, TopK};

use super::recorder::{Launch, Recorder, bind};
use super::scratch::Scratch;
use super::step::StepBuffer;
use crate::device::Gpu;
use crate::plan::{Ends, map};
use crate::queue::Submission;
use crate::shaders;

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

    /// Waits for `submission`, with which a step's results were copied to `staging`, and reads them.
    pub(super) fn read(
        &mut self,
        gpu: &Gpu,
        staging: &wgpu::Buffer,
        submission: Submission,
    ) -> Result<(), BackendError> {
        let (sums, lists) = sizes(self.logit_rows, self.keep);
        {
            let mapped = map(gpu, staging, submission)?;
            let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("chunks of 4 bytes"));
            let words = |from: usize, bytes: usize| mapped[from..from + bytes].chunks_exact(4).map(word);
            self.log_sum_exp.clear();
            self.log_sum_exp.extend(mapped[..sums].chunks_exact(8).map(|pair| {
                let (most, sum) = (f32::from_bits(word(&pair[..4])), f32::from_bits(word(&pair[4..])));
                most + sum.ln()
            }));
            self.values.clear();
            self.values.extend(words(sums, lists).map(f32::from_bits));
            self.ids.clear();
            self.ids.extend(words(sums + lists, lists));
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
        encoder.copy_buffer_to_buffer(&scratch.logits, from, &scratch.row_staging, 0, bytes);
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
    /// Of the step before, where the tokens are its likeliest ones: its rows and the candidates that it kept of each.
    pub(super) follows: Option<(usize, usize)>,
    pub(super) logit_rows: usize,
    pub(super) keep: usize,
    /// Which of the staging buffers gets the results.
    pub(super) turn: usize,
}

impl Ends for Copies<'_> {
    fn before(&self, encoder: &mut wgpu::CommandEncoder) {
        let Some((rows, kept)) = self.key.follows else { return };
        let ids = &*self.scratch.sort_ids[self.scratch.last_sort_buffer(kept)];
        let tokens = self.step.at.tokens;
        // With one candidate each they lie one behind the other.
        let (copies, words) = if kept == 1 { (1, rows) } else { (rows, 1) };
        for row in 0..copies {
            let (from, to) = (4 * (row * kept) as u64, 4 * (tokens + row) as u64);
            encoder.copy_buffer_to_buffer(ids, from, &self.step.buffer, to, 4 * words as u64);
        }
    }

    fn after(&self, encoder: &mut wgpu::CommandEncoder) {
        let CopiesKey { logit_rows, keep, turn, .. } = self.key;
        if keep == 0 {
            return;
        }
        let (sums, lists) = sizes(logit_rows, keep);
        let (sums, lists) = (sums as u64, lists as u64);
        let (scratch, staging) = (self.scratch, &self.scratch.staging[turn]);
        let last = scratch.last_sort_buffer(keep);
        encoder.copy_buffer_to_buffer(&scratch.sums[1], 0, staging, 0, sums);
        encoder.copy_buffer_to_buffer(&scratch.sort_values[last], 0, staging, sums, lists);
        encoder.copy_buffer_to_buffer(&scratch.sort_ids[last], 0, staging, sums + lists, lists);
    }
}

/// Bytes of the sums, and of the values and ids each.
fn sizes(logit_rows: usize, keep: usize) -> (usize, usize) {
    (8 * logit_rows, 4 * logit_rows * keep)
}

/// The dispatches behind `top_k`.
impl Recorder<'_> {
    /// Finds the `keep` greatest logits of `rows` rows, list by list until one is left.
    pub(super) fn sort_logits(&mut self, rows: usize, keep: usize) -> Result<(), BackendError> {
        let (scratch, step) = (self.scratch, &*self.step.buffer);
        let mut count = self.dims.vocab;
        let mut from = None;
        loop {
            let lists = count.div_ceil(shaders::SORT);
            let to = from.map_or(0, |from: usize| 1 - from);
            let (values, ids) = (&*scratch.sort_values[to], &*scratch.sort_ids[to]);
            let mut buffers = match from {
                None => bind(&[(0, &scratch.logits)]),
                Some(from) => bind(&[(0, &scratch.sort_values[from]), (1, &scratch.sort_ids[from])]),
            };
            buffers.extend([(2, values), (3, ids), (4, step)]);
            self.push(Launch {
                source: shaders::top_k(keep, from.is_none()),
                buffers: &buffers,
                params: &[count as u32, count as u32, (lists * keep) as u32],
                grid: [lists, rows, 1],
                bytes: 8 * rows * (count + lists * keep),
            })?;
            count = lists * keep;
            from = Some(to);
            if lists == 1 {
                return Ok(());
            }
        }
    }

    /// Maximum and sum of exponentials of `rows` rows of logits.
    pub(super) fn sum_exponentials(&mut self, rows: usize) -> Result<(), BackendError> {
        let vocab = self.dims.vocab;
        let chunks = vocab.div_ceil(shaders::SORT);
        let (scratch, step) = (self.scratch, &*self.step.buffer);
        self.push(Launch {
            source: shaders::log_sum_exp(true),
            buffers: &[(0, &scratch.logits), (1, &scratch.sums[0]), (2, step)],
            params: &[vocab as u32, vocab as u32, chunks as u32],
            grid: [chunks, rows, 1],
            bytes: 4 * rows * vocab,
        })?;
        self.push(Launch {
            source: shaders::log_sum_exp(false),
            buffers: &[(0, &scratch.sums[0]), (1, &scratch.sums[1]), (2, step)],
            params: &[chunks as u32, chunks as u32, 1],
            grid: [1, rows, 1],
            bytes: 8 * rows * chunks,
        })
    }
}
