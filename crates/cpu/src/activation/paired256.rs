//! [`Form::Paired256`](super::Form::Paired256): what [`block256`] holds, in the order of kernels that add products in pairs.
//!
//! ```text
//! block = 64 words of 4 values, i8: word 16 j + v has values 2 v and 2 v + 1 of A and 2 v and 2 v + 1 of B, where A and B
//!                     are the halves of the j-th 64 values
//!         8 words     -(sum of 16 values), two i16: word 2 j + h of the h-th 16 values of A and those of B
//!         4 words     sum of 32 values, two i16: word j of A and of B
//!         1 word      scale, f32
//! value = scale * q
//! ```
//!
//! `vpmaddubsw` adds the products of adjacent bytes into 16 bits. In this order the low half of a lane belongs to one
//! sub-block and the high half to another, so that one multiplication of 16-bit integers applies both scales.

use super::RowMut;
use super::block256::{Quantized, quantize};
use crate::simd::Simd;

/// Words of a block in each row.
pub(crate) const BLOCK_WORDS: usize = 77;

/// 256 values of `NT` rows: see the module.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Paired256<const NT: usize> {
    pub(crate) q: [[i32; NT]; 64],
    pub(crate) neg_sum16_pairs: [[i32; NT]; 8],
    pub(crate) sum32_pairs: [[i32; NT]; 4],
    pub(crate) scale: [f32; NT],
}

crate::simd::plain_words!(Paired256, BLOCK_WORDS);

/// Values in the order of the words' bytes.
pub(crate) fn paired<T: Copy>(values: &[T; 256]) -> [T; 256] {
    let mut out = *values;
    for (out, values) in out.as_chunks_mut::<64>().0.iter_mut().zip(values.as_chunks::<64>().0) {
        let (a, b) = values.as_chunks::<2>().0.split_at(16);
        for (word, (a, b)) in out.as_chunks_mut::<4>().0.iter_mut().zip(a.iter().zip(b)) {
            *word = [a[0], a[1], b[0], b[1]];
        }
    }
    out
}

/// The inverse of [`paired`].
pub(crate) fn unpaired<T: Copy>(values: &[T; 256]) -> [T; 256] {
    std::array::from_fn(|k| values[k / 64 * 64 + k % 32 / 2 * 4 + k % 64 / 32 * 2 + k % 2])
}

pub(super) fn row_words(cols: usize) -> usize {
    cols / 256 * BLOCK_WORDS
}

#[inline(always)]
pub(super) fn fill<S: Simd>(s: S, row: &mut RowMut<'_>, values: &[f32]) {
    for (index, block) in values.as_chunks::<256>().0.iter().enumerate() {
        let Quantized { q, sums, scale } = quantize(s, block);
        let first = index * BLOCK_WORDS;
        row.set_bytes(first, &paired(q.as_flattened().first_chunk().expect("256 values")));
        for (j, sums) in sums.as_chunks::<4>().0.iter().enumerate() {
            let (a_sums, b_sums) = sums.split_at(2);
            for h in 0..2 {
                row.set(first + 64 + 2 * j + h, pair(-a_sums[h], -b_sums[h]));
            }
            row.set(first + 72 + j, pair(a_sums[0] + a_sums[1], b_sums[0] + b_sums[1]));
        }
        row.set(first + 76, scale.to_bits());
    }
}

/// Two 16-bit integers.
#[inline(always)]
fn pair(low: i32, high: i32) -> u32 {
    low as u32 & 0xffff | (high as u32) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_undone() {
        let values: [usize; 256] = std::array::from_fn(|k| k);
        assert_eq!(unpaired(&paired(&values)), values);
        assert_eq!(paired(&values)[..12], [0, 1, 32, 33, 2, 3, 34, 35, 4, 5, 36, 37]);
    }
}
