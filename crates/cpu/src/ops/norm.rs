//! Root-mean-square norm.

use crate::simd::lanes::LANES;
use crate::simd::{Kernel, Simd};

/// x <- x / sqrt(sum(x^2) / width + eps) * weight, in place.
#[derive(Debug)]
pub struct RmsNorm<'a> {
    /// `[width]`, padded with zeros to a multiple of [`LANES`].
    pub x: &'a mut [f32],
    /// As long as `x`.
    pub weight: &'a [f32],
    /// Values that count.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        rms_norm(s, self.x, self.weight, self.width, self.eps);
    }
}

/// See [`RmsNorm`].
#[inline(always)]
pub fn rms_norm<S: Simd>(s: S, x: &mut [f32], weight: &[f32], width: usize, eps: f32) {
    let factor = inverse_rms(s, x, width, eps);
    let factor = s.splat(factor);
    for (x, weight) in x.as_chunks_mut::<LANES>().0.iter_mut().zip(weight.as_chunks::<LANES>().0) {
        s.store(s.mul(s.mul(s.load(x), factor), s.load(weight)), x);
    }
}

/// 1 / sqrt(sum(x^2) / width + eps). `x` is padded with zeros to a multiple of [`LANES`].
#[inline(always)]
pub fn inverse_rms<S: Simd>(s: S, x: &[f32], width: usize, eps: f32) -> f32 {
    // Four sums hide the latency of the addition; which value goes to which depends on its place alone.
    let mut sums = [s.splat(0.0); 4];
    let (quads, tail) = x.as_chunks::<LANES>().0.as_chunks::<4>();
    for quad in quads {
        for i in 0..4 {
            let x = s.load(&quad[i]);
            sums[i] = s.fma(x, x, sums[i]);
        }
    }
    for x in tail {
        let x = s.load(x);
        sums[0] = s.fma(x, x, sums[0]);
    }
    let sum = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])));
    1.0 / (sum / width as f32 + eps).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn padding_does_not_count() {
        let mut x = [3.0, -4.0, 0.0].to_vec();
        x.resize(LANES, 0.0);
        let mut weight = vec![1.0, 2.0, 5.0];
        weight.resize(LANES, 0.0);
        for isa in Isa::available() {
            let mut y = x.clone();
            isa.dispatch(RmsNorm { x: &mut y, weight: &weight, width: 3, eps: 0.0 });
            let rms = (25.0f32 / 3.0).sqrt();
            for (y, expected) in y.iter().zip([3.0 / rms, -8.0 / rms, 0.0]) {
                assert!((y - expected).abs() < 1e-6, "{isa}: {y} is not {expected}");
            }
        }
    }
}
