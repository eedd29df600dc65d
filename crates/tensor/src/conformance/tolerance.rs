//! How near a backend must come to the reference.
//!
//! Both measures are relative to the reference's row: `rms` is |got - wanted| / |wanted| (Euclidean norms, over the row),
//! `peak` is max |got - wanted| / rms(wanted). A wrong lane or a lost tail shows in `peak`, a systematic error in `rms`.

use super::net::{Fill, Net};
use crate::Format;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerance {
    rms: f32,
    peak: f32,
}

/// F32 weights and KV: sums of at most some thousand f32 products in another order, and a polynomial exp or tanh.
const EXACT: Tolerance = Tolerance { rms: 1e-5, peak: 1e-4 };

/// F16 weights, which may be multiplied with activations rounded to 9 significant bits or more: each is off by up to 2^-9 of
/// itself (rms 2^-9 / sqrt(3) = 0.0011). Twice that, for two inputs.
const F16_WEIGHTS: Tolerance = Tolerance { rms: 0.0025, peak: 0.015 };

/// BF16 weights, which may be multiplied with activations rounded to BF16: 8 significant bits, so each is off by up to
/// 2^-8 of itself (rms 2^-8 / sqrt(3) = 0.0023). Values meet scores of order 2, whose two factors are off as well, so
/// that the weights of values are by 2 * sqrt(2) * 0.0023: 0.007 in all.
const BF16_WEIGHTS: Tolerance = Tolerance { rms: 0.007, peak: 0.04 };

/// Quantized weights, multiplied with activations quantized to 8 bits over at most 256 values: the step is max / 127,
/// its rms error max / (127 * sqrt(12)) = max / 440. The inputs of the cases' matrices have their maximum at 4 standard
/// deviations where they are normed, at up to 13 where they are gated products (measured, 768 wide): 13 / 440 = 0.03.
const QUANTIZED_WEIGHTS: Tolerance = Tolerance { rms: 0.03, peak: 0.18 };

/// F16 or BF16 KV: queries and probabilities may be rounded to BF16 as well, so scores of order 1 are off by 2^-8, and
/// so are, relatively, the weights of the values, whose sum partly cancels.
const HALF_KV: Tolerance = Tolerance { rms: 0.01, peak: 0.06 };

/// Quantized KV: queries and probabilities may be quantized to 8 bits; see [`QUANTIZED_WEIGHTS`]. A value at the border
/// of two levels of the cache may fall to the other side.
const QUANTIZED_KV: Tolerance = Tolerance { rms: 0.03, peak: 0.2 };

/// For log_sum_exp, absolute: f32 logits of order 1 to 10, and a sum of exponentials in any order.
pub(super) const LOG_SUM_EXP: f32 = 2e-5;

impl Tolerance {
    /// The tolerance for a network whose matrices or KV pages have formats other than F32. Errors of weights and KV add.
    pub(super) fn of(net: &Net) -> Tolerance {
        let weights = net.fills().map(of_fill).fold(EXACT, Tolerance::max);
        let kv = of_kv(net.key_format).max(of_kv(net.value_format));
        Tolerance { rms: weights.rms + kv.rms, peak: weights.peak + kv.peak }
    }

    /// Whether `got` is near enough to `wanted`; else how far it is.
    pub(super) fn check(self, wanted: &[f32], got: &[f32]) -> Result<(), String> {
        let norm = wanted.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
        let mean = norm / (wanted.len() as f64).sqrt();
        let errors = wanted.iter().zip(got).map(|(&w, &g)| (f64::from(g) - f64::from(w)).abs());
        let rms = (errors.clone().map(|e| e * e).sum::<f64>().sqrt() / norm) as f32;
        // Not f64::max, which would pass over a NaN.
        let (worst, error) = errors.enumerate().fold((0, 0.0), |a, b| if b.1 <= a.1 { a } else { b });
        let peak = (error / mean) as f32;
        // Written so that a NaN fails.
        if rms <= self.rms && peak <= self.peak {
            return Ok(());
        }
        Err(format!(
            "relative error {rms:.2e} (allowed {:.2e}), peak {peak:.2e} (allowed {:.2e}) at {worst}: {} instead of {}",
            self.rms, self.peak, got[worst], wanted[worst]
        ))
    }

    fn max(self, other: Tolerance) -> Tolerance {
        Tolerance { rms: self.rms.max(other.rms), peak: self.peak.max(other.peak) }
    }
}

fn of_fill(fill: Fill) -> Tolerance {
    match fill {
        Fill::Zero | Fill::Identity | Fill::Random(Format::F32) => EXACT,
        Fill::Random(Format::F16) => F16_WEIGHTS,
        Fill::Random(Format::BF16) => BF16_WEIGHTS,
        Fill::Random(_) => QUANTIZED_WEIGHTS,
    }
}

fn of_kv(format: Format) -> Tolerance {
    match format {
        Format::F32 => EXACT,
        Format::F16 | Format::BF16 => HALF_KV,
        _ => QUANTIZED_KV,
    }
}
