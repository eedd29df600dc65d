//! Settings of an engine, checked once when it starts.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::inbox::Bounds;
use crate::observer::{NoObserver, Observer};

/// Settings of an engine. [`Default`] has the product's defaults.
#[derive(Clone)]
pub struct EngineConfig {
    /// Sequences computed in one step.
    pub max_batch_size: usize,
    /// Requests admitted at a time (prefilling, decoding, preempted); at least the batch size.
    pub max_running_requests: usize,
    /// Requests that wait beyond those.
    pub max_queued_requests: usize,
    /// Prompt tokens of all waiting requests together.
    pub max_queued_tokens: usize,
    /// Requests of one tenant, running and waiting together.
    pub max_tenant_requests: usize,
    /// Longest wait for a first turn.
    pub queue_timeout: Duration,
    /// Off: a batch runs to its end before the next starts.
    pub continuous_batching: bool,
    /// Most prompt tokens in a step.
    pub prefill_chunk_tokens: usize,
    /// Most decode steps before waiting prompts get a turn, and the quantum of tokens in which a sequence reserves KV.
    pub decode_chunk_tokens: usize,
    /// How long a step may take while others decode: bounds the share of prompt tokens in it, together with
    /// [`EngineConfig::prefill_chunk_tokens`].
    pub step_budget: Duration,
    /// How long a step may take while nothing decodes: bounds how long a new request or a cancellation waits.
    pub prefill_step_budget: Duration,
    /// Waiting for this long weighs as much as one step of priority.
    pub aging: Duration,
    /// Keeps the KV pages of finished prefixes.
    pub prefix_cache: bool,
    /// Most bytes of KV kept for that.
    pub prefix_cache_bytes: u64,
    /// Events that a request's stream holds before the request pauses.
    pub event_buffer: usize,
    /// Longest pause before the request is dropped.
    pub slow_reader_limit: Duration,
    /// Longest time without progress, while there is work, before readiness fails; and how long it fails after several
    /// steps in a row have failed.
    pub watchdog: Duration,
    /// Ids with which the model ends its text.
    pub eos_tokens: Vec<u32>,
    /// Most tokens in prompt and output together; `None` = what the runner and its KV pages can hold.
    pub max_context: Option<usize>,
    /// Most choices of a request.
    pub max_choices: usize,
    /// Most log probabilities reported beside a token.
    pub max_top_logprobs: usize,
    /// Most stop token ids of a request.
    pub max_stop_tokens: usize,
    /// Most logit biases of a request.
    pub max_logit_bias: usize,
    /// Most DRY sequence breakers of a request.
    pub max_dry_breakers: usize,
    /// Most bytes of a cache salt.
    pub max_salt_bytes: usize,
    /// Longest deadline that a request may set.
    pub max_deadline: Duration,
    /// Hears what happens.
    pub observer: Arc<dyn Observer>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

/// A setting that the engine cannot start with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}: {allowed}")]
pub struct ConfigError {
    /// The field of [`EngineConfig`], or what the runner brought.
    pub setting: &'static str,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub allowed: String,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_batch_size: 8,
            max_running_requests: 16,
            max_queued_requests: 64,
            max_queued_tokens: 1 << 20,
            max_tenant_requests: usize::MAX,
            queue_timeout: Duration::from_secs(60),
            continuous_batching: true,
            prefill_chunk_tokens: 2048,
            decode_chunk_tokens: 256,
            step_budget: Duration::from_millis(70),
            prefill_step_budget: Duration::from_millis(250),
            aging: Duration::from_secs(5),
            prefix_cache: true,
            prefix_cache_bytes: 2_000_000_000,
            event_buffer: 512,
            slow_reader_limit: Duration::from_secs(30),
            watchdog: Duration::from_secs(30),
            eos_tokens: Vec::new(),
            max_context: None,
            max_choices: 16,
            max_top_logprobs: 20,
            max_stop_tokens: 64,
            max_logit_bias: 1024,
            max_dry_breakers: 64,
            max_salt_bytes: 256,
            max_deadline: Duration::from_secs(3600),
            observer: Arc::new(NoObserver),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

impl EngineConfig {
    /// What an operator can set, as numbers by the names of the fields: times in seconds, switches 0 or 1.
    pub fn numbers(&self) -> Vec<(&'static str, f64)> {
        let switch = |on: bool| f64::from(u8::from(on));
        vec![
            ("max_batch_size", self.max_batch_size as f64),
            ("max_running_requests", self.max_running_requests as f64),
            ("max_queued_requests", self.max_queued_requests as f64),
            ("max_queued_tokens", self.max_queued_tokens as f64),
            ("max_tenant_requests", self.max_tenant_requests as f64),
            ("queue_timeout", self.queue_timeout.as_secs_f64()),
            ("step_budget", self.step_budget.as_secs_f64()),
            ("continuous_batching", switch(self.continuous_batching)),
            ("prefill_chunk_tokens", self.prefill_chunk_tokens as f64),
            ("decode_chunk_tokens", self.decode_chunk_tokens as f64),
            ("prefix_cache", switch(self.prefix_cache)),
            ("prefix_cache_bytes", self.prefix_cache_bytes as f64),
            ("slow_reader_limit", self.slow_reader_limit.as_secs_f64()),
            ("watchdog", self.watchdog.as_secs_f64()),
            ("max_choices", self.max_choices as f64),
            ("max_top_logprobs", self.max_top_logprobs as f64),
            ("max_stop_tokens", self.max_stop_tokens as f64),
            ("max_logit_bias", self.max_logit_bias as f64),
            ("max_dry_breakers", self.max_dry_breakers as f64),
            ("max_salt_bytes", self.max_salt_bytes as f64),
            ("max_deadline", self.max_deadline.as_secs_f64()),
        ]
    }

    /// Checks each setting by itself and those that depend on one another.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        within("max_batch_size", self.max_batch_size, 1..=4096)?;
        within("max_running_requests", self.max_running_requests, self.max_batch_size..=65_536)?;
        within("max_queued_requests", self.max_queued_requests, 0..=1_000_000)?;
        within("max_queued_tokens", self.max_queued_tokens, 1..=1 << 40)?;
        within("max_tenant_requests", self.max_tenant_requests, 1..=usize::MAX)?;
        within("prefill_chunk_tokens", self.prefill_chunk_tokens, 1..=1 << 20)?;
        within("decode_chunk_tokens", self.decode_chunk_tokens, 1..=1 << 20)?;
        within("event_buffer", self.event_buffer, 1..=1 << 20)?;
        within("max_choices", self.max_choices, 1..=128)?;
        within("max_top_logprobs", self.max_top_logprobs, 0..=100)?;
        let day = Duration::from_secs(86_400);
        for (setting, value) in [
            ("queue_timeout", self.queue_timeout),
            ("step_budget", self.step_budget),
            ("prefill_step_budget", self.prefill_step_budget),
            ("aging", self.aging),
            ("slow_reader_limit", self.slow_reader_limit),
            ("watchdog", self.watchdog),
            ("max_deadline", self.max_deadline),
        ] {
            if value.is_zero() || value > day {
                let allowed = "more than 0 s, at most a day".to_owned();
                return Err(ConfigError { setting, value: format!("{value:?}"), allowed });
            }
        }
        Ok(())
    }
}

impl EngineConfig {
    /// How much may be submitted and not yet over.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            running: self.max_running_requests,
            queued: self.max_queued_requests,
            queued_tokens: self.max_queued_tokens,
            of_tenant: self.max_tenant_requests,
        }
    }
}

impl fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineConfig")
            .field("max_batch_size", &self.max_batch_size)
            .field("max_running_requests", &self.max_running_requests)
            .field("max_queued_requests", &self.max_queued_requests)
            .field("prefill_chunk_tokens", &self.prefill_chunk_tokens)
            .field("decode_chunk_tokens", &self.decode_chunk_tokens)
            .field("prefix_cache_bytes", &self.prefix_cache_bytes)
            .finish_non_exhaustive()
    }
}

/// A number within a range.
pub(crate) fn within(setting: &'static str, value: usize, range: RangeInclusive<usize>) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let allowed = format!("allowed are {} to {}", range.start(), range.end());
    Err(ConfigError { setting, value: value.to_string(), allowed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_setting_is_named_with_its_range() {
        let config = EngineConfig { max_running_requests: 7, ..EngineConfig::default() };
        let error = config.check().expect_err("less than the batch size");
        assert_eq!(error.to_string(), "max_running_requests is 7: allowed are 8 to 65536");
        let config = EngineConfig { watchdog: Duration::ZERO, ..EngineConfig::default() };
        assert_eq!(config.check().expect_err("zero").setting, "watchdog");
        assert_eq!(EngineConfig::default().check(), Ok(()));
    }
}
