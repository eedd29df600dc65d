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

use super::{RowMut, round_to_int};

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
pub(super) fn fill(row: &mut RowMut<'_>, values: &[f32]) {
    let units = values.as_chunks::<32>().0;
    let mut max = 0;
    for unit in units {
        max = magnitude_bits(unit).max(max);
    }
    // A row with an infinity or a NaN, whose bits are greater still, gets the scale NaN.
    let finite = max < f32::INFINITY.to_bits();
    let max = f32::from_bits(max);
    let zero = !finite || max < MAGNITUDE_MIN;
    let scale = match (finite, zero) {
        (false, _) => f32::NAN,
        (_, true) => 0.0,
        _ => max / Q_MAX * pow2(-EXPONENT_MAX),
    };
    for (index, unit) in units.iter().enumerate() {
        let mut q = [0_i32; 32];
        let mut exponent = 0;
        if !zero {
            exponent = exponent_of(f32::from_bits(magnitude_bits(unit)) / max);
            let inverse = Q_MAX / max * pow2(EXPONENT_MAX - exponent);
            for (q, x) in q.iter_mut().zip(unit) {
                *q = round_to_int(x * inverse);
            }
        }
        let sum: i32 = q.iter().sum();
        let bytes = q.map(|q| q as u8);
        let first = index * UNIT_WORDS;
        for (word, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
            row.set(first + word, u32::from_le_bytes(*bytes));
        }
        row.set(first + 8, (-sum) as u32);
        row.set(first + 9, (exponent as u32) << 23);
        row.set(first + 10, (sum as f32 * pow2(exponent)).to_bits());
    }
    row.set(units.len() * UNIT_WORDS, scale.to_bits());
}

/// The bits of the greatest magnitude, which are in the order of the magnitudes.
#[inline(always)]
fn magnitude_bits(unit: &[f32; 32]) -> u32 {
    let mut lanes = [0; 8];
    for values in unit.as_chunks::<8>().0 {
        for (lane, x) in lanes.iter_mut().zip(values) {
            *lane = x.abs().to_bits().max(*lane);
        }
    }
    lanes.into_iter().fold(0, u32::max)
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
