//! The formulas of the reference backend. Sums are f64, everything else f32.

use crate::backend::{Activation, Norm, Rope, RopeStyle};

/// sum(a * b), in eight interleaved partial sums: with a single one, tests of whole models would wait for additions.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f64; 8];
    for (a, b) in a.chunks(sums.len()).zip(b.chunks(sums.len())) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(a) * f64::from(b);
        }
    }
    sums.iter().sum::<f64>() as f32
}

/// sums += factor * x.
pub(super) fn add_scaled(sums: &mut [f64], factor: f32, x: &[f32]) {
    for (sum, &x) in sums.iter_mut().zip(x) {
        *sum += f64::from(factor) * f64::from(x);
    }
}

/// x / sqrt(mean(x^2) + eps) * weight.
pub(super) fn rms_norm(x: &[f32], norm: &Norm<Vec<f32>>) -> Vec<f32> {
    let mean_square = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / x.len() as f64;
    let inverse_rms = (1.0 / (mean_square + f64::from(norm.eps)).sqrt()) as f32;
    x.iter().zip(&norm.weight).map(|(x, weight)| x * inverse_rms * weight).collect()
}

/// Turns each pair of dimensions of a head by position * inv_freq.
pub(super) fn rotate(head: &mut [f32], position: u32, rope: &Rope) {
    let pairs = rope.inv_freq.len();
    for (i, &inv_freq) in rope.inv_freq.iter().enumerate() {
        let angle = position as f32 * inv_freq;
        let (sin, cos) = (angle.sin() * rope.magnitude, angle.cos() * rope.magnitude);
        let (first, second) = match rope.style {
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
            RopeStyle::Halves => (i, i + pairs),
        };
        let (a, b) = (head[first], head[second]);
        head[first] = a * cos - b * sin;
        head[second] = a * sin + b * cos;
    }
}

/// cap * tanh(x / cap), or x without cap.
pub(super) fn soft_cap(x: f32, cap: Option<f32>) -> f32 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}

/// exp(x) / sum(exp(x)), in place. The greatest value is subtracted first, so that no exponential overflows.
pub(super) fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for x in x.iter_mut() {
        *x = (*x - max).exp();
    }
    let sum = x.iter().map(|&x| f64::from(x)).sum::<f64>() as f32;
    for x in x.iter_mut() {
        *x /= sum;
    }
}

/// ln(sum(exp(x))).
pub(super) fn log_sum_exp(x: &[f32]) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = x.iter().map(|&x| f64::from(x - max).exp()).sum();
    (f64::from(max) + sum.ln()) as f32
}

pub(super) fn activate(x: f32, activation: Activation) -> f32 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            const SQRT_2_OVER_PI: f32 = 0.797_884_6;
            0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)).tanh())
        }
    }
}
