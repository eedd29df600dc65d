//! The engine thread's loop: drain inbox, plan, run, sample, commit, events.
//!
//! One [`Driver::round`] is one turn of the loop, at most one step, beside which the next may be started (`ahead.rs`).
//! Whatever goes wrong in a step fails the requests in that step (`failure.rs`); the loop goes on. The loop does no I/O
//! and awaits nothing; it blocks only in the inbox, when there is nothing to do.

mod ahead;
mod failure;
mod requests;
mod step;

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use self::step::Drawn;
use crate::batch::StepBatch;
use crate::board::Board;
use crate::config::EngineConfig;
use crate::event::Failure;
use crate::fault;
use crate::flight::Flight;
use crate::inbox::{Inbox, Message, RequestId};
use crate::kv::Kv;
use crate::mailbox::Life;
use crate::observer::{CancelCause, StepFailure};
use crate::runner::{KvPool, Runner};
use crate::sampler::Sampler;
use crate::scheduler::{Plan, Scheduler, SchedulerLimits};
use crate::stats::Counters;
use crate::wakes;
use tensor::{BackendError, TopK};

/// Longest wait for a message: the board shows signs of life at least this often.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// Wait between two plans of which neither had an entry although there is work. Should not happen; keeps it from
/// spinning.
const EMPTY_PLAN_WAIT: Duration = Duration::from_millis(1);

/// The engine thread's state.
pub(crate) struct Driver {
    runner: Box<dyn Runner>,
    config: EngineConfig,
    pools: Vec<KvPool>,
    limits: SchedulerLimits,
    eos_tokens: Arc<[u32]>,
    inbox: Arc<Inbox>,
    board: Arc<Board>,
    scheduler: Scheduler,
    flights: HashMap<RequestId, Flight>,
    sampler: Sampler,
    counters: Counters,
    phase: Phase,
    failed_in_a_row: usize,
    /// The requests that were failed for what went wrong last.
    blamed: Vec<RequestId>,
    empty_plans: usize,
    // Memory that is reused from round to round.
    messages: VecDeque<Message>,
    plan: Plan,
    /// The step behind `plan`, when it was started before `plan`'s results came; without entries otherwise.
    ahead: Plan,
    batch: StepBatch,
    tops: Vec<TopK>,
    drawn: Vec<Drawn>,
}

/// What a round was at when something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing to blame.
    Between,
    /// What one request has asked for, or its time is up.
    Request(RequestId),
    /// What the next step computes.
    Planning,
    /// From what the plan has changed to the last event of the step.
    InStep,
}

impl Driver {
    /// A driver without requests. `config` and `pools` suit the runner.
    pub(crate) fn new(
        runner: Box<dyn Runner>,
        pools: Vec<KvPool>,
        config: EngineConfig,
        inbox: Arc<Inbox>,
        board: Arc<Board>,
    ) -> Self {
        let sizes = runner.limits();
        let limits = SchedulerLimits {
            max_batch_size: config.max_batch_size,
            max_running_requests: config.max_running_requests,
            continuous_batching: config.continuous_batching,
            prefill_chunk_tokens: config.prefill_chunk_tokens,
            decode_chunk_tokens: config.decode_chunk_tokens,
            step_budget: config.step_budget,
            prefill_step_budget: config.prefill_step_budget,
            aging: config.aging,
            max_rows: sizes.max_rows,
            max_logit_rows: sizes.max_logit_rows,
        };
        let cache_bytes = config.prefix_cache.then_some(config.prefix_cache_bytes);
        Self {
            scheduler: Scheduler::new(limits, Kv::new(&pools, cache_bytes)),
            eos_tokens: config.eos_tokens.clone().into(),
            flights: HashMap::new(),
            sampler: Sampler::default(),
            counters: Counters::default(),
            phase: Phase::Between,
            failed_in_a_row: 0,
            blamed: Vec::new(),
            empty_plans: 0,
            messages: VecDeque::new(),
            plan: Plan::default(),
            ahead: Plan::default(),
            batch: StepBatch::default(),
            tops: Vec::new(),
            drawn: Vec::new(),
            runner,
            config,
            pools,
            limits,
            inbox,
            board,
        }
    }

    /// Runs until the inbox says to end.
    pub(crate) fn run(mut self) {
        let mut wait = Duration::ZERO;
        while let Some(next) = self.round(wait) {
            wait = next;
        }
        let rest: Vec<RequestId> = self.flights.keys().copied().collect();
        self.board.abandoned.store(rest.len(), Ordering::Relaxed);
        for id in rest {
            self.cancel(id, CancelCause::Shutdown, Failure::Shutdown);
        }
        self.publish();
    }

    /// One turn of the loop, after waiting for a message for up to `wait`. Returns how long the next may wait; `None` =
    /// there shall be no next.
    pub(crate) fn round(&mut self, wait: Duration) -> Option<Duration> {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.try_round(wait)));
        let lost = matches!(outcome, Ok(Err(BackendError::Lost { .. })));
        let failed = match outcome {
            Ok(Ok(next)) => return next,
            Ok(Err(error)) => (StepFailure::Error, error.to_string()),
            Err(panic) => (StepFailure::Panic, failure::panic_message(panic.as_ref())),
        };
        if catch_unwind(AssertUnwindSafe(|| self.recover(failed.0, &failed.1))).is_err() {
            tracing::error!("recovery from a failed step panicked as well; all requests are dropped");
            self.reset();
        }
        // Those who listen may have been what panicked.
        if catch_unwind(AssertUnwindSafe(|| self.tell_of_failure(failed.0))).is_err() {
            tracing::error!("telling of a failed step panicked");
        }
        if lost && catch_unwind(AssertUnwindSafe(|| self.rebuild())).is_err() {
            tracing::error!("building the backend anew panicked; the next step tries again");
        }
        Some(Duration::ZERO)
    }

    fn try_round(&mut self, wait: Duration) -> Result<Option<Duration>, BackendError> {
        self.phase = Phase::Between;
        let life = self.inbox.mailbox.drain(wait, &mut self.messages);
        let begin = self.config.clock.now();
        while let Some(message) = self.messages.pop_front() {
            self.handle(message);
        }
        fault::point("messages read");
        self.expire(begin);
        let gives_up = |until: Duration| begin >= until || self.flights.is_empty();
        if let Life::Draining { until } = life
            && gives_up(until)
        {
            return Ok(None);
        }
        self.phase = Phase::Planning;
        let started = self.take_ahead(begin);
        fault::point("plan");
        if !started {
            let mut plan = std::mem::take(&mut self.plan);
            self.scheduler.plan(begin, &mut plan);
            self.plan = plan;
        }
        let is_empty = self.plan.entries.is_empty();
        self.board.set_work(!is_empty);
        fault::point("planned");
        self.phase = Phase::InStep;
        self.note_plan();
        // Tasks hear of the step when what they may ask for is up to date.
        let _held = wakes::hold();
        if !is_empty {
            self.step(begin, started)?;
        }
        fault::point("stepped");
        self.phase = Phase::Between;
        self.empty_plans = if is_empty { self.empty_plans + 1 } else { 0 };
        let has_work = self.has_work();
        let now = self.config.clock.now();
        if !is_empty || !has_work {
            self.board.set_progress(now);
        }
        self.board.set_work(has_work);
        self.publish();
        Ok(Some(match (has_work, self.empty_plans) {
            (true, 0..2) => Duration::ZERO,
            (true, _) => EMPTY_PLAN_WAIT,
            (false, _) => self.time_to_next_timer(now, life).min(LONGEST_WAIT),
        }))
    }

    /// Whether the next round has something to do.
    pub(crate) fn has_work(&self) -> bool {
        self.scheduler.has_work() || !self.ahead.entries.is_empty()
    }

    /// Shows gauges and counters to other threads.
    fn publish(&mut self) {
        for (group, pages) in self.scheduler.take_evicted() {
            self.counters.evicted_pages += pages as u64;
            self.config.observer.evicted(group, pages);
        }
        fault::point("publish");
        let mut stats = self.board.stats();
        stats.waiting_requests = self.scheduler.waiting_requests();
        // One that is complete and not read to its end is here still, without a sequence.
        stats.running_requests = self.flights.len().saturating_sub(stats.waiting_requests);
        stats.sequences = self.scheduler.running_sequences();
        stats.paused_requests = self.flights.values().filter(|flight| flight.stream.paused_since.is_some()).count();
        stats.pools.clear();
        stats.pools.extend(self.scheduler.kv().stats());
        stats.prefix_cache_bytes = self.scheduler.kv().cached_bytes();
        stats.counters = self.counters;
    }
}

#[cfg(test)]
impl Driver {
    pub(crate) fn stats(&self) -> crate::Stats {
        self.board.stats().clone()
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.board.failing().is_some()
    }

    pub(crate) fn empty_plans(&self) -> usize {
        self.empty_plans
    }

    pub(crate) fn blamed(&self) -> &[RequestId] {
        &self.blamed
    }
}
