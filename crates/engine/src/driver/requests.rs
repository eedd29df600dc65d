//! Requests come, wait for their readers, run out of time, and go.

use std::time::Duration;

use super::{Driver, Phase};
use crate::event::{Failure, FinishReason};
use crate::fault;
use crate::flight::Flight;
use crate::inbox::{Message, RequestId};
use crate::mailbox::Life;
use crate::observer::CancelCause;
use crate::relief::Relief;

impl Driver {
    pub(super) fn handle(&mut self, message: Message) {
        match message {
            Message::Submit(submission) => {
                let (flight, mut first, new) = Flight::new(*submission, &self.eos_tokens);
                let (id, submitted) = (flight.id, flight.submitted);
                self.phase = Phase::Request(id);
                self.counters.submitted += 1;
                // From here on it is there to be told what goes wrong.
                let flight = self.flights.entry(id).or_insert(flight);
                first.seq = Some(self.scheduler.enqueue(new, submitted));
                fault::point("enqueued");
                flight.choices.push(first);
            }
            Message::Cancel { id } => {
                self.phase = Phase::Request(id);
                // Whoever has no more time may have left first.
                let now = self.config.clock.now();
                let due = self.flights.get(&id).and_then(|flight| self.due(flight, now));
                self.cancel(id, due.unwrap_or(CancelCause::Client), Failure::Shutdown);
            }
            Message::Stop { id, choice } => {
                self.phase = Phase::Request(id);
                self.stop(id, choice);
            }
            Message::Resume { id } => {
                self.phase = Phase::Request(id);
                self.resume(id);
            }
            Message::Relieve(relief) => self.relieve(relief),
        }
        self.phase = Phase::Between;
    }

    /// Gives up what `relief` and all milder measures say.
    fn relieve(&mut self, relief: Relief) {
        self.scheduler.set_open(relief < Relief::Admission);
        if relief == Relief::Over {
            tracing::info!("memory pressure is over");
            return;
        }
        self.runner.trim();
        let mut given_up = "scratch".to_owned();
        if relief >= Relief::Preempt
            && let Some((seq, computed)) = self.scheduler.preempt_newest(self.config.clock.now())
        {
            given_up = format!("sequence {} of {computed} tokens", seq.0);
            self.counters.preemptions += 1;
            self.counters.preempted_tokens += computed as u64;
            self.config.observer.preempted(computed);
        }
        if relief >= Relief::PrefixCache {
            let cached = self.scheduler.drop_cached();
            for group in 0..self.pools.len() {
                self.runner.release_pages(group, self.scheduler.kv().free_pages(group));
            }
            given_up += &format!(", {cached} cached pages");
        }
        tracing::warn!("memory pressure: {}: gave up {given_up}", relief.name());
        for (count, measure) in self.counters.relieved.iter_mut().zip(Relief::ALL) {
            *count += u64::from(measure <= relief);
        }
    }

    /// Ends requests whose time is up.
    pub(super) fn expire(&mut self, now: Duration) {
        let due: Vec<(RequestId, CancelCause)> =
            self.flights.values().filter_map(|flight| Some((flight.id, self.due(flight, now)?))).collect();
        for (id, cause) in due {
            self.phase = Phase::Request(id);
            let deadline = self.flights.get(&id).and_then(|flight| flight.deadline).unwrap_or_default();
            let millis = |time: Duration| time.as_millis() as u64;
            let failure = match cause {
                CancelCause::Deadline => Failure::Deadline { limit_ms: millis(deadline) },
                CancelCause::QueueTimeout => Failure::QueueTimeout { limit_ms: millis(self.config.queue_timeout) },
                CancelCause::SlowReader => Failure::SlowReader { limit_ms: millis(self.config.slow_reader_limit) },
                CancelCause::Client | CancelCause::Shutdown => Failure::Shutdown,
            };
            self.cancel(id, cause, failure);
        }
        self.phase = Phase::Between;
    }

    /// Why a request's time is up, if it is.
    fn due(&self, flight: &Flight, now: Duration) -> Option<CancelCause> {
        self.timers(flight).into_iter().flatten().find(|timer| timer.0 <= now).map(|timer| timer.1)
    }

    pub(super) fn time_to_next_timer(&self, now: Duration, life: Life) -> Duration {
        let timers = self.flights.values().flat_map(|flight| self.timers(flight)).flatten().map(|timer| timer.0);
        let drain = match life {
            Life::Draining { until } => Some(until),
            Life::Accepting | Life::Dead => None,
        };
        timers.chain(drain).min().map_or(Duration::MAX, |next| next.saturating_sub(now))
    }

    /// When a request's time is up, and why.
    fn timers(&self, flight: &Flight) -> [Option<(Duration, CancelCause)>; 3] {
        let waiting = flight.started.is_none();
        [
            flight
                .deadline
                .map(|limit| (flight.submitted + limit.saturating_sub(flight.waited), CancelCause::Deadline)),
            waiting.then(|| (flight.submitted + self.config.queue_timeout, CancelCause::QueueTimeout)),
            flight.stream.paused_since.map(|since| (since + self.config.slow_reader_limit, CancelCause::SlowReader)),
        ]
    }

    /// Ends a request before its time. Nothing happens if it is over already.
    pub(super) fn cancel(&mut self, id: RequestId, cause: CancelCause, failure: Failure) {
        if let Some(flight) = self.take(id) {
            let is_counted = flight.is_counted;
            self.counters.cancelled[cause as usize] += u64::from(!is_counted);
            flight.stream.fail(failure);
            fault::point("cancel");
            if !is_counted {
                self.config.observer.cancelled(cause);
            }
        }
    }

    /// Ends a request that failed.
    pub(super) fn fail(&mut self, id: RequestId, failure: Failure) {
        if let Some(flight) = self.take(id) {
            self.counters.failed += u64::from(!flight.is_counted);
            flight.stream.fail(failure);
        }
    }

    /// Takes a request out of the engine: its pages are free from now on.
    fn take(&mut self, id: RequestId) -> Option<Flight> {
        // The flight last: until its sequences are gone it is there to be told what goes wrong.
        for seq in self.flights.get(&id)?.sequences() {
            self.scheduler.remove(seq);
        }
        self.flights.remove(&id)
    }

    /// Completes one choice, as its receiver wishes. Until all choices exist there is nothing to complete.
    fn stop(&mut self, id: RequestId, choice: usize) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let is_open = flight.choices.get(choice).is_some_and(|choice| choice.seq.is_some());
        if is_open && flight.choices.len() == flight.choices_wanted {
            self.finish_choice(id, choice, FinishReason::Stopped, self.config.clock.now());
            self.pause_or_forget(id, self.config.clock.now());
        }
    }

    /// Ends a choice; and its request's run, if that was the last.
    pub(super) fn finish_choice(&mut self, id: RequestId, choice: usize, reason: FinishReason, now: Duration) {
        let flight = self.flights.get_mut(&id).expect("a choice that finishes has a request");
        let seq = flight.choices[choice].seq.take().expect("a choice finishes once");
        self.scheduler.remove(seq);
        fault::point("finish choice");
        let event = flight.finished(choice, reason);
        flight.stream.send(event);
        if flight.is_complete() {
            flight.is_counted = true;
            self.counters.finished += 1;
            let report = flight.report(reason, now);
            self.config.observer.finished(&report);
        }
    }

    /// After events were sent: a request whose stream is full pauses, one that has nothing more to say goes.
    pub(super) fn pause_or_forget(&mut self, id: RequestId, now: Duration) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        if flight.stream.flush() {
            if flight.is_complete() {
                self.take(id);
            }
        } else if flight.stream.paused_since.is_none() {
            flight.stream.paused_since = Some(now);
            fault::point("pause request");
            for seq in flight.sequences() {
                self.scheduler.pause(seq, now);
            }
        }
    }

    /// A full stream has room again.
    fn resume(&mut self, id: RequestId) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        if !flight.stream.flush() {
            return;
        }
        flight.stream.paused_since = None;
        fault::point("resume request");
        if flight.is_complete() {
            self.take(id);
            return;
        }
        for seq in flight.sequences() {
            self.scheduler.resume(seq);
        }
    }
}
