//! Two steps in flight: while the device computes one, the next is started on its likeliest tokens, before anybody has
//! seen them. So the device never waits for the engine.
//!
//! It is done for steps of decode alone in which every sequence takes its likeliest token whatever the sampler might
//! say, and nobody waits for a seat. Where a started step turns out to be too much for a sequence (it has ended, was
//! cancelled or paused, has lost its pages), its row is dropped when the step's results come. What the row has written
//! then lies beyond the tokens that count as computed, and whoever gets the page next writes it in a later step.

use std::time::Duration;

use tensor::BackendError;

use super::Driver;

impl Driver {
    /// Makes the step that was started ahead the one that is planned, if there is one.
    pub(super) fn take_ahead(&mut self, now: Duration) -> bool {
        if self.ahead.entries.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.plan, &mut self.ahead);
        self.ahead.entries.clear();
        self.plan.now = now;
        true
    }

    /// Starts the step behind the one that was started just now, if it may be.
    pub(super) fn run_ahead(&mut self) -> Result<(), BackendError> {
        if !self.runner.runs_ahead() || !self.goes_on_by_itself() {
            return Ok(());
        }
        let may_start = self.scheduler.plan_ahead(&self.plan, &mut self.ahead);
        for copy in &self.ahead.copies {
            self.runner.copy_page(copy.group, copy.from, copy.to)?;
        }
        if !may_start {
            self.ahead.entries.clear();
            return Ok(());
        }
        self.batch.fill(&self.ahead, &self.scheduler);
        self.runner.start(&self.batch.view())
    }

    /// Whether the step's tokens will be its likeliest ones, and nothing but them is needed for the next.
    fn goes_on_by_itself(&self) -> bool {
        let is_decode = self.plan.entries.iter().all(|entry| entry.is_decode && self.scheduler.awaits(entry));
        // More than one candidate is wanted where something may choose among them.
        is_decode && !self.inbox.mailbox.has_mail() && self.candidates_wanted() == 1
    }

    /// Takes the rows of sequences that did not go on as the step took them to out of plan and results.
    pub(super) fn drop_overtaken(&mut self) {
        let entries = &mut self.plan.entries;
        let mut kept = 0;
        for row in 0..entries.len() {
            if self.scheduler.awaits(&entries[row]) {
                entries.swap(kept, row);
                self.tops.swap(kept, row);
                kept += 1;
            }
        }
        entries.truncate(kept);
        self.tops.truncate(kept);
    }

    /// Forgets the step that was started ahead.
    pub(super) fn abandon_ahead(&mut self) {
        self.ahead.entries.clear();
        self.runner.abandon();
    }
}
