//! The handle by which other threads use the engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::board::Board;
use crate::clock::Clock;
use crate::config::{ConfigError, EngineConfig};
use crate::driver::Driver;
use crate::event::Events;
use crate::fit::Fit;
use crate::health::{Health, Readiness};
use crate::inbox::{Inbox, Message, Submission};
use crate::mailbox::Life;
use crate::observer::{Observer, RejectReason};
use crate::relief::Relief;
use crate::request::{Request, RequestLimits};
use crate::runner::Runner;
use crate::stats::Stats;

/// A running engine: one thread that owns the network, its KV pages and all requests. Dropping it ends the thread and
/// fails what was still running.
pub struct Engine {
    inbox: Arc<Inbox>,
    limits: RequestLimits,
    board: Arc<Board>,
    event_buffer: usize,
    watchdog: Duration,
    observer: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
    rejected: [AtomicU64; RejectReason::ALL.len()],
    numbers: Vec<(&'static str, f64)>,
    thread: Mutex<Option<EngineThread>>,
}

/// The engine thread, and what tells without blocking that it has ended: the other end of `ended` is dropped with it.
struct EngineThread {
    handle: JoinHandle<()>,
    ended: Receiver<()>,
}

/// Time beyond a drain's limit for the step that runs at its end.
const LAST_STEP: Duration = Duration::from_millis(500);

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too much waits already.
    #[error(
        "{queued} of {limit} requests and {queued_tokens} of {limit_tokens} prompt tokens wait already; \
         retry in {} s", .retry_after.as_secs()
    )]
    QueueFull {
        /// Requests that wait.
        queued: usize,
        /// Most requests that may wait.
        limit: usize,
        /// Their prompt tokens.
        queued_tokens: usize,
        /// Most prompt tokens that may wait.
        limit_tokens: usize,
        /// When there may be room, by the pace of late.
        retry_after: Duration,
    },
    /// The request's tenant has as much here as it may have.
    #[error("{requests} of {limit} requests of this API key run or wait already; retry in {} s", .retry_after.as_secs())]
    TenantFull {
        /// Requests of the tenant, running and waiting.
        requests: usize,
        /// Most that it may have.
        limit: usize,
        /// When one may have ended, by the pace of late.
        retry_after: Duration,
    },
    /// Prompt and output do not fit the context.
    #[error(
        "{prompt_tokens} prompt tokens and {max_tokens} tokens to generate do not fit the context of {context} tokens"
    )]
    PromptTooLong {
        /// Tokens in the prompt.
        prompt_tokens: usize,
        /// Tokens asked for; 1 if the request did not say.
        max_tokens: usize,
        /// Most tokens in both together.
        context: usize,
    },
    /// The engine is draining.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The engine has ended.
    #[error("the engine has ended")]
    Dead,
}

/// What came of [`Engine::drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that did not end in time and were failed.
    pub abandoned: usize,
}

impl Engine {
    /// Starts the engine thread. Fails if the settings contradict one another or do not suit the runner.
    pub fn start(runner: Box<dyn Runner>, config: EngineConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let fit = Fit::of(&*runner, &config)?;
        let limits = RequestLimits {
            vocab: runner.limits().vocab,
            context: fit.context,
            max_choices: config.max_choices,
            max_top_logprobs: config.max_top_logprobs,
            max_stop_tokens: config.max_stop_tokens,
            max_logit_bias: config.max_logit_bias,
            max_dry_breakers: config.max_dry_breakers,
            max_salt_bytes: config.max_salt_bytes,
            max_deadline: config.max_deadline,
        };
        let inbox = Arc::new(Inbox::new(config.bounds()));
        let board = Arc::new(Board::new(config.clock.now()));
        let engine = Self {
            inbox: Arc::clone(&inbox),
            board: Arc::clone(&board),
            limits,
            event_buffer: config.event_buffer,
            watchdog: config.watchdog,
            observer: Arc::clone(&config.observer),
            clock: Arc::clone(&config.clock),
            rejected: Default::default(),
            numbers: config.numbers(),
            thread: Mutex::new(None),
        };
        let (alive, ended) = channel::<()>();
        let run = move || {
            let _alive = alive;
            let _last_rites = Death(Arc::clone(&inbox));
            Driver::new(runner, fit.pools, config, inbox, board).run();
        };
        let handle = std::thread::Builder::new().name("engine".to_owned()).spawn(run).map_err(|error| ConfigError {
            setting: "engine thread",
            value: "not started".to_owned(),
            allowed: error.to_string(),
        })?;
        *engine.lock_thread() = Some(EngineThread { handle, ended });
        Ok(engine)
    }

    /// What it was started with; see [`EngineConfig::numbers`].
    pub fn numbers(&self) -> &[(&'static str, f64)] {
        &self.numbers
    }

    /// What requests may ask; for [`Request::check`].
    pub fn limits(&self) -> &RequestLimits {
        &self.limits
    }

    /// Queues a request. Does not block.
    pub fn submit(&self, request: Request) -> Result<Events, SubmitError> {
        let events = self.submit_all(vec![request])?;
        Ok(events.into_iter().next().expect("a request that was taken has a stream"))
    }

    /// Queues the requests of a call, all of one tenant: all of them or none. Does not block.
    pub fn submit_all(&self, requests: Vec<Request>) -> Result<Vec<Events>, SubmitError> {
        self.try_submit(requests).inspect_err(|error| self.count_rejected(error.reason()))
    }

    /// Most requests that one call may have; more never get in together.
    pub fn capacity(&self) -> usize {
        self.inbox.capacity()
    }

    /// Takes a measure against memory pressure, before the next step.
    pub fn relieve(&self, relief: Relief) {
        self.inbox.push(Message::Relieve(relief));
    }

    /// Gauges and counters as of the last step. Cheap.
    pub fn stats(&self) -> Stats {
        let mut stats = self.board.stats().clone();
        stats.waiting_requests = self.inbox.requests().saturating_sub(stats.running_requests);
        for (total, count) in stats.counters.rejected.iter_mut().zip(&self.rejected) {
            *total = count.load(Ordering::Relaxed);
        }
        stats
    }

    /// Whether requests should be sent here. Cheap.
    pub fn health(&self) -> Health {
        let now = self.clock.now();
        let busy = self.board.has_work() || self.inbox.mailbox.has_mail();
        let last_delivery_age = if busy { now.saturating_sub(self.board.progress()) } else { Duration::ZERO };
        let readiness = match self.inbox.mailbox.life() {
            Life::Dead => Readiness::Dead,
            Life::Draining { .. } => Readiness::Draining,
            Life::Accepting if last_delivery_age > self.watchdog => Readiness::Stalled,
            // After a while it may be tried again: without requests no step could ever succeed.
            Life::Accepting if self.board.failing().is_some_and(|at| now.saturating_sub(at) <= self.watchdog) => {
                Readiness::Failing
            }
            Life::Accepting => Readiness::Ready,
        };
        let oldest_queued_age = self.inbox.oldest_waiting().map_or(Duration::ZERO, |since| now.saturating_sub(since));
        Health { readiness, last_delivery_age, oldest_queued_age }
    }

    /// Takes no more requests; those it has may run for `limit`, then the engine thread ends. Returns at once.
    pub fn begin_drain(&self, limit: Duration) {
        self.inbox.mailbox.begin_drain(self.clock.now() + limit);
    }

    /// Takes no more requests, waits for those it has to end, fails the rest after `limit`, and ends the thread.
    /// Blocks, but hardly beyond the limit: a thread that is still in a step then is left behind, with its memory.
    pub fn drain(&self, limit: Duration) -> Drained {
        self.begin_drain(limit);
        let thread = self.lock_thread().take();
        if let Some(thread) = thread {
            if thread.ended.recv_timeout(limit.saturating_add(LAST_STEP)) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("the step that runs does not end; its requests are given up");
                return Drained { abandoned: self.inbox.requests() };
            }
            thread.join();
        }
        Drained { abandoned: self.board.abandoned.load(Ordering::Relaxed) }
    }

    /// Takes no more requests, fails those it has, and ends the thread; then all memory of the runner is free. Blocks
    /// until the step that runs has ended, however long that takes.
    pub fn end(&self) {
        self.begin_drain(Duration::ZERO);
        let thread = self.lock_thread().take();
        thread.into_iter().for_each(EngineThread::join);
    }

    fn try_submit(&self, requests: Vec<Request>) -> Result<Vec<Events>, SubmitError> {
        let context = self.limits.context;
        for request in &requests {
            let (prompt_tokens, max_tokens) = (request.prompt.len(), request.max_tokens.unwrap_or(1));
            if prompt_tokens.saturating_add(max_tokens) > context {
                return Err(SubmitError::PromptTooLong { prompt_tokens, max_tokens, context });
            }
        }
        let submitted = self.clock.now();
        let mut streams = Vec::with_capacity(requests.len());
        self.inbox.submit(requests, submitted, &self.clock, |request, id, ticket| {
            let max_tokens = request.max_tokens.unwrap_or(context - request.prompt.len());
            let (sender, link, receiver) = Events::channel(id, request.choices, self.event_buffer, &self.inbox);
            streams.push(receiver);
            Box::new(Submission { id, request, max_tokens, submitted, events: sender, link, ticket })
        })?;
        Ok(streams)
    }

    fn lock_thread(&self) -> MutexGuard<'_, Option<EngineThread>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that was refused in the engine's place.
    pub fn count_rejected(&self, reason: RejectReason) {
        self.rejected[reason as usize].fetch_add(1, Ordering::Relaxed);
        self.observer.rejected(reason);
    }
}

impl SubmitError {
    /// The reason as a metric label.
    pub fn reason(&self) -> RejectReason {
        match self {
            Self::QueueFull { .. } => RejectReason::QueueFull,
            Self::TenantFull { .. } => RejectReason::TenantFull,
            Self::PromptTooLong { .. } => RejectReason::TooLong,
            Self::ShuttingDown => RejectReason::ShuttingDown,
            Self::Dead => RejectReason::Dead,
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

impl EngineThread {
    /// Waits for its end.
    fn join(self) {
        // The loop catches panics; one that escapes all the same has ended the thread, which is what is wanted here.
        let _ = self.handle.join();
    }
}

/// Tells the inbox that nobody reads it any more, however the engine thread ends.
struct Death(Arc<Inbox>);

impl Drop for Death {
    fn drop(&mut self) {
        self.0.mailbox.die();
    }
}
