//! A plan in the form that a runner takes; its memory is reused from step to step.

use tensor::{Batch, LIKELIEST, NO_PAGE, PAGE_TOKENS, SeqRows};

use crate::scheduler::{Plan, Scheduler};

/// The rows and page tables of one step.
#[derive(Debug, Default)]
pub(crate) struct StepBatch {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    seqs: Vec<SeqRows>,
    tables: Vec<u32>,
    table_stride: usize,
    logit_rows: Vec<u32>,
}

impl StepBatch {
    /// Takes the rows that `plan` wants from its sequences. A token that is not known yet is that of the step before.
    pub(crate) fn fill(&mut self, plan: &Plan, scheduler: &Scheduler) {
        self.tokens.clear();
        self.positions.clear();
        self.seqs.clear();
        self.tables.clear();
        self.logit_rows.clear();
        let pages = |past: usize, rows: usize| (past + rows).div_ceil(PAGE_TOKENS);
        self.table_stride = plan.entries.iter().map(|entry| pages(entry.past, entry.rows)).max().unwrap_or(0);
        for entry in &plan.entries {
            let seq = scheduler.seq(entry.seq);
            let end = entry.past + entry.rows;
            self.seqs.push(SeqRows { first_row: self.tokens.len(), rows: entry.rows, past: entry.past });
            match seq.tokens.get(entry.past..end) {
                Some(known) => self.tokens.extend_from_slice(known),
                None => self.tokens.push(LIKELIEST),
            }
            self.positions.extend(entry.past as u32..end as u32);
            let rows = self.tokens.len() as u32;
            self.logit_rows.extend(rows - entry.logit_rows as u32..rows);
            for table in &seq.pages.tables {
                let table_end = self.tables.len() + self.table_stride;
                self.tables.extend_from_slice(&table[..pages(entry.past, entry.rows)]);
                self.tables.resize(table_end, NO_PAGE);
            }
        }
    }

    /// The step for a runner.
    pub(crate) fn view(&self) -> Batch<'_> {
        Batch {
            tokens: &self.tokens,
            positions: &self.positions,
            seqs: &self.seqs,
            tables: &self.tables,
            table_stride: self.table_stride,
            logit_rows: &self.logit_rows,
        }
    }
}
