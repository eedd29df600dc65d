//! The engine as a whole, on a [`FakeRunner`].
//!
//! [`World`] steps a [`Driver`] by hand, on a virtual clock, and checks the books after every round.

mod aging;
mod ahead;
mod faults;
mod invariance;
mod lifecycle;
mod metrics;
mod models;
mod points;
mod random;
mod relief;
mod sharing;
mod striker;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tensor::BackendError;

use crate::board::Board;
use crate::driver::Driver;
use crate::fake::{Call, FakeModel, FakeRunner};
use crate::fit::Fit;
use crate::inbox::{Inbox, Submission};
use crate::runner::RunnerLimits;
use crate::*;

const VOCAB: usize = 60;

/// A driver that is stepped by hand.
struct World {
    driver: Driver,
    inbox: Arc<Inbox>,
    clock: Arc<VirtualClock>,
    shared_clock: Arc<dyn Clock>,
    model: FakeModel,
    limits: RequestLimits,
    event_buffer: usize,
    rounds: usize,
}

/// What a test sets before a world begins.
struct Setup {
    config: EngineConfig,
    model: FakeModel,
    pages: usize,
    runner: RunnerLimits,
    /// Two steps may be in flight.
    ahead: bool,
    /// Time that a step takes: so much, and so much a row.
    step_cost: (Duration, Duration),
    hook: Box<dyn FnMut(Call) -> Result<(), BackendError> + Send>,
}

/// Everything that a request was told.
#[derive(Debug, Default, Clone, PartialEq)]
struct Heard {
    started: Option<Started>,
    prompt: Option<Vec<PromptLogprob>>,
    tokens: BTreeMap<usize, Vec<u32>>,
    logprobs: BTreeMap<usize, Vec<f32>>,
    finished: BTreeMap<usize, Finished>,
    failed: Option<Failure>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: EngineConfig { event_buffer: 4096, ..EngineConfig::default() },
            model: FakeModel::new(VOCAB),
            pages: 64,
            runner: RunnerLimits { vocab: VOCAB, max_context: 2000, max_rows: 512, max_seqs: 16, max_logit_rows: 64 },
            ahead: false,
            step_cost: (Duration::from_millis(10), Duration::from_micros(100)),
            hook: Box::new(|_| Ok(())),
        }
    }
}

impl Setup {
    fn build(mut self) -> World {
        let clock = Arc::new(VirtualClock::new());
        let (step_clock, (base, per_row)) = (Arc::clone(&clock), self.step_cost);
        let mut hook = self.hook;
        let runner = FakeRunner::new(self.model.clone(), self.pages, self.runner).with_hook(move |call| {
            if let Call::Step { rows } = call {
                step_clock.advance(base + per_row * rows as u32);
            }
            hook(call)
        });
        let runner = if self.ahead { runner.running_ahead() } else { runner };
        self.config.clock = Arc::clone(&clock) as Arc<dyn Clock>;
        self.config.check().expect("good settings");
        let fit = Fit::of(&runner, &self.config).expect("settings that suit the runner");
        let inbox = Arc::new(Inbox::new(self.config.bounds()));
        let board = Arc::new(Board::new(Duration::ZERO));
        let limits = RequestLimits {
            vocab: self.runner.vocab,
            context: fit.context,
            max_choices: 16,
            max_top_logprobs: 20,
            max_stop_tokens: 64,
            max_logit_bias: 1024,
            max_dry_breakers: 64,
            max_salt_bytes: 256,
            max_deadline: Duration::from_secs(3600),
        };
        World {
            event_buffer: self.config.event_buffer,
            driver: Driver::new(Box::new(runner), fit.pools, self.config, Arc::clone(&inbox), board),
            shared_clock: Arc::clone(&clock) as Arc<dyn Clock>,
            inbox,
            clock,
            model: self.model,
            limits,
            rounds: 0,
        }
    }
}

impl World {
    fn submit(&self, draft: Draft) -> Events {
        self.try_submit(draft).expect("room in the queue")
    }

    fn try_submit(&self, draft: Draft) -> Result<Events, SubmitError> {
        let request = Request::check(draft, &self.limits).expect("a valid draft");
        let max_tokens = request.max_tokens.unwrap_or(self.limits.context - request.prompt.len());
        assert!(request.prompt.len() + max_tokens <= self.limits.context, "a request that fits");
        let submitted = self.clock.now();
        let mut events = None;
        self.inbox.submit(vec![request], submitted, &self.shared_clock, |request, id, ticket| {
            let (sender, link, receiver) = Events::channel(id, request.choices, self.event_buffer, &self.inbox);
            events = Some(receiver);
            Box::new(Submission { id, request, max_tokens, submitted, events: sender, link, ticket })
        })?;
        Ok(events.expect("a submission was made"))
    }

    /// One round, after which the books must agree.
    fn round(&mut self) {
        self.driver.round(Duration::ZERO).expect("the driver goes on");
        self.rounds += 1;
        assert!(self.driver.is_consistent(), "after round {}", self.rounds);
    }

    /// Rounds until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            self.round();
            if !self.driver.has_work() && !self.inbox.mailbox.has_mail() {
                return;
            }
        }
        panic!("it does not come to an end");
    }

    fn stats(&self) -> Stats {
        self.driver.stats()
    }

    /// No error or panic in any step so far.
    fn assert_no_failures(&self) {
        let counters = self.stats().counters;
        assert_eq!((counters.step_errors, counters.step_panics, counters.failed), (0, 0, 0));
    }

    /// No request, and no page held; every request that came has been counted out once.
    fn assert_idle(&self) {
        let stats = self.stats();
        let Counters { submitted, finished, failed, cancelled, .. } = stats.counters;
        assert_eq!(submitted, finished + failed + cancelled.iter().sum::<u64>(), "{:?}", stats.counters);
        assert_eq!((stats.running_requests, stats.waiting_requests, stats.sequences), (0, 0, 0));
        assert!(stats.pools.iter().all(|pool| pool.held == 0), "{:?}", stats.pools);
        assert_eq!(self.inbox.requests(), 0);
    }
}

impl Heard {
    /// Reads all events that are there.
    fn listen(&mut self, events: &mut Events) {
        while let Some(event) = events.try_recv() {
            self.hear(event);
        }
    }

    /// Takes an event, which must come in its order.
    fn hear(&mut self, event: Event) {
        assert!(self.failed.is_none(), "an event after the end: {event:?}");
        match event {
            Event::Started(started) => assert!(self.started.replace(started).is_none() && self.tokens.is_empty()),
            Event::PromptLogprobs(report) => assert!(self.prompt.replace(report).is_none() && self.tokens.is_empty()),
            Event::Token(token) => {
                assert!(self.started.is_some() && !self.finished.contains_key(&token.choice));
                self.tokens.entry(token.choice).or_default().push(token.id);
                self.logprobs.entry(token.choice).or_default().push(token.logprob);
            }
            Event::Finished(finished) => assert!(self.finished.insert(finished.choice, finished).is_none()),
            Event::Failed(failure) => self.failed = Some(failure),
        }
    }

    /// All that is there now.
    fn of(events: &mut Events) -> Self {
        let mut heard = Self::default();
        heard.listen(events);
        heard
    }
}

/// A greedy request.
fn greedy(prompt: Vec<u32>, max_tokens: i64) -> Draft {
    let sampling = SamplingDraft { temperature: 0.0, ..SamplingDraft::default() };
    Draft { prompt, max_tokens: Some(max_tokens), sampling, ..Draft::default() }
}

/// A prompt of its own for each seed.
fn prompt(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32)
        .map(|i| (seed.wrapping_mul(2_654_435_761).wrapping_add(i * i * 31 + i * 7) >> 3) % VOCAB as u32)
        .collect()
}

/// Counts what an observer is told.
#[derive(Debug, Default)]
struct Recorder(Mutex<Recorded>);

#[derive(Debug, Default, Clone)]
struct Recorded {
    started: Vec<Duration>,
    first_token: Vec<(Duration, Duration)>,
    inter_token: Vec<Duration>,
    finished: Vec<RequestReport>,
    steps: Vec<StepReport>,
    queried: usize,
    hits: usize,
    preempted: usize,
    evicted: usize,
    cancelled: Vec<CancelCause>,
    step_failures: Vec<(StepFailure, usize)>,
}

impl Recorder {
    fn get(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Observer for Recorder {
    fn started(&self, queue: Duration) {
        self.get().started.push(queue);
    }
    fn prefix_lookup(&self, queried: usize, hits: usize) {
        let mut recorded = self.get();
        recorded.queried += queried;
        recorded.hits += hits;
    }
    fn first_token(&self, since_submit: Duration, prefill: Duration) {
        self.get().first_token.push((since_submit, prefill));
    }
    fn inter_token(&self, gap: Duration) {
        self.get().inter_token.push(gap);
    }
    fn finished(&self, report: &RequestReport) {
        self.get().finished.push(*report);
    }
    fn step(&self, report: &StepReport) {
        self.get().steps.push(*report);
    }
    fn step_failed(&self, kind: StepFailure, requests: usize) {
        self.get().step_failures.push((kind, requests));
    }
    fn preempted(&self, _: usize) {
        self.get().preempted += 1;
    }
    fn evicted(&self, _: usize, pages: usize) {
        self.get().evicted += pages;
    }
    fn cancelled(&self, cause: CancelCause) {
        self.get().cancelled.push(cause);
    }
}
