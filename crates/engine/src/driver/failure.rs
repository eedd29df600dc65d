//! What happens when a round goes wrong.

use std::any::Any;

use super::{Driver, Phase};
use crate::event::Failure;
use crate::flight::Flight;
use crate::inbox::RequestId;
use crate::kv::Kv;
use crate::observer::StepFailure;
use crate::scheduler::Scheduler;

/// Failed steps in a row after which the engine calls itself unfit.
const FAILING_AFTER: usize = 3;

impl Driver {
    /// Fails the requests of the step at fault. All of them go if the books no longer agree, or if rounds keep failing with
    /// no step to blame.
    pub(super) fn recover(&mut self, kind: StepFailure, message: &str) {
        match kind {
            StepFailure::Error => self.counters.step_errors += 1,
            StepFailure::Panic => self.counters.step_panics += 1,
        }
        self.failed_in_a_row += 1;
        self.abandon_ahead();
        self.board.set_failing((self.failed_in_a_row >= FAILING_AFTER).then(|| self.config.clock.now()));
        let in_step = self.phase == Phase::InStep;
        self.phase = Phase::Between;
        let requests = if in_step { self.requests_in_step() } else { Vec::new() };
        tracing::error!(requests = requests.len(), in_step, "step failed: {message}");
        let failure = Failure::Step { message: message.to_owned() };
        for &id in &requests {
            self.fail(id, failure.clone());
        }
        let hopeless = !in_step && self.failed_in_a_row >= FAILING_AFTER;
        if hopeless || !self.is_consistent() {
            tracing::error!("the scheduler's state is in doubt; all requests are dropped");
            self.reset();
        }
        self.publish();
        self.config.observer.step_failed(kind, requests.len());
    }

    /// Drops all requests and starts anew with empty books. Calls nothing that could panic again.
    pub(super) fn reset(&mut self) {
        let cache_bytes = self.config.prefix_cache.then_some(self.config.prefix_cache_bytes);
        self.scheduler = Scheduler::new(self.limits, Kv::new(&self.pools, cache_bytes));
        self.plan.entries.clear();
        self.ahead.entries.clear();
        for (_, flight) in self.flights.drain() {
            self.counters.failed += 1;
            flight.stream.fail(Failure::Step { message: "the engine had to start anew".to_owned() });
        }
    }

    /// The device is gone and all KV pages with it: drops every request and prefix, and has the runner built anew.
    pub(super) fn rebuild(&mut self) {
        tracing::warn!("the device was lost; building the backend anew");
        self.reset();
        match self.runner.rebuild() {
            Ok(()) => tracing::info!("the backend was built anew"),
            Err(error) => tracing::error!("the backend could not be built anew, the next request tries again: {error}"),
        }
        self.publish();
    }

    /// Whether scheduler, pages and requests agree with one another.
    pub(crate) fn is_consistent(&self) -> bool {
        let live: usize = self.flights.values().map(|flight| flight.sequences().count()).sum();
        let known = |flight: &Flight| flight.sequences().all(|seq| self.scheduler.contains(seq));
        self.scheduler.is_consistent() && live == self.scheduler.sequences() && self.flights.values().all(known)
    }

    /// Those that are computed in the step that is planned, or begin in it.
    pub(crate) fn requests_in_step(&self) -> Vec<RequestId> {
        let started = self.plan.started.iter().map(|(request, ..)| *request);
        let mut requests: Vec<RequestId> = self.plan.entries.iter().map(|entry| entry.request).chain(started).collect();
        requests.sort_unstable();
        requests.dedup();
        requests
    }
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("no message"))
}
