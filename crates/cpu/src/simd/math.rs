//! exp and tanh on lanes.

use super::Simd;

/// Coefficients of 2^f - 1 over f in [-0.5, 0.5], highest power first: ln(2)^n / n!. The seventh power is left out;
/// relative error of exp below 2e-7.
const EXP2_SERIES: [f32; 6] = [1.540_353e-4, 1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1];

/// The least power of two that [`exp`] gives: below it, results stay at 2^-126.
const LEAST_POWER: f32 = -126.0;

/// The greatest power of two: above it, results stay near 2^127.
const GREATEST_POWER: f32 = 127.0;

/// e^x. Relative error below 1e-6 for results in [2^-126, 2^127]; beyond, the nearer end; 2^-126 where x is no number.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let power = s.mul(x, s.splat(std::f32::consts::LOG2_E));
    let power = s.min(s.max(power, s.splat(LEAST_POWER)), s.splat(GREATEST_POWER));
    let whole = s.round(power);
    let fraction = s.sub(power, whole);
    let mut series = s.splat(EXP2_SERIES[0]);
    for coefficient in &EXP2_SERIES[1..] {
        series = s.fma(series, fraction, s.splat(*coefficient));
    }
    s.times_power(s.fma(series, fraction, s.splat(1.0)), whole)
}

/// e^x, but no number where x is none or infinite, which [`exp`] would hide.
#[inline(always)]
pub fn exp_or_nan<S: Simd>(s: S, x: S::F) -> S::F {
    s.add(exp(s, x), s.sub(x, x))
}

/// x / (1 + e^-x): the SiLU activation.
#[inline(always)]
pub fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(x, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// tanh x, with an absolute error below 1e-6.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let e = exp(s, s.add(x, x));
    s.sub(one, s.div(s.splat(2.0), s.add(e, one)))
}

/// cap * tanh(x / cap), but no number where x is none or infinite, which [`tanh`] would hide.
#[inline(always)]
pub fn soft_cap<S: Simd>(s: S, x: S::F, cap: f32) -> S::F {
    s.fma(s.splat(cap), tanh(s, s.mul(x, s.splat(1.0 / cap))), s.sub(x, x))
}

/// GELU in its tanh approximation.
#[inline(always)]
pub fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    /// sqrt(2 / pi)
    const SLOPE: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    let inner = s.mul(s.splat(SLOPE), s.mul(x, s.fma(s.mul(x, x), s.splat(CUBIC), s.splat(1.0))));
    s.mul(s.mul(s.splat(0.5), x), s.add(s.splat(1.0), tanh(s, inner)))
}
