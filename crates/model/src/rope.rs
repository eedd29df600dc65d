//! Rotary position embeddings: from a description (base, scaling) to the frequencies that backends use.
//!
//! Scalings follow Hugging Face's `modeling_rope_utils`; those of GGUF files follow llama.cpp. Frequencies are computed
//! in f64 and rounded once.

use std::f64::consts::TAU;

use tensor::{Rope, RopeStyle};

use crate::error::ModelError;

/// A rotary embedding as models describe it.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Pair `i` of n turns by `theta^(-i / n)` a position, before scaling.
    pub theta: f32,
    /// Dimensions of a head that turn; the rest stays.
    pub rotary_dim: usize,
    /// Which dimensions make a pair.
    pub style: RopeStyle,
    /// How the frequencies are stretched to a longer context.
    pub scaling: RopeScaling,
    /// `[rotary_dim / 2]` numbers by which frequencies are divided, from a GGUF's `rope_freqs.weight`. Such files
    /// carry Llama 3's scaling in this form.
    pub divisors: Option<Vec<f32>>,
}

/// How frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All alike.
    Linear {
        /// How many times longer the context becomes.
        factor: f32,
    },
    /// Llama 3.1: slow pairs are stretched, fast ones are not, those between are blended by their wavelength.
    Llama3 {
        /// How many times slower the slow pairs become.
        factor: f32,
        /// Pairs that turn less often than this in the original context are slow.
        low_freq_factor: f32,
        /// Pairs that turn more often than this are fast.
        high_freq_factor: f32,
        /// Context before stretching, in tokens.
        original_context: usize,
    },
    /// YaRN (arXiv 2309.00071): blended by the pair's index.
    Yarn {
        /// How many times longer the context becomes.
        factor: f32,
        /// Context before stretching, in tokens.
        original_context: usize,
        /// Pairs that turn more often than this in the original context are not stretched.
        beta_fast: f32,
        /// Pairs that turn less often than this are stretched in full.
        beta_slow: f32,
        /// Factor on sine and cosine.
        attention_factor: f32,
        /// Whether the borders of the blend are rounded to whole pairs.
        truncate: bool,
    },
}

impl RopeSpec {
    /// The frequencies.
    ///
    /// # Errors
    /// Numbers that are out of range, or frequencies that are not finite.
    pub fn rope(&self) -> Result<Rope, ModelError> {
        if self.rotary_dim == 0 || !self.rotary_dim.is_multiple_of(2) {
            return Err(ModelError::out_of_range("rotary dimension", self.rotary_dim, "even and at least 2"));
        }
        positive("rope theta", self.theta)?;
        let mut inv_freq = self.unscaled();
        if let Some(divisors) = &self.divisors {
            for (frequency, &divisor) in inv_freq.iter_mut().zip(divisors) {
                *frequency /= f64::from(divisor);
            }
        }
        let magnitude = self.scaling.apply(&mut inv_freq, self.theta)?;
        let inv_freq: Vec<f32> = inv_freq.into_iter().map(|frequency| frequency as f32).collect();
        if let Some(bad) = inv_freq.iter().chain([&magnitude]).find(|value| !value.is_finite()) {
            return Err(ModelError::out_of_range("a rope frequency", bad, "finite"));
        }
        Ok(Rope { inv_freq, magnitude, style: self.style })
    }

    /// theta^(-2i / rotary_dim).
    fn unscaled(&self) -> Vec<f64> {
        let theta = f64::from(self.theta);
        (0..self.rotary_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / self.rotary_dim as f64)).collect()
    }
}

impl RopeScaling {
    /// YaRN's usual factor on sine and cosine.
    pub(crate) fn yarn_attention_factor(factor: f32, mscale: f32) -> f32 {
        if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
    }

    /// Stretches the frequencies; the factor on sine and cosine.
    fn apply(&self, inv_freq: &mut [f64], theta: f32) -> Result<f32, ModelError> {
        match *self {
            RopeScaling::None => Ok(1.0),
            RopeScaling::Linear { factor } => {
                let factor = positive("rope scaling factor", factor)?;
                inv_freq.iter_mut().for_each(|frequency| *frequency /= factor);
                Ok(1.0)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let factor = positive("rope scaling factor", factor)?;
                let low = positive("rope low_freq_factor", low_freq_factor)?;
                let high = positive("rope high_freq_factor", high_freq_factor)?;
                if low >= high {
                    let wanted = format!("below high_freq_factor, {high}");
                    return Err(ModelError::out_of_range("rope low_freq_factor", low, wanted));
                }
                for frequency in inv_freq {
                    let turns = original_context as f64 * *frequency / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *frequency *= kept + (1.0 - kept) / factor;
                }
                Ok(1.0)
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate } => {
                let factor = positive("rope scaling factor", factor)?;
                let fast = positive("yarn beta_fast", beta_fast)?;
                let slow = positive("yarn beta_slow", beta_slow)?;
                let dims = 2 * inv_freq.len();
                // The (fractional) index of the pair that turns `turns` times in the original context.
                let index = |turns: f64| {
                    dims as f64 * (original_context as f64 / (turns * TAU)).ln() / (2.0 * f64::from(theta).ln())
                };
                let (mut first, mut last) = (index(fast), index(slow));
                if truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                (first, last) = (first.max(0.0), last.min((dims - 1) as f64));
                if first == last {
                    last += 0.001;
                }
                for (i, frequency) in inv_freq.iter_mut().enumerate() {
                    let stretched = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                    *frequency *= 1.0 - stretched + stretched / factor;
                }
                Ok(attention_factor)
            }
        }
    }
}

fn positive(what: &str, value: f32) -> Result<f64, ModelError> {
    if value.is_finite() && value > 0.0 {
        return Ok(f64::from(value));
    }
    Err(ModelError::out_of_range(what, value, "finite and above 0"))
}
