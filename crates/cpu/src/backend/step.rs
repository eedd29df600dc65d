//! The batch of the current step, owned, with what all layers share.

use tensor::{Batch, Dims, SeqRows};

use crate::attention::{QueryRow, Sequence};
use crate::kv::Slot;
use crate::ops::rope::Angles;

/// The batch of the current step.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) tokens: Vec<u32>,
    pub(super) positions: Vec<u32>,
    tables: Vec<u32>,
    table_stride: usize,
    groups: usize,
    /// `[groups][rows]`: where each row's keys and values go.
    slots: Vec<Slot>,
    /// One a rope, of the rows that are left.
    pub(super) angles: Vec<Angles>,
    pub(super) logit_rows: Vec<u32>,
    /// The rows that are left, in order.
    pub(super) query_rows: Vec<QueryRow>,
    /// Their sequences.
    pub(super) sequences: Vec<Sequence>,
    seqs: Vec<SeqRows>,
}

impl Step {
    pub(super) fn configure(&mut self, dims: &Dims) {
        self.angles = vec![Angles::default(); dims.ropes.len()];
    }

    /// Rows that are left.
    pub(super) fn rows(&self) -> usize {
        self.query_rows.len()
    }

    pub(super) fn begin(&mut self, batch: &Batch<'_>, dims: &Dims, groups: usize) {
        fn copy<T: Copy>(from: &[T], to: &mut Vec<T>) {
            to.clear();
            to.extend_from_slice(from);
        }
        copy(batch.tokens, &mut self.tokens);
        copy(batch.positions, &mut self.positions);
        copy(batch.tables, &mut self.tables);
        copy(batch.seqs, &mut self.seqs);
        copy(batch.logit_rows, &mut self.logit_rows);
        (self.table_stride, self.groups) = (batch.table_stride, groups);
        for (angles, rope) in self.angles.iter_mut().zip(&dims.ropes) {
            angles.set(rope, batch.positions);
        }
        self.slots.clear();
        for group in 0..groups {
            for (seq, rows) in self.seqs.iter().enumerate() {
                let table = &batch.tables[(seq * groups + group) * batch.table_stride..][..batch.table_stride];
                let positions = &batch.positions[rows.first_row..rows.first_row + rows.rows];
                self.slots.extend(positions.iter().map(|&position| Slot::of(table, position as usize)));
            }
        }
        self.query_rows.clear();
        let rows = batch.positions.iter().zip(0..);
        self.query_rows.extend(rows.map(|(&position, row)| QueryRow { row, position }));
        self.sequences.clear();
        let seqs = self.seqs.iter().enumerate();
        self.sequences.extend(seqs.map(|(seq, rows)| Sequence { seq, first_row: rows.first_row, rows: rows.rows }));
    }

    /// Whether there are rows left whose logits nobody wants.
    pub(super) fn has_other_rows(&self) -> bool {
        self.logit_rows.len() < self.rows()
    }

    /// From here on only the rows whose logits are wanted count. Keys and values of the others are stored.
    pub(super) fn keep_logit_rows(&mut self) {
        self.query_rows.clear();
        let positions = self.logit_rows.iter().map(|&row| self.positions[row as usize]);
        self.query_rows.extend(positions.zip(0..).map(|(position, row)| QueryRow { row, position }));
        self.angles.iter_mut().for_each(|angles| angles.keep(&self.logit_rows));
        let mut first_row = 0;
        self.sequences.clear();
        for (seq, rows) in self.seqs.iter().enumerate() {
            let end = (rows.first_row + rows.rows) as u32;
            let count = self.logit_rows[first_row..].iter().take_while(|&&row| row < end).count();
            if count > 0 {
                self.sequences.push(Sequence { seq, first_row, rows: count });
            }
            first_row += count;
        }
    }

    /// The page table of a sequence in a group.
    pub(super) fn table(&self, seq: usize, group: usize) -> &[u32] {
        &self.tables[(seq * self.groups + group) * self.table_stride..][..self.table_stride]
    }

    /// Where the keys and values of all rows go, in a group.
    pub(super) fn slots(&self, group: usize) -> &[Slot] {
        let rows = self.tokens.len();
        &self.slots[group * rows..(group + 1) * rows]
    }
}
