//! The fields that chat and text completions share: sampling, ends, streaming.

use std::sync::Arc;
use std::time::Duration;

use engine::{Draft, SamplingDraft, Tenant};
use serde_json::Value;
use tokenizer::ControlTokens;

use super::overflow::read_overflow;
use crate::app::App;
use crate::config::Overflow;
use crate::error::ApiError;
use crate::fields::{Fields, shown};
use crate::fleet::Lease;
use crate::generate::TextEnd;
use crate::model::ServedModel;

/// Fields of OpenAI's API and of clients that change nothing here; a strict server takes them, too.
pub(super) const IGNORED: &[&str] =
    &["user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"];

/// Where DRY's repetitions end when the request does not say.
const DRY_BREAKERS: &[&str] = &["\n", ":", "\"", "*"];
/// Entries of `dry_sequence_breakers`.
const MAX_BREAKERS: usize = 64;

/// What the shared fields say.
#[derive(Debug)]
pub(super) struct Params {
    /// Everything for the engine but the prompt.
    pub(super) draft: Draft,
    /// The field that said how many tokens to generate.
    pub(super) max_tokens_field: &'static str,
    pub(super) end: TextEnd,
    pub(super) overflow: Overflow,
    pub(super) stream: bool,
    /// A last chunk of a stream tells the usage.
    pub(super) include_usage: bool,
    /// The usage tells why the prefix cache had no more.
    pub(super) cache_debug: bool,
}

impl Params {
    /// Reads the fields. Their ranges are checked by the engine, which names them as the wire does.
    pub(super) fn read(fields: &mut Fields, app: &App, model: &Lease, tenant: Tenant) -> Result<Self, ApiError> {
        let limits = &app.config.requests;
        let sampling = read_sampling(fields, model, limits.max_logit_bias)?;
        let engine_limits = model.engine.limits();
        let max_tokens = fields.integer("max_tokens")?;
        let max_completion_tokens = fields.integer_within("max_completion_tokens", 1, engine_limits.context as i64)?;
        let ignore_eos = fields.boolean("ignore_eos")?.unwrap_or(false);
        let stop_tokens = fields.token_ids("stop_token_ids", engine_limits.max_stop_tokens)?.unwrap_or_default();
        let mut end_tokens = stop_tokens.clone();
        if !ignore_eos {
            end_tokens.extend_from_slice(model.tokenizer.end_of_generation());
        }
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let draft = Draft {
            max_tokens: max_completion_tokens.or(max_tokens),
            min_tokens: fields.integer("min_tokens")?.unwrap_or(0),
            deadline: Some(read_deadline(fields, model)?),
            stop_tokens,
            ignore_eos,
            n: fields.integer("n")?,
            priority: fields.integer("priority")?.unwrap_or(0),
            tenant,
            no_cache: !fields.boolean("cache_prompt")?.unwrap_or(true),
            cache_salt: fields.text("cache_salt")?,
            sampling,
            ..Draft::default()
        };
        let end = TextEnd { strings: read_stop(fields, app)?, tokens: end_tokens };
        let include_usage = read_stream_options(fields, stream)?;
        let cache_debug = fields.boolean("cache_debug")?.unwrap_or(false);
        let overflow = read_overflow(fields, app)?;
        let max_tokens_field = if max_completion_tokens.is_some() { "max_completion_tokens" } else { "max_tokens" };
        Ok(Self { draft, max_tokens_field, end, overflow, stream, include_usage, cache_debug })
    }
}

/// The served model that the request names.
pub(super) async fn read_model(fields: &mut Fields, app: &App) -> Result<Arc<Lease>, ApiError> {
    let name = fields.text("model")?;
    let deadline_ms = fields.peek("deadline_ms").and_then(Value::as_u64).filter(|ms| *ms > 0);
    app.model(name.as_deref(), deadline_ms.map(Duration::from_millis)).await
}

/// `deadline_ms`: time from arrival to the last token, at most what the model gives to all. Returns what waiting for the model left
/// of it.
fn read_deadline(fields: &mut Fields, model: &Lease) -> Result<Duration, ApiError> {
    let max = model.engine.limits().max_deadline;
    let max_ms = i64::try_from(max.as_millis()).unwrap_or(i64::MAX);
    let deadline_ms = fields.integer_within("deadline_ms", 1, max_ms)?;
    let deadline = deadline_ms.map_or(max, |ms| Duration::from_millis(ms as u64));
    // Whole milliseconds: who did not wait keeps the deadline as it was said.
    let left = deadline.saturating_sub(Duration::from_millis(model.waited.as_millis() as u64));
    if left.is_zero() { Err(ApiError::deadline(deadline)) } else { Ok(left) }
}

fn read_sampling(fields: &mut Fields, model: &ServedModel, max_bias: usize) -> Result<SamplingDraft, ApiError> {
    let base = SamplingDraft::default();
    let mut number = |name: &str, default: f64| Ok::<_, ApiError>(fields.number(name)?.unwrap_or(default));
    let mut draft = SamplingDraft {
        temperature: number("temperature", base.temperature)?,
        top_p: number("top_p", base.top_p)?,
        min_p: number("min_p", base.min_p)?,
        typical_p: number("typical_p", base.typical_p)?,
        repetition_penalty: number("repetition_penalty", base.repetition_penalty)?,
        presence_penalty: number("presence_penalty", base.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", base.frequency_penalty)?,
        dry_multiplier: number("dry_multiplier", base.dry_multiplier)?,
        dry_base: number("dry_base", base.dry_base)?,
        xtc_probability: number("xtc_probability", base.xtc_probability)?,
        xtc_threshold: number("xtc_threshold", base.xtc_threshold)?,
        ..base
    };
    draft.top_k = fields.integer("top_k")?.unwrap_or(draft.top_k);
    draft.penalty_window = fields.integer("penalty_window")?;
    draft.dry_allowed_length = fields.integer("dry_allowed_length")?.unwrap_or(draft.dry_allowed_length);
    draft.dry_window = fields.integer("dry_window")?;
    draft.seed = fields.integer("seed")?;
    draft.logit_bias = read_logit_bias(fields, max_bias)?;
    let breakers = fields.list("dry_sequence_breakers", MAX_BREAKERS)?;
    if draft.dry_multiplier > 0.0 {
        draft.dry_breakers = breaker_ids(fields, breakers, model)?;
    }
    Ok(draft)
}

/// `logit_bias`: an object from token ids to numbers.
fn read_logit_bias(fields: &mut Fields, max: usize) -> Result<Vec<(u32, f64)>, ApiError> {
    let Some(map) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    if map.len() > max {
        return Err(fields.wrong(
            "logit_bias",
            &format!("an object of {}", map.len()),
            &format!("at most {max} entries"),
        ));
    }
    map.iter()
        .map(|(key, value)| {
            let id = key
                .parse::<u32>()
                .map_err(|_| fields.wrong("logit_bias", &format!("{key:?}"), "keys are token ids"))?;
            let bias = value.as_f64().filter(|bias| bias.is_finite());
            Ok((
                id,
                bias.ok_or_else(|| fields.wrong("logit_bias", &shown(value), "values are numbers from -100 to 100"))?,
            ))
        })
        .collect()
}

/// The tokens at which DRY's breakers end.
fn breaker_ids(fields: &Fields, given: Option<Vec<Value>>, model: &ServedModel) -> Result<Vec<u32>, ApiError> {
    let texts: Vec<String> = match given {
        None => DRY_BREAKERS.iter().map(|text| (*text).to_owned()).collect(),
        Some(values) => values
            .iter()
            .map(|value| {
                let text = value.as_str().map(str::to_owned);
                text.ok_or_else(|| fields.wrong("dry_sequence_breakers", &shown(value), "must be a list of strings"))
            })
            .collect::<Result<_, _>>()?,
    };
    let last = |text: &String| model.tokenizer.encode(text, ControlTokens::PlainText).ok()?.last().copied();
    Ok(texts.iter().filter_map(last).collect())
}

/// `stop`: a string or a list of strings.
fn read_stop(fields: &mut Fields, app: &App) -> Result<Vec<String>, ApiError> {
    let limits = &app.config.requests;
    let (max, max_bytes) = (limits.max_stop_strings, limits.max_stop_bytes);
    let items = match fields.value("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(one) => vec![one],
    };
    if items.len() > max {
        return Err(fields.wrong("stop", &format!("a list of {}", items.len()), &format!("at most {max} entries")));
    }
    let read = |item: Value| match item {
        Value::String(text) if (1..=max_bytes).contains(&text.len()) => Ok(text),
        Value::String(text) => {
            let value = format!("a string of {} bytes", text.len());
            Err(fields.wrong("stop", &value, &format!("allowed are 1 to {max_bytes} bytes")))
        }
        other => Err(fields.wrong("stop", &shown(&other), "must be a string or a list of strings")),
    };
    items.into_iter().map(read).collect()
}

fn read_stream_options(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(mut options) = fields.fields("stream_options", "stream_options.")? else { return Ok(false) };
    if !stream {
        return Err(fields.wrong("stream_options", "set", "allowed only together with stream: true"));
    }
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.finish(false, &[])?;
    Ok(include_usage)
}
