//! AVX2's [`ByteProducts`]; the frame is in `avx.rs`, start there.
//!
//! AVX2 has no dot product of bytes with a 32-bit sum. `vpmaddubsw` adds two products into 16 bits; a chain of them is added
//! up in 16 bits, as far as that holds (see [`crate::activation::block256`]), and `vpmaddwd` then applies the scales. Tiles
//! and activations stand in the order of [`crate::activation::paired256`], where a lane's halves belong to different
//! sub-blocks, so that one such multiplication serves two sums.

use std::arch::x86_64::*;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use tensor::format::block::{Block, Unpacked};

use super::avx::{ByteProducts, Factors, MAX_PARTS, Rows, Unpack, sweep};
use crate::activation::paired256::{paired, unpaired};
use crate::activation::{Form, Paired256};
use crate::matmul::{Kernel, Tile, block_kernel};

/// The kernel of a format of blocks `B`, packed as tiles `T`.
pub(in crate::matmul) fn kernel<B, T, const V: usize, const G: usize, const SUBS: usize>() -> Kernel
where
    B: Block<256, SUBS>,
    T: Tile<256, SUBS> + Unpack<V, G>,
{
    // A chain's sums have 16 bits, and an offset one pair of sums of 16 activations.
    const { assert!(!T::WIDE && (T::OFFSET_BITS.is_none() || T::CHAIN == 8)) }
    let sweep = Some(sweep::<Avx2, T, V, G>());
    Kernel { sweep, ..block_kernel::<B, Paired<T>, 256, SUBS>(Avx2::FORM, &[], &[]) }
}

struct Avx2;

impl ByteProducts for Avx2 {
    const FORM: Form = Form::Paired256;
    const PARTS: usize = 1;
    const PINNED: usize = 2;
    type Block<const NT: usize> = Paired256<NT>;

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run(code: impl FnOnce()) {
        code();
    }

    #[inline(always)]
    fn rows<const NT: usize>(a: &Paired256<NT>) -> Rows<'_, NT> {
        Rows { q: &a.q, scale: &a.scale }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn neg_of_16<const NT: usize>(mins: &[__m256i; 8], a: &Paired256<NT>, t: usize) -> __m256i {
        dot(mins, &a.neg_sum16_pairs, t)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn of_32<const NT: usize>(mins: &[__m256i; 8], a: &Paired256<NT>, t: usize) -> __m256i {
        dot(&mins[..4], &a.sum32_pairs, t)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn start<const NT: usize>(a: &Paired256<NT>, vectors: Range<usize>, t: usize, offset_bits: i32) -> __m256i {
        let sums = _mm256_set1_epi32(a.neg_sum16_pairs[vectors.start / 8][t]);
        _mm256_sll_epi16(sums, _mm_cvtsi32_si128(offset_bits))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add_products(sum: __m256i, q: __m256i, a: __m256i) -> __m256i {
        _mm256_add_epi16(sum, _mm256_maddubs_epi16(q, a))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add_chain(sum: __m256i, [both, _]: [__m256i; MAX_PARTS], scales: __m256i, _: bool) -> __m256i {
        _mm256_add_epi32(sum, _mm256_madd_epi16(both, scales))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factors<T: Unpack<V, G>, const V: usize, const G: usize>(tile: &T, to: &mut Factors) {
        // SAFETY: the features of this function.
        unsafe { tile.factors(to) }
    }
}

/// Sum of the products of pairs of 16-bit integers with those of row `t`.
#[inline]
#[target_feature(enable = "avx2")]
fn dot<const NT: usize>(pairs: &[__m256i], words: &[[i32; NT]], t: usize) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    for (pair, word) in pairs.iter().zip(words) {
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(*pair, _mm256_set1_epi32(word[t])));
    }
    sum
}

/// A tile whose values are put and got in the order of [`crate::activation::paired256`], its sub-blocks likewise where
/// they are shorter than half of 64 values.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Paired<T>(T);

// SAFETY: the same bytes as `T`.
unsafe impl<T: Zeroable> Zeroable for Paired<T> {}
// SAFETY: as above.
unsafe impl<T: Pod> Pod for Paired<T> {}

impl<T: Tile<256, SUBS>, const SUBS: usize> Tile<256, SUBS> for Paired<T> {
    const ROWS: usize = T::ROWS;

    fn put(&mut self, row: usize, block: &Unpacked<256, SUBS>) {
        let Unpacked { d, dmin, scales, mins, q } = block;
        self.0.put(
            row,
            &Unpacked { d: *d, dmin: *dmin, scales: sub_blocks(scales), mins: sub_blocks(mins), q: paired(q) },
        );
    }

    fn get(&self, row: usize) -> Unpacked<256, SUBS> {
        let Unpacked { d, dmin, scales, mins, q } = self.0.get(row);
        Unpacked { d, dmin, scales: sub_blocks(&scales), mins: sub_blocks(&mins), q: unpaired(&q) }
    }
}

/// Of sixteen sub-blocks the second and third of every four change places.
fn sub_blocks<T: Copy, const SUBS: usize>(of: &[T; SUBS]) -> [T; SUBS] {
    match SUBS {
        16 => std::array::from_fn(|j| of[j / 4 * 4 + [0, 2, 1, 3][j % 4]]),
        _ => *of,
    }
}
