//! How tokens are drawn: what a client asks ([`SamplingDraft`]) and what the sampler takes ([`Sampling`]).

use std::ops::RangeInclusive;

use crate::ranges;
use crate::request::{InvalidRequest, RequestLimits, check_ids, count, integer};

/// What a client asks of the sampler, unchecked. [`Default`] draws from the model's own distribution.
///
/// Stages, in order: logit bias, penalties, DRY, mask (also `min_tokens`), temperature, top-k, typical-p, top-p, min-p,
/// XTC, draw. Each truncation works on what the one before it left, renormalised. (Temperature comes before truncation,
/// as in Hugging Face's transformers.)
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingDraft {
    /// `[0, 100]`; 0 takes the likeliest token.
    pub temperature: f64,
    /// Keeps the k likeliest tokens; 0 or -1 = all.
    pub top_k: i64,
    /// Keeps the fewest likeliest tokens whose probabilities reach this sum: `(0, 1]`.
    pub top_p: f64,
    /// Keeps tokens at least this fraction as likely as the likeliest: `[0, 1]`.
    pub min_p: f64,
    /// Keeps the tokens nearest to the expected surprise whose probabilities reach this sum: `(0, 1]`.
    pub typical_p: f64,
    /// Divides positive logits, multiplies negative ones, of tokens in the prompt or the output: `[0.01, 10]`.
    pub repetition_penalty: f64,
    /// Taken from the logit of each token in the output: `[-2, 2]`.
    pub presence_penalty: f64,
    /// Taken from the logit of a token for each time it is in the output: `[-2, 2]`.
    pub frequency_penalty: f64,
    /// How many of the latest tokens the three penalties look at; `None` = all.
    pub penalty_window: Option<i64>,
    /// DRY: `multiplier * base ^ (length - allowed_length)` is taken from the logit of a token that would prolong a
    /// repetition of at least `allowed_length` tokens. Multiplier `[0, 100]`; 0 = off.
    pub dry_multiplier: f64,
    /// DRY's base: `[1, 10]`.
    pub dry_base: f64,
    /// DRY's allowed length: `[1, 4096]`.
    pub dry_allowed_length: i64,
    /// How many of the latest tokens DRY looks at; `None` = all.
    pub dry_window: Option<i64>,
    /// Tokens that no repetition reaches across.
    pub dry_breakers: Vec<u32>,
    /// XTC: with this probability (`[0, 1]`), all tokens above the threshold except the least likely of them go.
    pub xtc_probability: f64,
    /// XTC's threshold: `[0.001, 1]`.
    pub xtc_threshold: f64,
    /// Added to logits: `[-100, 100]`.
    pub logit_bias: Vec<(u32, f64)>,
    /// Makes the draws repeatable; the same with any batch, any chunking, any preemption. `None` = a new one each time.
    pub seed: Option<i64>,
}

impl Default for SamplingDraft {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: None,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_window: None,
            dry_breakers: Vec::new(),
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// How tokens are drawn, checked. Stages that are off are `None`, so that each is asked for once.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// `None` = greedy.
    pub(crate) temperature: Option<f64>,
    pub(crate) top_k: Option<usize>,
    pub(crate) top_p: Option<f64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) typical_p: Option<f64>,
    pub(crate) penalties: Option<Penalties>,
    pub(crate) dry: Option<Dry>,
    pub(crate) xtc: Option<Xtc>,
    /// Ascending ids, none twice.
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) seed: Option<u64>,
}

/// Repetition, presence and frequency penalties.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Penalties {
    pub(crate) repetition: f32,
    pub(crate) presence: f32,
    pub(crate) frequency: f32,
    pub(crate) window: usize,
}

/// Don't repeat yourself.
#[derive(Clone, Debug, PartialEq)]
pub struct Dry {
    pub(crate) multiplier: f64,
    pub(crate) base: f64,
    pub(crate) allowed_length: usize,
    pub(crate) window: usize,
    pub(crate) breakers: Vec<u32>,
}

/// Exclude top choices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xtc {
    pub(crate) probability: f64,
    pub(crate) threshold: f64,
}

impl Sampling {
    /// Checks every field.
    pub(crate) fn check(draft: SamplingDraft, limits: &RequestLimits) -> Result<Self, InvalidRequest> {
        let temperature = number("temperature", draft.temperature, ranges::TEMPERATURE)?;
        let top_k = integer("top_k", draft.top_k, ranges::TOP_K)?;
        let top_p = share("top_p", draft.top_p)?;
        let typical_p = share("typical_p", draft.typical_p)?;
        let min_p = number("min_p", draft.min_p, ranges::MIN_P)?;
        Ok(Self {
            temperature: (temperature > 0.0).then_some(temperature),
            top_k: (top_k > 0).then_some(top_k as usize),
            top_p: (top_p < 1.0).then_some(top_p),
            min_p: (min_p > 0.0).then_some(min_p),
            typical_p: (typical_p < 1.0).then_some(typical_p),
            penalties: Penalties::check(&draft)?,
            xtc: Xtc::check(&draft)?,
            logit_bias: check_bias(&draft.logit_bias, limits)?,
            seed: draft.seed.map(|seed| seed as u64),
            dry: Dry::check(draft, limits)?,
        })
    }
}

impl Penalties {
    fn check(draft: &SamplingDraft) -> Result<Option<Self>, InvalidRequest> {
        let repetition = number("repetition_penalty", draft.repetition_penalty, ranges::REPETITION_PENALTY)? as f32;
        let presence = number("presence_penalty", draft.presence_penalty, ranges::PENALTY)? as f32;
        let frequency = number("frequency_penalty", draft.frequency_penalty, ranges::PENALTY)? as f32;
        let window = window("penalty_window", draft.penalty_window)?;
        let off = (repetition == 1.0 && presence == 0.0 && frequency == 0.0) || window == 0;
        Ok((!off).then_some(Self { repetition, presence, frequency, window }))
    }
}

impl Dry {
    fn check(draft: SamplingDraft, limits: &RequestLimits) -> Result<Option<Self>, InvalidRequest> {
        let multiplier = number("dry_multiplier", draft.dry_multiplier, ranges::DRY_MULTIPLIER)?;
        let base = number("dry_base", draft.dry_base, ranges::DRY_BASE)?;
        let allowed_length =
            integer("dry_allowed_length", draft.dry_allowed_length, ranges::DRY_ALLOWED_LENGTH)? as usize;
        let window = window("dry_window", draft.dry_window)?;
        count("dry_breakers", draft.dry_breakers.len(), limits.max_dry_breakers)?;
        check_ids("dry_breakers", &draft.dry_breakers, limits.vocab)?;
        let off = multiplier == 0.0 || window == 0;
        Ok((!off).then_some(Self { multiplier, base, allowed_length, window, breakers: draft.dry_breakers }))
    }
}

impl Xtc {
    fn check(draft: &SamplingDraft) -> Result<Option<Self>, InvalidRequest> {
        let probability = number("xtc_probability", draft.xtc_probability, ranges::XTC_PROBABILITY)?;
        let threshold = number("xtc_threshold", draft.xtc_threshold, ranges::XTC_THRESHOLD)?;
        Ok((probability > 0.0).then_some(Self { probability, threshold }))
    }
}

fn check_bias(bias: &[(u32, f64)], limits: &RequestLimits) -> Result<Vec<(u32, f32)>, InvalidRequest> {
    count("logit_bias", bias.len(), limits.max_logit_bias)?;
    let mut checked = Vec::with_capacity(bias.len());
    for &(id, value) in bias {
        check_ids("logit_bias", &[id], limits.vocab)?;
        checked.push((id, number("logit_bias", value, ranges::LOGIT_BIAS)? as f32));
    }
    checked.sort_by_key(|&(id, _)| id);
    match checked.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(InvalidRequest::new("logit_bias", format!("token {} twice", pair[0].0), "each id once")),
        None => Ok(checked),
    }
}

fn number(field: &'static str, value: f64, range: RangeInclusive<f64>) -> Result<f64, InvalidRequest> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(InvalidRequest::new(field, shown(value), ranges::of_numbers(&range)))
}

/// A number in (0, 1].
fn share(field: &'static str, value: f64) -> Result<f64, InvalidRequest> {
    if ranges::is_share(value) {
        return Ok(value);
    }
    Err(InvalidRequest::new(field, shown(value), ranges::OF_SHARES))
}

/// A number in few characters, however great it is.
fn shown(value: f64) -> String {
    let text = format!("{value:?}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A count of tokens; `None` = no bound.
fn window(field: &'static str, value: Option<i64>) -> Result<usize, InvalidRequest> {
    Ok(match value {
        Some(tokens) => integer(field, tokens, ranges::WINDOW)? as usize,
        None => usize::MAX,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits() -> RequestLimits {
        RequestLimits {
            vocab: 100,
            context: 1000,
            max_choices: 16,
            max_top_logprobs: 20,
            max_stop_tokens: 4,
            max_logit_bias: 2,
            max_dry_breakers: 3,
            max_salt_bytes: 256,
            max_deadline: Duration::from_secs(1),
        }
    }

    /// `edit` makes a draft that must be rejected for `field`, or accepted if `field` is empty.
    fn check(field: &str, edit: impl FnOnce(&mut SamplingDraft)) {
        let mut draft = SamplingDraft::default();
        edit(&mut draft);
        match Sampling::check(draft, &limits()) {
            Ok(_) => assert_eq!(field, "", "accepted"),
            Err(error) => assert_eq!(error.field, field, "{error}"),
        }
    }

    #[test]
    fn each_field_is_checked_at_its_limits() {
        type Field = fn(&mut SamplingDraft, f64);
        let fields: [(&str, Field, f64, f64); 8] = [
            ("temperature", |d, v| d.temperature = v, 0.0, 100.0),
            ("min_p", |d, v| d.min_p = v, 0.0, 1.0),
            ("repetition_penalty", |d, v| d.repetition_penalty = v, 0.01, 10.0),
            ("presence_penalty", |d, v| d.presence_penalty = v, -2.0, 2.0),
            ("frequency_penalty", |d, v| d.frequency_penalty = v, -2.0, 2.0),
            ("dry_multiplier", |d, v| d.dry_multiplier = v, 0.0, 100.0),
            ("xtc_probability", |d, v| d.xtc_probability = v, 0.0, 1.0),
            ("xtc_threshold", |d, v| d.xtc_threshold = v, 0.001, 1.0),
        ];
        for (name, set, min, max) in fields {
            for good in [min, max, (min + max) / 2.0] {
                check("", |d| set(d, good));
            }
            for bad in [min - 0.001, max + 0.001, 1e308, -1e308, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                check(name, |d| set(d, bad));
            }
        }
        for bad in [0.0, -0.1, 1.0001, f64::NAN] {
            check("top_p", |d| d.top_p = bad);
            check("typical_p", |d| d.typical_p = bad);
        }
        for (value, field) in [(-2, "top_k"), (-1, ""), (0, ""), (1 << 20, ""), ((1 << 20) + 1, "top_k")] {
            check(field, |d| d.top_k = value);
        }
        check("penalty_window", |d| d.penalty_window = Some(-1));
        check("dry_window", |d| d.dry_window = Some(1 << 31));
        check("dry_allowed_length", |d| d.dry_allowed_length = 0);
        check("dry_breakers", |d| d.dry_breakers = vec![100]);
        check("", |d| d.dry_breakers = vec![99; 3]);
        check("dry_breakers", |d| d.dry_breakers = vec![1; 4]);
        check("", |d| d.logit_bias = vec![(99, -100.0), (0, 100.0)]);
        check("logit_bias", |d| d.logit_bias = vec![(1, 0.0); 3]);
        check("logit_bias", |d| d.logit_bias = vec![(1, 0.0); 2]);
        check("logit_bias", |d| d.logit_bias = vec![(100, 0.0)]);
        check("logit_bias", |d| d.logit_bias = vec![(1, 100.1)]);
        check("logit_bias", |d| d.logit_bias = vec![(1, -100.1)]);
    }
}
