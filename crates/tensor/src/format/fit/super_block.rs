//! Fits the two levels of a K format: integers, integer scales of the sub-blocks, and the scale of these scales.
//!
//! First each sub-block gets the line that fits it best (see [`super`]). Rounding these lines to integer scales
//! loses some of that, which is won back by turns: every sub-block tries the neighbours of its integer scale, then the
//! scales of the whole block are solved again for the integers there are. Each turn can only lessen the error.

use super::affine::{Affine, AffineSums};
use super::grid::{Grid, GridSums};
use super::{Lanes, at_least, at_most, clamp, inverse_or_zero, round};
use crate::format::block::F16Bytes;

/// A block of `L` sub-blocks of `N` values whose scales have a sign.
pub(crate) struct SignedBlock<const N: usize, const L: usize> {
    pub(crate) d: F16Bytes,
    pub(crate) scales: [i8; L],
    /// The grid's integers, `[L][N]`.
    pub(crate) q: [[i8; N]; L],
}

impl<const N: usize, const L: usize> SignedBlock<N, L> {
    /// Scales lie in `[-scale_half, scale_half)`.
    pub(crate) fn fit(lanes: &Lanes<N, L>, grid: impl Grid, scale_half: f32) -> Self {
        let lines = grid.fit(lanes);
        let extreme = lines.iter().fold(0.0_f32, |extreme, &s| if s.abs() > extreme.abs() { s } else { extreme });
        let mut d = F16Bytes::spanning(-extreme / scale_half).to_f32();
        let mut scales = lines.map(|s| clamp(round(s * inverse_or_zero(d)), -scale_half, scale_half - 1.0));
        for _ in 0..TURNS {
            let mut best = GridSums { xq: [0.0; L], qq: [0.0; L] };
            let (mut best_scales, mut best_error) = (scales, [f32::INFINITY; L]);
            for step in NEIGHBOURS {
                let tried = scales.map(|scale| clamp(scale + step, -scale_half, scale_half - 1.0));
                let sums = grid.sums(lanes, &tried.map(|scale| inverse_or_zero(d * scale)));
                for l in 0..L {
                    let error = square_error(d * tried[l], sums.xq[l], sums.qq[l]);
                    if error < best_error[l] {
                        (best_scales[l], best_error[l]) = (tried[l], error);
                        (best.xq[l], best.qq[l]) = (sums.xq[l], sums.qq[l]);
                    }
                }
            }
            scales = best_scales;
            let xq: f32 = (0..L).map(|l| scales[l] * best.xq[l]).sum();
            let qq: f32 = (0..L).map(|l| scales[l] * scales[l] * best.qq[l]).sum();
            let refit = half_scale(if qq > 0.0 { xq / qq } else { d });
            if square_error(refit, xq, qq) < square_error(d, xq, qq) {
                d = refit;
            }
        }
        let q = std::array::from_fn(|l| {
            let inverse = inverse_or_zero(d * scales[l]);
            std::array::from_fn(|i| grid.nearest(lanes.x[i][l] * inverse) as i8)
        });
        SignedBlock { d: F16Bytes::from_f32(d), scales: scales.map(|scale| scale as i8), q }
    }
}

/// The weighted squared error of a scale, less that of zero.
fn square_error(scale: f32, xq: f32, qq: f32) -> f32 {
    scale * (scale * qq - 2.0 * xq)
}

/// A block of `L` sub-blocks of `N` values with scales and minima.
pub(crate) struct AffineBlock<const N: usize, const L: usize> {
    pub(crate) d: F16Bytes,
    pub(crate) dmin: F16Bytes,
    pub(crate) scales: [u8; L],
    pub(crate) mins: [u8; L],
    /// `[L][N]`, in `[0, top]`.
    pub(crate) q: [[u8; N]; L],
}

impl<const N: usize, const L: usize> AffineBlock<N, L> {
    /// Scales and minima lie in `[0, scale_top]`.
    pub(crate) fn fit(lanes: &Lanes<N, L>, top: f32, scale_top: f32) -> Self {
        let integers = Affine { top, any_sign: false };
        let (line_scales, line_mins) = integers.fit(lanes);
        let greatest = |values: &[f32; L]| values.iter().fold(0.0, |max, &value| at_least(value, max));
        let mut d = F16Bytes::spanning(greatest(&line_scales) / scale_top).to_f32();
        let mut dmin = F16Bytes::spanning(greatest(&line_mins) / scale_top).to_f32();
        let mut scales = line_scales.map(|s| at_most(round(s * inverse_or_zero(d)), scale_top));
        let mut mins = line_mins.map(|m| at_most(round(m * inverse_or_zero(dmin)), scale_top));
        for _ in 0..TURNS {
            let mut best = scales.map(|_| AffineSums { one: 0.0, q: 0.0, qq: 0.0, x: 0.0, xq: 0.0 });
            let (mut best_scales, mut best_mins, mut best_error) = (scales, mins, [f32::INFINITY; L]);
            let offsets = mins.map(|min| dmin * min);
            for step in NEIGHBOURS {
                let tried = scales.map(|scale| clamp(scale + step, 0.0, scale_top));
                let sums = integers.sums(lanes, &tried.map(|scale| inverse_or_zero(d * scale)), &offsets);
                for l in 0..L {
                    let sums = sums.of(l);
                    let s = d * tried[l];
                    let min = (s * sums.q - sums.x) / sums.one;
                    let min = clamp(round(min * inverse_or_zero(dmin)), 0.0, scale_top);
                    let error = sums.error(s, dmin * min);
                    if error < best_error[l] {
                        (best_scales[l], best_mins[l], best_error[l], best[l]) = (tried[l], min, error, sums);
                    }
                }
            }
            (scales, mins) = (best_scales, best_mins);
            (d, dmin) = refit(&best, &scales, &mins, d, dmin);
        }
        let q = std::array::from_fn(|l| {
            let (inverse, min) = (inverse_or_zero(d * scales[l]), dmin * mins[l]);
            std::array::from_fn(|i| integers.nearest(lanes.x[i][l], inverse, min) as u8)
        });
        AffineBlock {
            d: F16Bytes::from_f32(d),
            dmin: F16Bytes::from_f32(dmin),
            scales: scales.map(|scale| scale as u8),
            mins: mins.map(|min| min as u8),
            q,
        }
    }
}

/// The block's scales that fit best, or the ones there are where rounding to f16 spoils the gain.
fn refit<const L: usize>(
    sums: &[AffineSums<f32>; L],
    scales: &[f32; L],
    mins: &[f32; L],
    d: f32,
    dmin: f32,
) -> (f32, f32) {
    // As one line over all lanes, in which a lane's q counts `scale` times and its offset `min` times.
    let mut total = AffineSums { one: 0.0, q: 0.0, qq: 0.0, x: 0.0, xq: 0.0 };
    for l in 0..L {
        total.one += mins[l] * mins[l] * sums[l].one;
        total.q += mins[l] * scales[l] * sums[l].q;
        total.qq += scales[l] * scales[l] * sums[l].qq;
        total.x += mins[l] * sums[l].x;
        total.xq += scales[l] * sums[l].xq;
    }
    let through_zero = || (if total.qq > 0.0 { total.xq / total.qq } else { d }, dmin);
    let (new_d, new_dmin) = total.line().unwrap_or_else(through_zero);
    let (new_d, new_dmin) = (half_scale(new_d), half_scale(new_dmin));
    let better = total.error(new_d, new_dmin) < total.error(d, dmin);
    if better && new_d >= 0.0 && new_dmin >= 0.0 { (new_d, new_dmin) } else { (d, dmin) }
}

/// The value as the block will store it.
fn half_scale(value: f32) -> f32 {
    F16Bytes::from_scale(value).to_f32()
}

/// Turns of neighbours and whole-block scale. More gain less than 0.1 % of the error.
const TURNS: usize = 2;

/// Steps from an integer scale to those that are tried beside it.
const NEIGHBOURS: [f32; 3] = [0.0, -1.0, 1.0];
