//! What the engine tells a metrics table, as it happens.

use std::time::Duration;

use crate::event::FinishReason;

/// Hooks for histograms and counters. They are called on the engine thread (except [`Observer::rejected`]) and must
/// return at once. Times are taken at engine steps, not at network frames.
///
/// Counts are exact: N requests of M tokens and one choice give N calls of [`Observer::first_token`] and N * (M - 1) of
/// [`Observer::inter_token`].
pub trait Observer: Send + Sync {
    /// A request left the queue and got its first turn.
    fn started(&self, _queue: Duration) {}
    /// A request's prompt was looked up in the prefix cache: tokens asked for, tokens found. May be called again with
    /// none asked for, when others have computed more of the same prompt meanwhile.
    fn prefix_lookup(&self, _queried_tokens: usize, _hit_tokens: usize) {}
    /// The first token of a request's first choice: time since submission, and of that since its first turn.
    fn first_token(&self, _since_submit: Duration, _prefill: Duration) {}
    /// A later token of a choice: time since the one before.
    fn inter_token(&self, _gap: Duration) {}
    /// A request finished all its choices.
    fn finished(&self, _report: &RequestReport) {}
    /// A step ended well.
    fn step(&self, _report: &StepReport) {}
    /// A step failed, or what a message or a timer asks for; so many requests failed with it.
    fn step_failed(&self, _kind: StepFailure, _requests: usize) {}
    /// A sequence lost its pages and will be computed again: tokens lost.
    fn preempted(&self, _computed_tokens: usize) {}
    /// Cached pages of KV group `group` were given to others.
    fn evicted(&self, _group: usize, _pages: usize) {}
    /// A request ended before its time.
    fn cancelled(&self, _cause: CancelCause) {}
    /// A request was not taken. Called on the submitting thread.
    fn rejected(&self, _reason: RejectReason) {}
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

/// A request that finished.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestReport {
    /// Why its last choice finished.
    pub reason: FinishReason,
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, over all choices.
    pub completion_tokens: usize,
    /// Prompt tokens that the prefix cache had.
    pub cached_tokens: usize,
    /// Choices.
    pub choices: usize,
    /// Most tokens that each choice was allowed.
    pub max_tokens: usize,
    /// From submission to the first turn.
    pub queue: Duration,
    /// From the first turn to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// From submission to the last token.
    pub total: Duration,
}

/// A step, by parts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Reading the inbox and planning.
    pub schedule: Duration,
    /// The forward pass, page copies included.
    pub forward: Duration,
    /// Reading logits and drawing tokens, masks included.
    pub sample: Duration,
    /// Committing and sending events.
    pub commit: Duration,
    /// Sequences in the step.
    pub sequences: usize,
    /// Rows that computed prompt tokens (or, after a preemption, tokens known before).
    pub prefill_tokens: usize,
    /// Rows that computed the newest token of a sequence in decode.
    pub decode_tokens: usize,
    /// Tokens drawn.
    pub generated_tokens: usize,
}

/// Why a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepFailure {
    /// The runner returned an error.
    Error,
    /// Something panicked.
    Panic,
}

/// Why a request ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CancelCause {
    /// The client went away ([`crate::Events`] was dropped).
    Client,
    /// Its deadline passed.
    Deadline,
    /// It waited in the queue for too long.
    QueueTimeout,
    /// Its events were not read for too long.
    SlowReader,
    /// The engine shut down.
    Shutdown,
}

impl CancelCause {
    /// All causes, in declaration order.
    pub const ALL: [Self; 5] = [Self::Client, Self::Deadline, Self::QueueTimeout, Self::SlowReader, Self::Shutdown];

    /// A stable name for a metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Deadline => "deadline",
            Self::QueueTimeout => "queue_timeout",
            Self::SlowReader => "slow_reader",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// Too many requests, or too many prompt tokens, wait already.
    QueueFull,
    /// Its tenant has as many requests here as it may have.
    TenantFull,
    /// Prompt and output do not fit the context.
    TooLong,
    /// The engine is draining.
    ShuttingDown,
    /// The engine has ended.
    Dead,
}

impl RejectReason {
    /// All reasons, in declaration order.
    pub const ALL: [Self; 5] = [Self::QueueFull, Self::TenantFull, Self::TooLong, Self::ShuttingDown, Self::Dead];

    /// A stable name for a metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TenantFull => "key_full",
            Self::TooLong => "too_long",
            Self::ShuttingDown => "shutting_down",
            Self::Dead => "dead",
        }
    }
}
