//! What happens when a round goes wrong.

use std::any::Any;
use std::collections::HashMap;

use super::{Driver, Phase};
use crate::event::Failure;
use crate::flight::Flight;
use crate::inbox::RequestId;
use crate::kv::Kv;
use crate::observer::StepFailure;
use crate::scheduler::{Scheduler, Standing};

/// Failed steps in a row after which the engine calls itself unfit.
const FAILING_AFTER: usize = 3;

impl Driver {
    /// Fails the requests of the step at fault, or the one that was attended to. All others go on: where the books no
    /// longer agree they are computed anew. All go if rounds keep failing with nobody to blame.
    pub(super) fn recover(&mut self, kind: StepFailure, message: &str) {
        match kind {
            StepFailure::Error => self.counters.step_errors += 1,
            StepFailure::Panic => self.counters.step_panics += 1,
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Between);
        self.blamed = match phase {
            Phase::Between | Phase::Planning => Vec::new(),
            Phase::Request(id) => vec![id],
            Phase::InStep => self.requests_in_step(),
        };
        self.abandon_ahead();
        self.empty_plans = 0;
        tracing::error!(requests = self.blamed.len(), ?phase, "round failed: {message}");
        let failure = Failure::Step { message: message.to_owned() };
        let is_of_step = !matches!(phase, Phase::Request(_));
        self.failed_in_a_row += usize::from(is_of_step);
        self.board.set_failing((self.failed_in_a_row >= FAILING_AFTER).then(|| self.config.clock.now()));
        if is_of_step && self.blamed.is_empty() && self.failed_in_a_row >= FAILING_AFTER {
            tracing::error!("rounds keep failing with nobody to blame; all requests are dropped");
            self.reset();
        } else if phase == Phase::Planning || !self.is_consistent() {
            // Of a plan that nobody has seen, even a page may be missing that was to be copied.
            tracing::error!("the scheduler's state is in doubt; all other requests are computed anew");
            self.begin_anew(&failure);
        } else {
            self.blamed.clone().into_iter().for_each(|id| self.fail(id, failure.clone()));
        }
    }

    /// Shows what has become of a failed step.
    pub(super) fn tell_of_failure(&mut self, kind: StepFailure) {
        self.publish();
        self.config.observer.step_failed(kind, self.blamed.len());
    }

    /// Fails those to blame, and computes all others anew: all pages are free, and no prefix is known. That nobody is
    /// left with pages counts as a failure, not as preemptions.
    fn begin_anew(&mut self, failure: &Failure) {
        let is_whole = |flight: &Flight| flight.sequences().all(|seq| self.scheduler.contains(seq));
        let mut lost: Vec<RequestId> = self.flights.values().filter(|flight| !is_whole(flight)).map(|f| f.id).collect();
        lost.retain(|id| !self.blamed.contains(id));
        self.blamed.extend(lost);
        for id in &self.blamed {
            // Without the scheduler, which does not know any more what belongs to whom.
            if let Some(flight) = self.flights.remove(id) {
                self.counters.failed += u64::from(!flight.is_counted);
                flight.stream.fail(failure.clone());
            }
        }
        let mut standings = HashMap::new();
        for flight in self.flights.values() {
            let standing = match flight.started {
                None => Standing::Waiting { since: flight.submitted },
                Some(_) => Standing::Admitted,
            };
            standings.extend(flight.sequences().map(|seq| (seq, standing)));
        }
        let kv = self.new_kv();
        self.scheduler.begin_anew(kv, self.config.clock.now(), |seq| standings.get(&seq).copied());
    }

    /// Drops all requests and starts anew with empty books. Calls nothing that could panic again.
    pub(super) fn reset(&mut self) {
        self.scheduler = Scheduler::new(self.limits, self.new_kv());
        self.plan.entries.clear();
        self.ahead.entries.clear();
        for (id, flight) in self.flights.drain() {
            if !self.blamed.contains(&id) {
                self.blamed.push(id);
            }
            self.counters.failed += u64::from(!flight.is_counted);
            flight.stream.fail(Failure::Step { message: "the engine had to start anew".to_owned() });
        }
    }

    /// Pages that are all free, with the evictions that nobody was told of yet.
    fn new_kv(&mut self) -> Kv {
        let cache_bytes = self.config.prefix_cache.then_some(self.config.prefix_cache_bytes);
        let mut kv = Kv::new(&self.pools, cache_bytes);
        self.scheduler.take_evicted().for_each(|(group, pages)| kv.count_evicted(group, pages));
        kv
    }

    /// The device is gone and all KV pages with it: has the runner built anew, and computes again the requests that
    /// were not in the step. Where that fails they stay, and the next step tries again.
    pub(super) fn rebuild(&mut self) {
        tracing::warn!("the device was lost; building the backend anew");
        self.begin_anew(&Failure::Step { message: "the device was lost".to_owned() });
        match self.runner.rebuild() {
            Ok(()) => tracing::info!("the backend was built anew"),
            Err(error) => tracing::error!("the backend could not be built anew, the next step tries again: {error}"),
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
