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

use super::{RowMut, greatest_magnitude};
use crate::simd::Simd;
use crate::simd::lanes::LANES;

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
pub(super) fn fill<S: Simd>(s: S, row: &mut RowMut<'_>, values: &[f32]) {
    for (index, block) in values.as_chunks::<256>().0.iter().enumerate() {
        let Quantized { q, sums, scale } = quantize(s, block);
        let first = index * BLOCK_WORDS;
        row.set_bytes(first, q.as_flattened());
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

/// 256 values, sixteen at a time.
pub(super) struct Quantized {
    pub(super) q: [[i8; LANES]; 16],
    /// Of each sixteen.
    pub(super) sums: [i32; 16],
    pub(super) scale: f32,
}

#[inline(always)]
pub(super) fn quantize<S: Simd>(s: S, block: &[f32; 256]) -> Quantized {
    let mut quantized = Quantized { q: [[0; LANES]; 16], sums: [0; 16], scale: f32::NAN };
    let Some(max) = greatest_magnitude(s, block) else { return quantized };
    let mut inverse = Q_MAX / max;
    if !inverse.is_finite() {
        return Quantized { scale: 0.0, ..quantized };
    }
    quantized.scale = max / Q_MAX;
    loop {
        for (x, q) in block.as_chunks::<LANES>().0.iter().zip(&mut quantized.q) {
            s.store_i8(s.round(s.mul(s.load(x), s.splat(inverse))), q);
        }
        let magnitudes;
        [quantized.sums, magnitudes] = s.byte_sums(&quantized.q);
        let excess = excess(&magnitudes);
        if excess <= 1.0 {
            return quantized;
        }
        // A little more than the excess, so that rounding cannot bring it back.
        inverse /= excess * 1.005;
        quantized.scale = 1.0 / inverse;
    }
}

/// By what factor the magnitudes of sixteen values, added up, exceed [`SUM16_MAX`], or those of 32 [`SUM32_MAX`]; at most 1
/// when they do not.
#[inline(always)]
fn excess(magnitudes: &[i32; 16]) -> f32 {
    let (mut sum16, mut sum32) = (0, 0);
    for &[a, b] in magnitudes.as_chunks().0 {
        sum16 = sum16.max(a.max(b));
        sum32 = sum32.max(a + b);
    }
    (sum16 as f32 / SUM16_MAX as f32).max(sum32 as f32 / SUM32_MAX as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::activation::{Activations, Form, Forms};

    /// The same, a value at a time: codes and scale.
    fn reference(block: &[f32]) -> (Vec<i32>, f32) {
        let max = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        let mut inverse = Q_MAX / max;
        let mut scale = max / Q_MAX;
        if block.iter().any(|x| !x.is_finite()) || !inverse.is_finite() {
            return (vec![0; 256], if block.iter().all(|x| x.is_finite()) { 0.0 } else { f32::NAN });
        }
        loop {
            let q: Vec<i32> = block.iter().map(|x| (x * inverse).round_ties_even() as i32).collect();
            let most = |len: usize| q.chunks(len).map(|q| q.iter().map(|q| q.abs()).sum::<i32>()).max().unwrap_or(0);
            let excess = (most(16) as f32 / SUM16_MAX as f32).max(most(32) as f32 / SUM32_MAX as f32);
            if excess <= 1.0 {
                return (q, scale);
            }
            inverse /= excess * 1.005;
            scale = 1.0 / inverse;
        }
    }

    #[test]
    fn blocks_are_those_of_a_value_at_a_time_on_every_instruction_set() {
        let wave = |k: usize| (k as f32 * 0.37).sin() * (k as f32 * 0.011).exp();
        let block = |value: &dyn Fn(usize) -> f32| (0..256).map(value).collect::<Vec<f32>>();
        let with = |at: usize, x: f32| block(&|k| if k == at { x } else { wave(k) });
        let blocks = [
            block(&wave),
            // Nearly equal magnitudes: their sums are too great at the first scale.
            block(&|k| if k % 3 == 0 { -1.0 } else { 1.0 }),
            block(&|k| if k % 2 == 0 { 0.0 } else { -0.0 }),
            block(&|_| 1e-40),
            block(&|k| if k == 17 { f32::MAX } else { -1e30 }),
            with(255, f32::NAN),
            with(0, f32::INFINITY),
            with(100, f32::NEG_INFINITY),
            block(&wave),
        ];
        let values = blocks.concat();
        for isa in Isa::available() {
            let mut activations = Activations::new(isa, Forms::NONE.with(Form::Block256), 1, values.len());
            activations.fill(&values);
            let words = activations.tile_words(0, Form::Block256);
            for (index, (filled, block)) in Block256::<1>::of_tile(words).iter().zip(&blocks).enumerate() {
                let (q, scale) = reference(block);
                let codes: Vec<i32> =
                    filled.q.iter().flat_map(|[word]| word.to_le_bytes().map(|byte| i32::from(byte as i8))).collect();
                assert_eq!(codes, q, "{isa}: block {index}");
                assert_eq!(filled.scale[0].to_bits(), scale.to_bits(), "{isa}: scale of block {index}");
                for (j, [sum]) in filled.neg_sum16.iter().enumerate() {
                    assert_eq!(-sum, q[16 * j..16 * (j + 1)].iter().sum::<i32>(), "{isa}: sum {j} of block {index}");
                }
                for (j, [pair]) in filled.sum32_pairs.iter().enumerate() {
                    let sum = |h: usize| q[64 * j + 32 * h..64 * j + 32 * (h + 1)].iter().sum::<i32>() as i16;
                    assert_eq!([*pair as i16, (*pair >> 16) as i16], [sum(0), sum(1)], "{isa}: pair {j}");
                }
            }
        }
    }
}
