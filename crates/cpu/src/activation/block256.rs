//! [`Form::Block256`](super::Form::Block256): 8-bit integers with a scale per 256.
//!
//! ```text
//! block = 64 words of 4 values, i8
//!         16 words  -(sum of 16 values), i32
//!         4 words   two sums of 32 values, i16
//!         1 word    scale, f32
//! value = scale * q
//! ```
//!
//! Kernels add products of 16 or 32 values as 16-bit integers. The magnitudes of a block are therefore held to
//! [`SUM16_MAX`] and [`SUM32_MAX`] by a greater scale where necessary. Values spread like a normal distribution reach
//! half of that; only blocks of nearly equal magnitudes shrink, and those have the smallest rounding error.

use super::{RowMut, round_to_byte};

/// Words of a block in each row.
pub(crate) const BLOCK_WORDS: usize = 85;

/// Most that 16 magnitudes may add up to: times 32, the greatest weight of Q6_K, an i16.
pub(crate) const SUM16_MAX: i32 = 1023;

/// Most that 32 magnitudes may add up to: times 15, the greatest weight of Q4_K, an i16.
pub(crate) const SUM32_MAX: i32 = 2184;

/// Greatest magnitude of a quantized value.
const Q_MAX: f32 = 127.0;

/// 256 values of `NT` rows: see the module.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block256<const NT: usize> {
    pub(crate) q: [[i32; NT]; 64],
    pub(crate) neg_sum16: [[i32; NT]; 16],
    pub(crate) sum32_pairs: [[i32; NT]; 4],
    pub(crate) scale: [f32; NT],
}

crate::simd::plain_words!(Block256, BLOCK_WORDS);

impl<const NT: usize> Block256<NT> {
    /// The blocks of a tile.
    pub(crate) fn of_tile(words: &[u32]) -> &[Block256<NT>] {
        bytemuck::cast_slice(words)
    }
}

pub(super) fn row_words(cols: usize) -> usize {
    cols / 256 * BLOCK_WORDS
}

#[inline(always)]
pub(super) fn fill(row: &mut RowMut<'_>, values: &[f32]) {
    for (index, block) in values.as_chunks::<256>().0.iter().enumerate() {
        let Quantized { q, scale } = quantize(block);
        let first = index * BLOCK_WORDS;
        for (word, bytes) in q.as_chunks::<4>().0.iter().enumerate() {
            row.set(first + word, u32::from_le_bytes(bytes.map(|q| q as u8)));
        }
        let mut sums = [0_i32; 16];
        for (sum, q) in sums.iter_mut().zip(q.as_chunks::<16>().0) {
            *sum = q.iter().map(|&q| i32::from(q)).sum();
        }
        for (j, sum) in sums.into_iter().enumerate() {
            row.set(first + 64 + j, (-sum) as u32);
        }
        for (j, s) in sums.as_chunks::<4>().0.iter().enumerate() {
            let (low, high) = (s[0] + s[1], s[2] + s[3]);
            row.set(first + 80 + j, low as u32 & 0xffff | (high as u32) << 16);
        }
        row.set(first + 84, scale.to_bits());
    }
}

pub(super) struct Quantized {
    pub(super) q: [i8; 256],
    pub(super) scale: f32,
}

#[inline(always)]
pub(super) fn quantize(block: &[f32; 256]) -> Quantized {
    let mut lanes = [0.0_f32; 16];
    let mut finite = true;
    for x in block.as_chunks::<16>().0 {
        for (lane, x) in lanes.iter_mut().zip(x) {
            finite &= x.is_finite();
            *lane = if x.abs() > *lane { x.abs() } else { *lane };
        }
    }
    let max = lanes.into_iter().fold(0.0, f32::max);
    let mut inverse = Q_MAX / max;
    if !finite || !inverse.is_finite() {
        return Quantized { q: [0; 256], scale: if finite { 0.0 } else { f32::NAN } };
    }
    let mut scale = max / Q_MAX;
    loop {
        let mut q = [0_i8; 256];
        for (q, x) in q.iter_mut().zip(block) {
            *q = round_to_byte(x * inverse);
        }
        let excess = excess(&q);
        if excess <= 1.0 {
            return Quantized { q, scale };
        }
        // A little more than the excess, so that rounding cannot bring it back.
        inverse /= excess * 1.005;
        scale = 1.0 / inverse;
    }
}

/// By what factor the magnitudes exceed [`SUM16_MAX`] or [`SUM32_MAX`]; at most 1 when they do not.
#[inline(always)]
fn excess(q: &[i8; 256]) -> f32 {
    let (mut sum16, mut sum32) = (0, 0);
    for q in q.as_chunks::<32>().0 {
        let sums = q.as_chunks::<16>().0.iter().map(|q| q.iter().map(|&q| i32::from(q).abs()).sum::<i32>());
        let (mut both, mut greater) = (0, 0);
        for sum in sums {
            both += sum;
            greater = greater.max(sum);
        }
        sum16 = sum16.max(greater);
        sum32 = sum32.max(both);
    }
    (sum16 as f32 / SUM16_MAX as f32).max(sum32 as f32 / SUM32_MAX as f32)
}
