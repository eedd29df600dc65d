//! [`Form::Block32`](super::Form::Block32): 8-bit integers with block exponents.
//!
//! ```text
//! row   = unit of 32 values | unit | ... | scale, f32
//! unit  = 8 words of 4 values, i8
//!         1 word   -(sum of the values), i32
//!         1 word   the exponent, as what is added to the bits of an f32 to multiply it by 2^exponent
//!         1 word   (sum of the values) * 2^exponent, f32
//! value = scale * 2^exponent * q
//! ```
//!
//! Exponents are 0 to [`EXPONENT_MAX`]; the row's greatest magnitude has the highest exponent and q = 127. A power of two
//! costs the kernels an integer addition on a port that is idle, where a scale would cost a multiplication (1 in 9 of
//! all), and 32 values that share it follow outliers as closely as blocks with scales of their own.

use super::{RowMut, greatest_magnitude, magnitude};
use crate::simd::Simd;
use crate::simd::lanes::LANES;

/// Words of a unit in each row.
pub(crate) const UNIT_WORDS: usize = 11;

/// Values below 2^-24 of the row's greatest are rounded as if they were that great: far below its rounding error.
const EXPONENT_MAX: i32 = 24;

/// Rows whose greatest magnitude is below this (2^-90) are zero: their scale would not be a normal number.
const MAGNITUDE_MIN: f32 = 8.077_936e-28;

/// Greatest magnitude of a quantized value.
const Q_MAX: f32 = 127.0;

/// 32 values of `NT` rows: see the module.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Unit32<const NT: usize> {
    pub(crate) q: [[i32; NT]; 8],
    pub(crate) neg_sum: [i32; NT],
    pub(crate) exponent: [i32; NT],
    pub(crate) sum: [f32; NT],
}

crate::simd::plain_words!(Unit32, UNIT_WORDS);

impl<const NT: usize> Unit32<NT> {
    /// The units of a tile, and its rows' scales.
    pub(crate) fn of_tile(words: &[u32]) -> (&[Unit32<NT>], &[f32; NT]) {
        let (units, scales) = words.split_last_chunk::<NT>().expect("a tile ends with its rows' scales");
        (bytemuck::cast_slice(units), bytemuck::cast_ref::<[u32; NT], [f32; NT]>(scales))
    }
}

pub(super) fn row_words(cols: usize) -> usize {
    cols / 32 * UNIT_WORDS + 1
}

#[inline(always)]
pub(super) fn fill<S: Simd>(s: S, row: &mut RowMut<'_>, values: &[f32]) {
    let Some(max) = greatest_magnitude(s, values) else { return fill_zeros(row, f32::NAN) };
    if max < MAGNITUDE_MIN {
        return fill_zeros(row, 0.0);
    }
    for (index, unit) in values.as_chunks::<32>().0.iter().enumerate() {
        let [low, high] =
            [s.load(unit.first_chunk().expect("32 values")), s.load(unit.last_chunk().expect("32 values"))];
        let unit_max = s.greatest(s.max(magnitude(s, low), magnitude(s, high)));
        let exponent = exponent_of(unit_max / max);
        let inverse = s.splat(Q_MAX / max * pow2(EXPONENT_MAX - exponent));
        let [low, high] = [s.round(s.mul(low, inverse)), s.round(s.mul(high, inverse))];
        let mut q = [[0_i8; LANES]; 2];
        s.store_i8(low, &mut q[0]);
        s.store_i8(high, &mut q[1]);
        // Exact: whole numbers, and few.
        let sum = s.sum(s.add(low, high)) as i32;
        let first = index * UNIT_WORDS;
        for (word, bytes) in q.as_flattened().as_chunks::<4>().0.iter().enumerate() {
            row.set(first + word, u32::from_le_bytes(bytes.map(|q| q as u8)));
        }
        row.set(first + 8, (-sum) as u32);
        row.set(first + 9, (exponent as u32) << 23);
        row.set(first + 10, (sum as f32 * pow2(exponent)).to_bits());
    }
    row.set(row.len() - 1, (max / Q_MAX * pow2(-EXPONENT_MAX)).to_bits());
}

/// A row of zeros, times `scale`.
fn fill_zeros(row: &mut RowMut<'_>, scale: f32) {
    for word in 0..row.len() - 1 {
        row.set(word, 0);
    }
    row.set(row.len() - 1, scale.to_bits());
}

/// The least exponent `e` with `ratio <= 2^(e - EXPONENT_MAX)`, at least 0. `ratio` is within 0 and 1.
#[inline(always)]
fn exponent_of(ratio: f32) -> i32 {
    let bits = ratio.to_bits() as i32;
    // The biased exponent, rounded up.
    let ceil = (bits + 0x7f_ffff) >> 23;
    (ceil - 127 + EXPONENT_MAX).max(0)
}

/// 2^exponent, for exponents of normal numbers.
#[inline(always)]
fn pow2(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
