//! What changes from step to step: the step buffer, and the shape by which steps share a plan.

use tensor::{BackendError, Batch, Dims, NO_PAGE, PAGE_TOKENS};

use super::MATVEC_ROWS;
use crate::device::Gpu;
use crate::memory::Buffer;

/// Rows of the batch that one mat-vec workgroup computes at most.
pub(super) const MATVEC_BATCH: usize = 8;

/// What makes two steps share a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) logit_rows: usize,
    pub(super) splits: usize,
    /// Candidates kept of each logit row.
    pub(super) keep: usize,
    /// Every row is the only one of the sequence of its number, and its logits are wanted.
    pub(super) decode: bool,
}

impl Shape {
    /// The bucket of a batch, where histories are cut every `split` positions; those of many rows only where `always_cut`.
    pub(super) fn of(batch: &Batch<'_>, dims: &Dims, split: usize, always_cut: bool, keep: usize) -> Shape {
        let rows = row_bucket(batch.tokens.len());
        let furthest = batch.positions.iter().copied().max().unwrap_or(0) as usize;
        let logit_rows = match batch.logit_rows.len() {
            0 => 0,
            some => some.next_power_of_two().min(dims.max_logit_rows),
        };
        let alone = || batch.seqs.iter().enumerate().all(|(index, seq)| seq.rows == 1 && seq.first_row == index);
        let all = || batch.logit_rows.iter().copied().eq(0..batch.tokens.len() as u32);
        Shape {
            rows,
            logit_rows,
            splits: if rows > MATVEC_ROWS && !always_cut { 1 } else { (furthest / split + 1).next_power_of_two() },
            keep: if logit_rows == 0 { 0 } else { keep },
            decode: rows <= MATVEC_ROWS && !always_cut && alone() && all(),
        }
    }
}

/// Rows for which a plan is made: few buckets, so that few plans are kept.
fn row_bucket(rows: usize) -> usize {
    match rows {
        0..=MATVEC_BATCH => rows.max(1).next_power_of_two(),
        _ if rows <= MATVEC_ROWS => rows.next_multiple_of(MATVEC_BATCH),
        _ => rows.next_power_of_two(),
    }
}

/// All that kernels must know of a step: tokens, positions, page tables.
pub(super) struct StepBuffer {
    pub(super) buffer: Buffer,
    pub(super) at: StepOffsets,
    words: Vec<u32>,
    groups: usize,
}

/// Word offsets in the step buffer. Word 0 is the number of rows, word 1 that of logit rows.
#[derive(Clone, Copy)]
pub(super) struct StepOffsets {
    pub(super) tokens: usize,
    pub(super) positions: usize,
    pub(super) seqs: usize,
    pub(super) logit_rows: usize,
    pub(super) tables: usize,
    pub(super) table_stride: usize,
}

impl StepBuffer {
    pub(super) fn new(gpu: &Gpu, dims: &Dims, groups: usize) -> Result<StepBuffer, BackendError> {
        let tokens = 4;
        let positions = tokens + dims.max_rows;
        let seqs = positions + dims.max_rows;
        let logit_rows = seqs + dims.max_rows;
        let tables = logit_rows + dims.max_logit_rows;
        let table_stride = dims.max_context.div_ceil(PAGE_TOKENS);
        let words = tables + dims.max_seqs * groups * table_stride;
        Ok(StepBuffer {
            buffer: gpu.heap.allocate("step", 4 * words as u64)?,
            at: StepOffsets { tokens, positions, seqs, logit_rows, tables, table_stride },
            words: Vec::with_capacity(words),
            groups,
        })
    }

    /// Fills the buffer for `batch`.
    pub(super) fn write(&mut self, gpu: &Gpu, batch: &Batch<'_>) {
        let StepBuffer { at, words, groups, .. } = self;
        words.clear();
        words.resize(at.tables + batch.seqs.len() * *groups * at.table_stride, NO_PAGE);
        words[0] = batch.tokens.len() as u32;
        words[1] = batch.logit_rows.len() as u32;
        words[at.tokens..][..batch.tokens.len()].copy_from_slice(batch.tokens);
        words[at.positions..][..batch.positions.len()].copy_from_slice(batch.positions);
        for (index, seq) in batch.seqs.iter().enumerate() {
            words[at.seqs + seq.first_row..][..seq.rows].fill(index as u32);
        }
        words[at.logit_rows..][..batch.logit_rows.len()].copy_from_slice(batch.logit_rows);
        let used = batch.table_stride.min(at.table_stride);
        for table in 0..batch.seqs.len() * *groups {
            let from = &batch.tables[table * batch.table_stride..][..used];
            words[at.tables + table * at.table_stride..][..used].copy_from_slice(from);
        }
        gpu.queue.write_buffer(&self.buffer.raw, 0, bytemuck::cast_slice(words));
    }
}
