//! What the numbers of a request may be: whoever reads them, from HTTP or from a command line, says the same as
//! [`crate::Request::check`].

use std::ops::RangeInclusive;

/// [`crate::Draft::priority`].
pub const PRIORITY: RangeInclusive<i64> = -100..=100;
/// [`crate::SamplingDraft::temperature`].
pub const TEMPERATURE: RangeInclusive<f64> = 0.0..=100.0;
/// [`crate::SamplingDraft::top_k`]; the end is more than any vocabulary.
pub const TOP_K: RangeInclusive<i64> = -1..=1 << 20;
/// [`crate::SamplingDraft::min_p`].
pub const MIN_P: RangeInclusive<f64> = 0.0..=1.0;
/// [`crate::SamplingDraft::repetition_penalty`].
pub const REPETITION_PENALTY: RangeInclusive<f64> = 0.01..=10.0;
/// [`crate::SamplingDraft::presence_penalty`] and [`crate::SamplingDraft::frequency_penalty`].
pub const PENALTY: RangeInclusive<f64> = -2.0..=2.0;
/// [`crate::SamplingDraft::penalty_window`] and [`crate::SamplingDraft::dry_window`], in tokens.
pub const WINDOW: RangeInclusive<i64> = 0..=i32::MAX as i64;
/// [`crate::SamplingDraft::dry_multiplier`].
pub const DRY_MULTIPLIER: RangeInclusive<f64> = 0.0..=100.0;
/// [`crate::SamplingDraft::dry_base`].
pub const DRY_BASE: RangeInclusive<f64> = 1.0..=10.0;
/// [`crate::SamplingDraft::dry_allowed_length`], in tokens.
pub const DRY_ALLOWED_LENGTH: RangeInclusive<i64> = 1..=4096;
/// [`crate::SamplingDraft::xtc_probability`].
pub const XTC_PROBABILITY: RangeInclusive<f64> = 0.0..=1.0;
/// [`crate::SamplingDraft::xtc_threshold`]; the start bounds how many tokens can lie above it.
pub const XTC_THRESHOLD: RangeInclusive<f64> = 0.001..=1.0;
/// The values of [`crate::SamplingDraft::logit_bias`].
pub const LOGIT_BIAS: RangeInclusive<f64> = -100.0..=100.0;

/// What an integer may be, in words.
pub fn of_integers(range: &RangeInclusive<i64>) -> String {
    format!("allowed are integers from {} to {}", range.start(), range.end())
}

/// What a number may be, in words.
pub fn of_numbers(range: &RangeInclusive<f64>) -> String {
    format!("allowed are numbers from {} to {}", range.start(), range.end())
}

/// Whether a number is a share, which is something but no more than all: `(0, 1]`.
pub fn is_share(value: f64) -> bool {
    value > 0.0 && value <= 1.0
}

/// What a share may be, in words.
pub const OF_SHARES: &str = "allowed are numbers above 0, up to 1";
