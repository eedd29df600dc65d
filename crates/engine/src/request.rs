//! A request: what a client asks ([`Draft`], anything) and what the engine takes ([`Request`], valid by construction).
//!
//! [`Request::check`] is the only way from one to the other. It rejects, it never clamps, and its error names the
//! field, the value and what is allowed.

use std::ops::RangeInclusive;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::ranges;
use crate::sampler::{Sampling, SamplingDraft, TokenMask};

/// What a client asks for, field by field as it came, unchecked. Integers are wide so that any wrong value can be
/// named in the error.
#[derive(Debug, Default)]
pub struct Draft {
    /// The prompt's token ids; at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to generate for each choice; `None` = as many as the context has room for.
    pub max_tokens: Option<i64>,
    /// Tokens to generate before an end-of-text or stop token may end a choice.
    pub min_tokens: i64,
    /// Time from the request's arrival in which it must end.
    pub deadline: Option<Duration>,
    /// How long before submission it arrived, that is, had been read.
    pub waited: Duration,
    /// Ids that end a choice, besides the model's own end-of-text ids.
    pub stop_tokens: Vec<u32>,
    /// Goes on after the model's end-of-text ids (the distribution is left as it is).
    pub ignore_eos: bool,
    /// Independent choices for the one prompt; `None` = 1.
    pub n: Option<i64>,
    /// How many of the likeliest tokens to report beside each generated one.
    pub top_logprobs: i64,
    /// How many of the likeliest tokens to report beside each prompt token; `None` = no log probabilities for the
    /// prompt.
    pub prompt_logprobs: Option<i64>,
    /// Lower runs earlier, `[-100, 100]`.
    pub priority: i64,
    /// On whose account the request runs.
    pub tenant: Tenant,
    /// Keeps the prompt out of the prefix cache, and the cache out of the prompt.
    pub no_cache: bool,
    /// Shares cached prefixes only with requests of the same salt.
    pub cache_salt: Option<String>,
    /// How tokens are drawn.
    pub sampling: SamplingDraft,
    /// Restricts which tokens may come next (structured output).
    pub mask: Option<Box<dyn TokenMask>>,
}

/// Whose request it is: tenants get fair turns and fair shares of the prefix cache. The server makes one per API key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(pub u64);

/// A request that can run on this engine.
#[derive(Debug)]
pub struct Request {
    pub(crate) prompt: Vec<u32>,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) min_tokens: usize,
    pub(crate) deadline: Option<Duration>,
    pub(crate) waited: Duration,
    pub(crate) stop_tokens: Vec<u32>,
    pub(crate) ignore_eos: bool,
    pub(crate) choices: usize,
    pub(crate) top_logprobs: usize,
    pub(crate) prompt_logprobs: Option<usize>,
    pub(crate) priority: i32,
    pub(crate) tenant: Tenant,
    pub(crate) cache: CachePolicy,
    pub(crate) sampling: Sampling,
    pub(crate) mask: Option<Box<dyn TokenMask>>,
}

/// How a request uses the prefix cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachePolicy {
    /// Neither reads nor fills it.
    Off,
    /// Shares with all requests that have no salt.
    Shared,
    /// Shares with requests of the same salt (its SHA-256).
    Salted([u8; 32]),
}

/// What an engine accepts; depends on the model and the settings. See [`crate::Engine::limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Token ids are below this.
    pub vocab: usize,
    /// Most tokens in prompt and output together.
    pub context: usize,
    /// Most choices ([`Draft::n`]).
    pub max_choices: usize,
    /// Most [`Draft::top_logprobs`] and [`Draft::prompt_logprobs`].
    pub max_top_logprobs: usize,
    /// Most [`Draft::stop_tokens`].
    pub max_stop_tokens: usize,
    /// Most entries of [`SamplingDraft::logit_bias`].
    pub max_logit_bias: usize,
    /// Most entries of [`SamplingDraft::dry_breakers`].
    pub max_dry_breakers: usize,
    /// Most bytes of [`Draft::cache_salt`].
    pub max_salt_bytes: usize,
    /// Longest [`Draft::deadline`].
    pub max_deadline: Duration,
}

/// A field that the engine does not take as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: {allowed}")]
pub struct InvalidRequest {
    /// The field, as the wire names it.
    pub field: &'static str,
    /// What it was.
    pub value: String,
    /// What it may be.
    pub allowed: String,
}

impl Request {
    /// Checks everything that does not depend on the moment. (Whether prompt and output fit the context is for
    /// [`crate::Engine::submit`], which has an error of its own for it.)
    pub fn check(draft: Draft, limits: &RequestLimits) -> Result<Self, InvalidRequest> {
        if draft.prompt.is_empty() {
            return Err(InvalidRequest::new("prompt", "empty", "at least 1 token"));
        }
        check_ids("prompt", &draft.prompt, limits.vocab)?;
        let context = limits.context as i64;
        let max_tokens = draft.max_tokens.map(|n| integer("max_tokens", n, 1..=context)).transpose()?;
        let min_tokens = integer("min_tokens", draft.min_tokens, 0..=max_tokens.unwrap_or(context))?;
        if let Some(deadline) = draft.deadline
            && (deadline.is_zero() || deadline > limits.max_deadline)
        {
            let allowed = format!("more than 0 s, at most {} s", limits.max_deadline.as_secs_f64());
            return Err(InvalidRequest::new("deadline", format!("{} s", deadline.as_secs_f64()), allowed));
        }
        count("stop_token_ids", draft.stop_tokens.len(), limits.max_stop_tokens)?;
        check_ids("stop_token_ids", &draft.stop_tokens, limits.vocab)?;
        let max_top = limits.max_top_logprobs as i64;
        let top_logprobs = integer("top_logprobs", draft.top_logprobs, 0..=max_top)? as usize;
        let prompt_logprobs = draft.prompt_logprobs.map(|n| integer("prompt_logprobs", n, 0..=max_top)).transpose()?;
        Ok(Self {
            max_tokens: max_tokens.map(|n| n as usize),
            min_tokens: min_tokens as usize,
            deadline: draft.deadline,
            waited: draft.waited,
            ignore_eos: draft.ignore_eos,
            choices: integer("n", draft.n.unwrap_or(1), 1..=limits.max_choices as i64)? as usize,
            top_logprobs,
            prompt_logprobs: prompt_logprobs.map(|n| n as usize),
            priority: integer("priority", draft.priority, ranges::PRIORITY)? as i32,
            tenant: draft.tenant,
            cache: CachePolicy::check(draft.no_cache, draft.cache_salt.as_deref(), limits.max_salt_bytes)?,
            sampling: Sampling::check(draft.sampling, limits)?,
            mask: draft.mask,
            stop_tokens: draft.stop_tokens,
            prompt: draft.prompt,
        })
    }

    /// Tokens in the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    /// Time from the request's arrival in which it must end.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// How long before submission it arrived.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Independent choices that will be generated.
    pub fn choices(&self) -> usize {
        self.choices
    }
}

impl CachePolicy {
    fn check(no_cache: bool, salt: Option<&str>, max_bytes: usize) -> Result<Self, InvalidRequest> {
        match salt {
            Some(salt) if !(1..=max_bytes).contains(&salt.len()) => {
                let value = format!("{} bytes", salt.len());
                Err(InvalidRequest::new("cache_salt", value, format!("1 to {max_bytes} bytes")))
            }
            _ if no_cache => Ok(Self::Off),
            Some(salt) => Ok(Self::Salted(Sha256::digest(salt).into())),
            None => Ok(Self::Shared),
        }
    }
}

impl InvalidRequest {
    /// `field` is `value`, but must be `allowed`.
    pub(crate) fn new(field: &'static str, value: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { field, value: value.into(), allowed: allowed.into() }
    }
}

/// An integer within a range.
pub(crate) fn integer(field: &'static str, value: i64, range: RangeInclusive<i64>) -> Result<i64, InvalidRequest> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(InvalidRequest::new(field, value.to_string(), ranges::of_integers(&range)))
}

/// At most `max` entries.
pub(crate) fn count(field: &'static str, len: usize, max: usize) -> Result<(), InvalidRequest> {
    if len <= max {
        return Ok(());
    }
    Err(InvalidRequest::new(field, format!("a list of {len}"), format!("at most {max} entries")))
}

/// Token ids below `vocab`.
pub(crate) fn check_ids(field: &'static str, ids: &[u32], vocab: usize) -> Result<(), InvalidRequest> {
    match ids.iter().position(|&id| id as usize >= vocab) {
        None => Ok(()),
        Some(at) => Err(InvalidRequest::new(
            field,
            format!("token {} at index {at}", ids[at]),
            format!("token ids are below {vocab}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn limits() -> RequestLimits {
        RequestLimits {
            vocab: 100,
            context: 1000,
            max_choices: 16,
            max_top_logprobs: 20,
            max_stop_tokens: 4,
            max_logit_bias: 8,
            max_dry_breakers: 64,
            max_salt_bytes: 256,
            max_deadline: Duration::from_secs(600),
        }
    }

    /// `edit` makes a draft that `check` must reject for `field`, or accept if `field` is empty.
    fn check(field: &str, edit: impl FnOnce(&mut Draft)) {
        let mut draft = Draft { prompt: vec![1, 2, 3], ..Draft::default() };
        edit(&mut draft);
        match Request::check(draft, &limits()) {
            Ok(_) => assert_eq!(field, "", "accepted"),
            Err(error) => assert_eq!(error.field, field, "{error}"),
        }
    }

    #[test]
    fn each_field_is_checked_at_its_limits() {
        check("", |_| ());
        check("prompt", |d| d.prompt.clear());
        check("prompt", |d| d.prompt[1] = 100);
        check("", |d| d.prompt[1] = 99);
        for (value, field) in [(0, "max_tokens"), (1, ""), (1000, ""), (1001, "max_tokens"), (-1, "max_tokens")] {
            check(field, |d| d.max_tokens = Some(value));
        }
        for (value, field) in [(0, ""), (10, ""), (11, "min_tokens"), (-1, "min_tokens"), (i64::MAX, "min_tokens")] {
            check(field, |d| (d.min_tokens, d.max_tokens) = (value, Some(10)));
        }
        for (value, field) in [(0, "n"), (1, ""), (16, ""), (17, "n"), (-1, "n"), (i64::MIN, "n")] {
            check(field, |d| d.n = Some(value));
        }
        for (value, field) in [(-1, "top_logprobs"), (0, ""), (20, ""), (21, "top_logprobs")] {
            check(field, |d| d.top_logprobs = value);
        }
        for (value, field) in [(-1, "prompt_logprobs"), (0, ""), (20, ""), (21, "prompt_logprobs")] {
            check(field, |d| d.prompt_logprobs = Some(value));
        }
        for (value, field) in [(-101, "priority"), (-100, ""), (100, ""), (101, "priority")] {
            check(field, |d| d.priority = value);
        }
        for (secs, field) in [(0, "deadline"), (1, ""), (600, ""), (601, "deadline")] {
            check(field, |d| d.deadline = Some(Duration::from_secs(secs)));
        }
        check("", |d| d.stop_tokens = vec![1; 4]);
        check("stop_token_ids", |d| d.stop_tokens = vec![1; 5]);
        check("stop_token_ids", |d| d.stop_tokens = vec![100]);
        check("cache_salt", |d| d.cache_salt = Some(String::new()));
        check("", |d| d.cache_salt = Some("s".repeat(256)));
        check("cache_salt", |d| d.cache_salt = Some("s".repeat(257)));
    }

    #[test]
    fn an_error_names_field_value_and_limit() {
        let draft = Draft { prompt: vec![1], n: Some(17), ..Draft::default() };
        let error = Request::check(draft, &limits()).expect_err("n is over the limit");
        assert_eq!(error.to_string(), "n is 17: allowed are integers from 1 to 16");
    }
}
