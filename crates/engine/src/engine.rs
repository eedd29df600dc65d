//! The handle by which other threads use the engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{ConfigError, EngineConfig};
use crate::event::Events;
use crate::health::{Health, Readiness};
use crate::inbox::{Inbox, Life, Submission};
use crate::observer::{Observer, RejectReason};
use crate::request::{Request, RequestLimits};
use crate::runner::Runner;
use crate::stats::Stats;

/// A running engine: one thread that owns the network, its KV pages and all requests. Dropping it ends the thread and
/// fails what was still running.
pub struct Engine {
    inbox: Arc<Inbox>,
    limits: RequestLimits,
    event_buffer: usize,
    observer: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
    rejected: [AtomicU64; RejectReason::ALL.len()],
    thread: Mutex<Option<JoinHandle<()>>>,
}

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
        let sizes = runner.limits();
        let limits = RequestLimits {
            vocab: sizes.vocab,
            context: config.max_context.unwrap_or(sizes.max_context),
            max_choices: config.max_choices,
            max_top_logprobs: config.max_top_logprobs,
            max_stop_tokens: config.max_stop_tokens,
            max_logit_bias: config.max_logit_bias,
            max_deadline: config.max_deadline,
        };
        let inbox =
            Arc::new(Inbox::new(config.max_running_requests, config.max_queued_requests, config.max_queued_tokens));
        inbox.die();
        Ok(Self {
            inbox,
            limits,
            event_buffer: config.event_buffer,
            observer: config.observer,
            clock: config.clock,
            rejected: Default::default(),
            thread: Mutex::new(None),
        })
    }

    /// What requests may ask; for [`Request::check`].
    pub fn limits(&self) -> &RequestLimits {
        &self.limits
    }

    /// Queues a request. Does not block.
    pub fn submit(&self, request: Request) -> Result<Events, SubmitError> {
        self.try_submit(request).inspect_err(|error| self.count_rejected(error.reason()))
    }

    /// Gauges and counters as of the last step. Cheap.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for (total, count) in stats.counters.rejected.iter_mut().zip(&self.rejected) {
            *total = count.load(Ordering::Relaxed);
        }
        stats
    }

    /// Whether requests should be sent here. Cheap.
    pub fn health(&self) -> Health {
        let readiness = match self.inbox.life() {
            Life::Accepting => Readiness::Ready,
            Life::Draining { .. } => Readiness::Draining,
            Life::Dead => Readiness::Dead,
        };
        Health { readiness, last_delivery_age: Duration::ZERO, oldest_queued_age: Duration::ZERO }
    }

    /// Takes no more requests; those it has may run for `limit`. Returns at once.
    pub fn begin_drain(&self, limit: Duration) {
        self.inbox.begin_drain(self.clock.now() + limit);
    }

    /// Takes no more requests, waits for those it has to end, fails the rest after `limit`, and ends the thread. Blocks.
    pub fn drain(&self, limit: Duration) -> Drained {
        self.begin_drain(limit);
        let thread = self.thread.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(thread) = thread {
            // The loop catches panics; one that escapes all the same has ended the thread, which is what is wanted here.
            let _ = thread.join();
        }
        Drained { abandoned: 0 }
    }

    fn try_submit(&self, request: Request) -> Result<Events, SubmitError> {
        let prompt_tokens = request.prompt.len();
        let context = self.limits.context;
        let wanted = request.max_tokens.unwrap_or(1);
        if prompt_tokens.saturating_add(wanted) > context {
            return Err(SubmitError::PromptTooLong { prompt_tokens, max_tokens: wanted, context });
        }
        let max_tokens = request.max_tokens.unwrap_or(context - prompt_tokens);
        let submitted = self.clock.now();
        let mut events = None;
        self.inbox.submit(prompt_tokens, |id| {
            let (sender, link, receiver) = Events::channel(id, request.choices, self.event_buffer, &self.inbox);
            events = Some(receiver);
            Box::new(Submission { id, request, max_tokens, submitted, events: sender, link })
        })?;
        Ok(events.expect("an accepted submission was made"))
    }

    fn count_rejected(&self, reason: RejectReason) {
        self.rejected[reason as usize].fetch_add(1, Ordering::Relaxed);
        self.observer.rejected(reason);
    }
}

impl SubmitError {
    /// The reason as a metric label.
    pub fn reason(&self) -> RejectReason {
        match self {
            Self::QueueFull { .. } => RejectReason::QueueFull,
            Self::PromptTooLong { .. } => RejectReason::TooLong,
            Self::ShuttingDown => RejectReason::ShuttingDown,
            Self::Dead => RejectReason::Dead,
        }
    }
}
