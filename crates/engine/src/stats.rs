//! A snapshot of gauges and counters.

use std::ops::Add;

use crate::observer::{CancelCause, RejectReason};
use crate::relief::Relief;

/// What is, and what has been so far. Taken between two steps, so that its numbers agree with one another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests admitted: prefilling, decoding, preempted, or paused, even where all is computed that remains to be
    /// read.
    pub running_requests: usize,
    /// Requests in the queue.
    pub waiting_requests: usize,
    /// Sequences of the admitted requests.
    pub sequences: usize,
    /// Requests whose events are not read.
    pub paused_requests: usize,
    /// One entry a KV group.
    pub pools: Vec<PoolStats>,
    /// Bytes of KV kept for finished prefixes.
    pub prefix_cache_bytes: u64,
    /// What has been so far.
    pub counters: Counters,
}

/// The pages of one KV group: `free + held + cached = pages`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// All pages.
    pub pages: usize,
    /// Pages with nothing in them.
    pub free: usize,
    /// Pages of sequences.
    pub held: usize,
    /// Pages kept for their prefix alone.
    pub cached: usize,
}

impl Stats {
    /// Share of the fullest pool that sequences hold, in [0, 1].
    pub fn kv_use(&self) -> f64 {
        self.pools.iter().map(|pool| pool.held as f64 / pool.pages.max(1) as f64).fold(0.0, f64::max)
    }
}

/// Totals since the start; none ever falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests taken.
    pub submitted: u64,
    /// Requests that finished all their choices.
    pub finished: u64,
    /// Requests that failed with their step or could not be sampled.
    pub failed: u64,
    /// Requests that ended before their time, by [`CancelCause::ALL`].
    pub cancelled: [u64; CancelCause::ALL.len()],
    /// Requests not taken, by [`RejectReason::ALL`].
    pub rejected: [u64; RejectReason::ALL.len()],
    /// Prompt tokens of started requests.
    pub prompt_tokens: u64,
    /// Rows of prompt tokens that were computed, again after preemption included.
    pub prefill_tokens: u64,
    /// Tokens drawn.
    pub generated_tokens: u64,
    /// Tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Of those, tokens found.
    pub prefix_hits: u64,
    /// Steps that ended well.
    pub steps: u64,
    /// Steps whose runner returned an error.
    pub step_errors: u64,
    /// Steps, messages and timers that panicked.
    pub step_panics: u64,
    /// Times that a sequence lost its pages.
    pub preemptions: u64,
    /// Computed tokens lost that way.
    pub preempted_tokens: u64,
    /// Cached pages that were given to others.
    pub evicted_pages: u64,
    /// Measures taken against memory pressure, by [`Relief::ALL`].
    pub relieved: [u64; Relief::ALL.len()],
}

impl Add for Counters {
    type Output = Self;

    /// What two engines, one after the other, amount to.
    fn add(self, other: Self) -> Self {
        Self {
            submitted: self.submitted + other.submitted,
            finished: self.finished + other.finished,
            failed: self.failed + other.failed,
            cancelled: sums(self.cancelled, other.cancelled),
            rejected: sums(self.rejected, other.rejected),
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            prefill_tokens: self.prefill_tokens + other.prefill_tokens,
            generated_tokens: self.generated_tokens + other.generated_tokens,
            prefix_queries: self.prefix_queries + other.prefix_queries,
            prefix_hits: self.prefix_hits + other.prefix_hits,
            steps: self.steps + other.steps,
            step_errors: self.step_errors + other.step_errors,
            step_panics: self.step_panics + other.step_panics,
            preemptions: self.preemptions + other.preemptions,
            preempted_tokens: self.preempted_tokens + other.preempted_tokens,
            evicted_pages: self.evicted_pages + other.evicted_pages,
            relieved: sums(self.relieved, other.relieved),
        }
    }
}

fn sums<const N: usize>(a: [u64; N], b: [u64; N]) -> [u64; N] {
    std::array::from_fn(|i| a[i] + b[i])
}
