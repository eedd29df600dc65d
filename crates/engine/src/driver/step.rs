//! One step: forward pass, draws, events.

use std::time::Duration;

use tensor::BackendError;

use super::Driver;
use crate::cache_end::CacheEnd;
use crate::event::{Event, Failure, PromptLogprob, Token, TokenLogprob};
use crate::fault;
use crate::flight::{Choice, Timing};
use crate::inbox::RequestId;
use crate::observer::StepReport;
use crate::sampler::{DrawError, LogitRow, Place, candidates_wanted, logprob_of, top_logprobs};
use crate::scheduler::Entry;
use crate::sequence::SeqId;

/// A token that was drawn and not yet told of.
#[derive(Debug)]
pub(crate) struct Drawn {
    request: RequestId,
    choice: usize,
    seq: SeqId,
    token: u32,
    logprob: f32,
    top: Vec<TokenLogprob>,
}

impl Driver {
    /// Tells requests and observer what planning has changed.
    pub(super) fn note_plan(&mut self) {
        let now = self.plan.now;
        for &(request, hit) in &self.plan.started {
            let flight = self.flights.get_mut(&request).expect("a request that starts is live");
            let queried = if hit.end == CacheEnd::Disabled { 0 } else { flight.prompt_len };
            fault::point("start request");
            flight.start(hit, now);
            self.counters.prompt_tokens += flight.prompt_len as u64;
            self.counters.prefix_queries += queried as u64;
            self.counters.prefix_hits += hit.tokens as u64;
            self.config.observer.started(now.saturating_sub(flight.submitted));
            self.config.observer.prefix_lookup(queried, hit.tokens);
        }
        for &(request, hit, more) in &self.plan.caught_up {
            self.flights.get_mut(&request).expect("a request that catches up is live").hit = hit;
            self.counters.prefix_hits += more as u64;
            self.config.observer.prefix_lookup(0, more);
        }
        for &(seq, computed) in &self.plan.preempted {
            tracing::debug!(seq = seq.0, computed, "preempted: no free pages");
            self.counters.preemptions += 1;
            self.counters.preempted_tokens += computed as u64;
            self.config.observer.preempted(computed);
        }
    }

    /// Runs the step that is planned, or waits for it where it was `started` before.
    pub(super) fn step(&mut self, begin: Duration, started: bool) -> Result<(), BackendError> {
        let planned = self.config.clock.now();
        self.forward(started)?;
        if self.plan.entries.is_empty() {
            return Ok(()); // Whoever was in it is gone.
        }
        let computed = self.config.clock.now();
        self.drawn.clear();
        self.draw_all(computed)?;
        let drawn = self.config.clock.now();
        let generated_tokens = self.drawn.len();
        self.deliver(drawn);
        let end = self.config.clock.now();

        fault::point("delivered");
        let load = self.plan.load();
        self.scheduler.observe(load, end.saturating_sub(begin));
        let decode_tokens = self.plan.entries.iter().filter(|entry| entry.is_decode).count();
        let rows: usize = self.plan.entries.iter().map(|entry| entry.rows).sum();
        let report = StepReport {
            schedule: planned.saturating_sub(begin),
            forward: computed.saturating_sub(planned),
            sample: drawn.saturating_sub(computed),
            commit: end.saturating_sub(drawn),
            sequences: self.plan.entries.len(),
            prefill_tokens: rows - decode_tokens,
            decode_tokens,
            generated_tokens,
        };
        self.counters.steps += 1;
        self.counters.prefill_tokens += report.prefill_tokens as u64;
        self.failed_in_a_row = 0;
        self.board.set_failing(None);
        self.config.observer.step(&report);
        Ok(())
    }

    fn forward(&mut self, started: bool) -> Result<(), BackendError> {
        if !started {
            for copy in &self.plan.copies {
                self.runner.copy_page(copy.group, copy.from, copy.to)?;
            }
            self.batch.fill(&self.plan, &self.scheduler);
            fault::point("start step");
            self.runner.start(&self.batch.view())?;
        }
        self.run_ahead()?;
        fault::point("finish step");
        self.runner.finish()?;
        let logit_rows: usize = self.plan.entries.iter().map(|entry| entry.logit_rows).sum();
        if logit_rows > 0 {
            let wanted = if started { 1 } else { self.candidates_wanted() };
            self.runner.top_k(wanted, &mut self.tops)?;
            assert_eq!(self.tops.len(), logit_rows, "a runner gives one list for each logit row");
        }
        if started {
            self.drop_overtaken();
        }
        for entry in &self.plan.entries {
            self.scheduler.computed(entry);
        }
        Ok(())
    }

    /// The most greatest logits that any row of the step needs.
    pub(super) fn candidates_wanted(&self) -> usize {
        let wanted = |entry: &Entry| {
            let flight = &self.flights[&entry.request];
            let choice = &flight.choices[entry.choice];
            let may_ban = flight.ends.bans(choice.generated);
            let draw = candidates_wanted(&flight.sampling, &choice.state, may_ban, flight.top_logprobs);
            draw.max(flight.prompt_logprobs.unwrap_or(0))
        };
        let rows = self.plan.entries.iter().filter(|entry| entry.logit_rows > 0);
        rows.map(wanted).max().unwrap_or(1).min(self.runner.limits().vocab)
    }

    /// Reports prompt log probabilities, and draws the next token of each sequence that is computed to its end.
    fn draw_all(&mut self, now: Duration) -> Result<(), BackendError> {
        let mut row = 0;
        for at in 0..self.plan.entries.len() {
            let entry = self.plan.entries[at];
            match self.draw_entry(&entry, row, now) {
                Ok(()) => {}
                Err(DrawError::Backend(error)) => return Err(error),
                Err(error) => {
                    self.drawn.retain(|drawn| drawn.request != entry.request);
                    self.fail(entry.request, Failure::Sampling { message: error.to_string() });
                }
            }
            row += entry.logit_rows;
        }
        Ok(())
    }

    fn draw_entry(&mut self, entry: &Entry, first_row: usize, now: Duration) -> Result<(), DrawError> {
        // Another choice of the same request may have failed just before.
        let Some(flight) = self.flights.get(&entry.request) else { return Ok(()) };
        if flight.prompt_logprobs.is_some() {
            self.report_prompt(entry, first_row)?;
        }
        if !entry.draws {
            return Ok(());
        }
        let row = first_row + entry.logit_rows - 1;
        if self.scheduler.seq(entry.seq).is_at_prompt_end() {
            // All choices draw from the prompt's last row; from then on each has rows of its own.
            self.fork(entry, now);
            let choices = self.flights[&entry.request].choices.len();
            (0..choices).try_for_each(|choice| self.draw_choice(entry.request, choice, row))
        } else {
            self.draw_choice(entry.request, entry.choice, row)
        }
    }

    /// Makes the choices that the request wants beyond its first.
    fn fork(&mut self, entry: &Entry, now: Duration) {
        let flight = self.flights.get_mut(&entry.request).expect("a request in the step is live");
        for choice in flight.choices.len()..flight.choices_wanted {
            flight.add_choice(|| self.scheduler.fork(entry.seq, choice, now));
        }
    }

    fn draw_choice(&mut self, request: RequestId, choice: usize, row: usize) -> Result<(), DrawError> {
        let flight = self.flights.get_mut(&request).expect("a request that draws is live");
        let id = flight.choices[choice].seq.expect("a choice that draws is not complete");
        let seq = self.scheduler.seq(id);
        let top = &self.tops[row];
        let mut logits = LogitRow { runner: &mut *self.runner, index: row };
        let Choice { state, generated, .. } = &mut flight.choices[choice];
        let banned = flight.ends.banned(*generated);
        let place = Place { sampling: &flight.sampling, tokens: &seq.tokens, prompt_len: seq.prompt_len, banned, top };
        let token = self.sampler.draw(&place, state, &mut logits)?;
        let logprob = logprob_of(token, top, &mut logits)?;
        let top = top_logprobs(top, flight.top_logprobs);
        fault::point("draw");
        self.drawn.push(Drawn { request, choice, seq: id, token, logprob, top });
        Ok(())
    }

    /// Notes how likely each prompt token was, from the rows before them.
    fn report_prompt(&mut self, entry: &Entry, first_row: usize) -> Result<(), DrawError> {
        let flight = self.flights.get_mut(&entry.request).expect("a request in the step is live");
        let seq = self.scheduler.seq(entry.seq);
        let first_position = entry.past + entry.rows - entry.logit_rows;
        let count = flight.prompt_logprobs.unwrap_or(0);
        for at in 0..entry.logit_rows {
            let position = first_position + at;
            if position == 0 {
                flight.prompt_report.push(PromptLogprob { id: seq.tokens[0], logprob: None, top: Vec::new() });
            }
            if position + 1 < seq.prompt_len {
                let (id, index) = (seq.tokens[position + 1], first_row + at);
                let top = &self.tops[index];
                if !top.log_sum_exp.is_finite() {
                    return Err(DrawError::NotFinite);
                }
                let logprob = logprob_of(id, top, &mut LogitRow { runner: &mut *self.runner, index })?;
                let top = top_logprobs(top, count);
                flight.prompt_report.push(PromptLogprob { id, logprob: Some(logprob), top });
            }
        }
        Ok(())
    }

    /// Commits what was drawn and sends the events.
    fn deliver(&mut self, now: Duration) {
        let mut drawn = std::mem::take(&mut self.drawn);
        for token in drawn.drain(..) {
            self.deliver_token(token, now);
        }
        self.drawn = drawn;
        for at in 0..self.plan.entries.len() {
            self.pause_or_forget(self.plan.entries[at].request, now);
        }
    }

    fn deliver_token(&mut self, drawn: Drawn, now: Duration) {
        let Drawn { request, choice, seq, token, logprob, top } = drawn;
        let Some(flight) = self.flights.get_mut(&request) else { return };
        if let Err(error) = flight.choices[choice].state.advance(token) {
            self.fail(request, Failure::Sampling { message: error.to_string() });
            return;
        }
        if !flight.prompt_report.is_empty() {
            let report = std::mem::take(&mut flight.prompt_report);
            flight.stream.send(Event::PromptLogprobs(report));
        }
        let (timing, reason) = flight.push(choice, token, now);
        flight.stream.send(Event::Token(Token { choice, id: token, logprob, top }));
        fault::point("deliver");
        self.scheduler.push_token(seq, token);
        self.counters.generated_tokens += 1;
        match timing {
            Timing::First { since_submit, prefill } => self.config.observer.first_token(since_submit, prefill),
            Timing::FirstOfChoice => {}
            Timing::Later { gap } => self.config.observer.inter_token(gap),
        }
        if let Some(reason) = reason {
            self.finish_choice(request, choice, reason, now);
        }
    }
}
