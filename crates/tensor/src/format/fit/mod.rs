//! Searches for the scales that make quantized values fit best.
//!
//! The problem in all formats: given values x and weights w, find a scale s, a minimum m and integers q within a range
//! that make `sum(w (x - (s q - m))^2)` least. For given q the best s and m are those of a least-squares line; for
//! given s and m the best q are the nearest integers. So the searches try a handful of scales near the one that just
//! spans the values, take the nearest integers, solve for the line, and keep the line with the least error.
//!
//! A *lane* is one such problem. `L` lanes of `N` values are solved side by side, value by value, so that the inner
//! loops become vector code. Nothing here knows a format's bytes.
//!
//! - [`Grid`]: formats with a scale alone.
//! - [`Affine`]: formats with scale and minimum.
//! - [`SignedBlock`], [`AffineBlock`]: the two levels of scales of the K formats, for either.

mod affine;
mod grid;
mod super_block;

pub(crate) use affine::Affine;
pub(crate) use grid::{Codebook, Grid, Symmetric};
pub(crate) use super_block::{AffineBlock, SignedBlock};

/// `L` lanes of `N` values.
pub(crate) struct Lanes<const N: usize, const L: usize> {
    /// Values.
    pub(crate) x: [[f32; L]; N],
    /// What a squared error costs; positive, near 1.
    pub(crate) w: [[f32; L]; N],
}

impl<const N: usize, const L: usize> Lanes<N, L> {
    /// Lanes from at most `L * N` values and their weights, lane after lane; lanes beyond them are zero.
    pub(crate) fn new(values: &[f32], weights: &[f32]) -> Self {
        let mut lanes = Lanes { x: [[0.0; L]; N], w: [[1.0; L]; N] };
        for (l, (values, weights)) in values.chunks_exact(N).zip(weights.chunks_exact(N)).enumerate() {
            for i in 0..N {
                lanes.x[i][l] = values[i];
                lanes.w[i][l] = weights[i];
            }
        }
        lanes
    }

    /// The value of greatest magnitude of each lane, with its sign.
    fn extremes(&self) -> [f32; L] {
        let mut extremes = [0.0_f32; L];
        for x in &self.x {
            for l in 0..L {
                extremes[l] = if x[l].abs() > extremes[l].abs() { x[l] } else { extremes[l] };
            }
        }
        extremes
    }

    /// Least (at most 0 unless `any_sign`) and greatest value of each lane.
    fn bounds(&self, any_sign: bool) -> ([f32; L], [f32; L]) {
        let mut low = if any_sign { self.x[0] } else { [0.0; L] };
        let mut high = self.x[0];
        for x in &self.x {
            for l in 0..L {
                low[l] = at_most(x[l], low[l]);
                high[l] = at_least(x[l], high[l]);
            }
        }
        (low, high)
    }
}

/// 1 / x, and 0 for 0 and for x so small that it has no inverse.
pub(crate) fn inverse_or_zero(x: f32) -> f32 {
    if x.abs() > f32::MIN_POSITIVE { 1.0 / x } else { 0.0 }
}

/// Nearest integer, ties to even, for magnitudes below 2^22. Adding 1.5 * 2^23 leaves no bits for a fraction; the
/// standard function is a call on baseline x86-64.
pub(crate) fn round(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (x + NO_FRACTION) - NO_FRACTION
}

/// `x`, or the end of the range that it lies beyond.
pub(crate) fn clamp(x: f32, low: f32, high: f32) -> f32 {
    at_most(at_least(x, low), high)
}

/// The greater one, without the care for NaN of [`f32::max`], which costs vector code three instructions more.
pub(crate) fn at_least(x: f32, low: f32) -> f32 {
    if x > low { x } else { low }
}

/// The lesser one.
pub(crate) fn at_most(x: f32, high: f32) -> f32 {
    if x < high { x } else { high }
}

/// How far, in steps, the searches move the scale from the one that just spans the values. Most values are small, so
/// that clipping the greatest one a little, or not using the last integer, is often the better fit. Finer or wider
/// searches gain less than 0.5 % of the error.
const SPANS: [f32; 11] = [0.0, -1.5, -1.2, -0.9, -0.6, -0.3, 0.3, 0.6, 0.9, 1.2, 1.5];

/// Times that integers and line are improved in turn after a search.
const REFINEMENTS: usize = 2;
