//! The fields that chat and text completions share: sampling, ends, streaming.

use std::sync::Arc;
use std::time::Duration;

use engine::{Draft, RequestLimits, SamplingDraft, Tenant, ranges};
use serde_json::Value;
use tokenizer::ControlTokens;

use super::overflow::read_overflow;
use crate::app::App;
use crate::config::Overflow;
use crate::error::ApiError;
use crate::fields::{Fields, bounded_text, of_bounded_texts, of_token_ids, shown};
use crate::fleet::Lease;
use crate::generate::TextEnd;
use crate::model::ServedModel;

/// Fields of OpenAI's API and of clients that change nothing here; a strict server takes them, too.
pub(super) const IGNORED: &[&str] =
    &["user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"];

/// Where DRY's repetitions end when the request does not say.
const DRY_BREAKERS: &[&str] = &["\n", ":", "\"", "*"];

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
    /// Reads the fields, each within its range.
    pub(super) fn read(fields: &mut Fields, app: &App, model: &Lease, tenant: Tenant) -> Result<Self, ApiError> {
        let sampling = read_sampling(fields, app, model)?;
        let engine_limits = model.engine.limits();
        let context = engine_limits.context as i64;
        let max_tokens = fields.integer("max_tokens", 1..=context)?;
        let max_completion_tokens = fields.integer("max_completion_tokens", 1..=context)?;
        let most_tokens = max_completion_tokens.or(max_tokens);
        let ignore_eos = fields.boolean("ignore_eos")?.unwrap_or(false);
        let stop_tokens = fields.token_ids("stop_token_ids", engine_limits.max_stop_tokens, engine_limits.vocab)?;
        let stop_tokens = stop_tokens.unwrap_or_default();
        let mut end_tokens = stop_tokens.clone();
        if !ignore_eos {
            end_tokens.extend_from_slice(model.tokenizer.end_of_generation());
        }
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let draft = Draft {
            max_tokens: most_tokens,
            min_tokens: fields.integer("min_tokens", 0..=most_tokens.unwrap_or(context))?.unwrap_or(0),
            deadline: Some(read_deadline(fields, model)?),
            waited: model.waited,
            stop_tokens,
            ignore_eos,
            n: fields.integer("n", 1..=engine_limits.max_choices as i64)?,
            priority: fields.integer("priority", ranges::PRIORITY)?.unwrap_or(0),
            tenant,
            no_cache: !fields.boolean("cache_prompt")?.unwrap_or(true),
            cache_salt: fields.text("cache_salt")?,
            sampling,
            ..Draft::default()
        };
        let end = TextEnd { strings: read_stop(fields, app)?, tokens: end_tokens };
        let include_usage = read_stream_options(fields, stream)?;
        let cache_debug = fields.boolean("cache_debug")?.unwrap_or(false);
        if cache_debug && stream && !include_usage {
            let allowed = "allowed in a stream only together with stream_options.include_usage: true";
            return Err(fields.wrong("cache_debug", "true", allowed));
        }
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

/// `deadline_ms`: time from the moment that the request has been read to the last token, at most what the model gives
/// to all. Waiting for the model may have taken it all.
fn read_deadline(fields: &mut Fields, model: &Lease) -> Result<Duration, ApiError> {
    let max = model.engine.limits().max_deadline;
    let max_ms = i64::try_from(max.as_millis()).unwrap_or(i64::MAX);
    let deadline_ms = fields.integer("deadline_ms", 1..=max_ms)?;
    let deadline = deadline_ms.map_or(max, |ms| Duration::from_millis(ms as u64));
    if model.waited >= deadline { Err(ApiError::deadline(deadline)) } else { Ok(deadline) }
}

fn read_sampling(fields: &mut Fields, app: &App, model: &ServedModel) -> Result<SamplingDraft, ApiError> {
    let base = SamplingDraft::default();
    let mut number =
        |name: &str, range, default: f64| Ok::<_, ApiError>(fields.number(name, range)?.unwrap_or(default));
    let mut draft = SamplingDraft {
        temperature: number("temperature", ranges::TEMPERATURE, base.temperature)?,
        min_p: number("min_p", ranges::MIN_P, base.min_p)?,
        repetition_penalty: number("repetition_penalty", ranges::REPETITION_PENALTY, base.repetition_penalty)?,
        presence_penalty: number("presence_penalty", ranges::PENALTY, base.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", ranges::PENALTY, base.frequency_penalty)?,
        dry_multiplier: number("dry_multiplier", ranges::DRY_MULTIPLIER, base.dry_multiplier)?,
        dry_base: number("dry_base", ranges::DRY_BASE, base.dry_base)?,
        xtc_probability: number("xtc_probability", ranges::XTC_PROBABILITY, base.xtc_probability)?,
        xtc_threshold: number("xtc_threshold", ranges::XTC_THRESHOLD, base.xtc_threshold)?,
        ..base
    };
    draft.top_p = fields.share("top_p")?.unwrap_or(draft.top_p);
    draft.typical_p = fields.share("typical_p")?.unwrap_or(draft.typical_p);
    draft.top_k = fields.integer("top_k", ranges::TOP_K)?.unwrap_or(draft.top_k);
    draft.penalty_window = fields.integer("penalty_window", ranges::WINDOW)?;
    let allowed_length = fields.integer("dry_allowed_length", ranges::DRY_ALLOWED_LENGTH)?;
    draft.dry_allowed_length = allowed_length.unwrap_or(draft.dry_allowed_length);
    draft.dry_window = fields.integer("dry_window", ranges::WINDOW)?;
    draft.seed = fields.integer("seed", i64::MIN..=i64::MAX)?;
    let limits = model.engine.limits();
    draft.logit_bias = read_logit_bias(fields, limits)?;
    let breaker_bytes = app.config.requests.max_breaker_bytes;
    let breakers = fields.texts("dry_sequence_breakers", limits.max_dry_breakers, breaker_bytes)?;
    if draft.dry_multiplier > 0.0 {
        draft.dry_breakers = breaker_ids(breakers, model);
    }
    Ok(draft)
}

/// `logit_bias`: an object from token ids to numbers.
fn read_logit_bias(fields: &mut Fields, limits: &RequestLimits) -> Result<Vec<(u32, f64)>, ApiError> {
    const NAME: &str = "logit_bias";
    let (max, vocab) = (limits.max_logit_bias, limits.vocab);
    let Some(map) = fields.object(NAME)? else { return Ok(Vec::new()) };
    if map.len() > max {
        let value = format!("an object of {}", map.len());
        return Err(fields.wrong(NAME, &value, &format!("at most {max} entries")));
    }
    let read = |(key, value): (&String, &Value)| {
        let shown_key = || shown(&key.as_str().into());
        // `+1` and `01` would be other names of the same token.
        let id = key.parse::<u32>().ok().filter(|id| (*id as usize) < vocab && id.to_string() == *key);
        let id = id.ok_or_else(|| {
            let found = format!("an object with the key {}", shown_key());
            fields.wrong(NAME, &found, &format!("each key {}, without sign or leading zero", of_token_ids(vocab)))
        })?;
        let bias = value.as_f64().filter(|bias| ranges::LOGIT_BIAS.contains(bias));
        let bias = bias.ok_or_else(|| {
            let found = format!("an object with {}: {}", shown_key(), shown(value));
            fields.wrong(NAME, &found, &ranges::of_numbers(&ranges::LOGIT_BIAS))
        })?;
        Ok((id, bias))
    };
    map.iter().map(read).collect()
}

/// The tokens at which DRY's breakers end.
fn breaker_ids(given: Option<Vec<String>>, model: &ServedModel) -> Vec<u32> {
    let texts = given.unwrap_or_else(|| DRY_BREAKERS.iter().map(|text| (*text).to_owned()).collect());
    let last = |text: &String| model.tokenizer.encode(text, ControlTokens::PlainText).ok()?.last().copied();
    texts.iter().filter_map(last).collect()
}

/// `stop`: a string or a list of strings.
fn read_stop(fields: &mut Fields, app: &App) -> Result<Vec<String>, ApiError> {
    const NAME: &str = "stop";
    let limits = &app.config.requests;
    let (max, max_bytes) = (limits.max_stop_strings, limits.max_stop_bytes);
    let allowed = of_bounded_texts(max_bytes);
    match fields.value(NAME) {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() > max => {
            Err(fields.wrong(NAME, &format!("a list of {}", items.len()), &format!("at most {max} entries")))
        }
        Some(Value::Array(items)) => {
            let read = |(at, item)| {
                bounded_text(item, max_bytes).map_err(|value| fields.wrong_entry(NAME, at, &value, &allowed))
            };
            items.into_iter().enumerate().map(read).collect()
        }
        Some(one) => {
            let text = bounded_text(one, max_bytes);
            let text = text.map_err(|value| fields.wrong(NAME, &value, &format!("{allowed}, or a list of such")));
            text.map(|text| vec![text])
        }
    }
}

fn read_stream_options(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(mut options) = fields.fields("stream_options", "stream_options.")? else { return Ok(false) };
    if !stream {
        return Err(fields.wrong("stream_options", "an object", "allowed only together with stream: true"));
    }
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.finish(false, &[])?;
    Ok(include_usage)
}
