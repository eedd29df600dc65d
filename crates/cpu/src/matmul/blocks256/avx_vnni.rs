//! AVX-VNNI's [`ByteProducts`]; the frame is in `avx.rs`, start there.
//!
//! AVX-VNNI is the dot product of bytes in 256 bits. Tiles and activations stand in their own order, and each half of a chain
//! has a sum. Both then share a lane, 16 bits each, and one dot product of 16-bit integers applies both scales. A sum that
//! does not fit into 16 bits has a lane for itself, and its scale twice: for the lowest byte, and for what is above.

use std::arch::x86_64::*;
use std::ops::Range;

use tensor::format::block::Block;

use super::avx::{ByteProducts, Factors, MAX_PARTS, Rows, Unpack, sweep};
use crate::activation::{Block256, Form};
use crate::matmul::{Kernel, Tile, block_kernel};
use crate::simd::avx2::pair_sums;

/// The kernel of a format of blocks `B`, packed as tiles `T`.
pub(in crate::matmul) fn kernel<B, T, const G: usize, const SUBS: usize>() -> Kernel
where
    B: Block<256, SUBS>,
    T: Tile<256, SUBS> + Unpack<64, G>,
{
    // Half of a group's vectors belong to each half of a chain, which has whole sums of 16 activations.
    const { assert!(G.is_multiple_of(2) && T::CHAIN.is_multiple_of(8)) }
    let sweep = Some(sweep::<AvxVnni, T, 64, G>());
    Kernel { sweep, ..block_kernel::<B, T, 256, SUBS>(AvxVnni::FORM, &[], &[]) }
}

struct AvxVnni;

impl ByteProducts for AvxVnni {
    const FORM: Form = Form::Block256;
    const PARTS: usize = 2;
    const PINNED: usize = 1;
    type Block<const NT: usize> = Block256<NT>;

    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    unsafe fn run(code: impl FnOnce()) {
        code();
    }

    #[inline(always)]
    fn rows<const NT: usize>(a: &Block256<NT>) -> Rows<'_, NT> {
        Rows { q: &a.q, scale: &a.scale }
    }

    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn neg_of_16<const NT: usize>(mins: &[__m256i; 8], a: &Block256<NT>, t: usize) -> __m256i {
        let mut sum = _mm256_setzero_si256();
        for (min, [low, high]) in mins.iter().zip(a.neg_sum16.as_chunks().0) {
            let sums = low[t] & 0xffff | high[t] << 16;
            sum = _mm256_dpwssd_avx_epi32(sum, *min, _mm256_set1_epi32(sums));
        }
        sum
    }

    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn of_32<const NT: usize>(mins: &[__m256i; 8], a: &Block256<NT>, t: usize) -> __m256i {
        let mut sum = _mm256_setzero_si256();
        for (min, sums) in mins.iter().zip(&a.sum32_pairs) {
            sum = _mm256_dpwssd_avx_epi32(sum, *min, _mm256_set1_epi32(sums[t]));
        }
        sum
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn start<const NT: usize>(a: &Block256<NT>, vectors: Range<usize>, t: usize, offset_bits: i32) -> __m256i {
        let mut sum = 0;
        for j in vectors.start / 4..vectors.end / 4 {
            sum += a.neg_sum16[j][t];
        }
        _mm256_sll_epi32(_mm256_set1_epi32(sum), _mm_cvtsi32_si128(offset_bits))
    }

    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn add_products(sum: __m256i, q: __m256i, a: __m256i) -> __m256i {
        _mm256_dpbusd_avx_epi32(sum, q, a)
    }

    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn add_chain(sum: __m256i, parts: [__m256i; MAX_PARTS], scales: __m256i, wide: bool) -> __m256i {
        let [low, high] = parts;
        if !wide {
            return _mm256_dpwssd_avx_epi32(sum, pair_sums(low, high), scales);
        }
        let sum = _mm256_dpwssd_avx_epi32(sum, bytes::<SPLIT>(low), bytes::<LOW_SCALE>(scales));
        _mm256_dpwssd_avx_epi32(sum, bytes::<SPLIT>(high), bytes::<HIGH_SCALE>(scales))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factors<T: Unpack<V, G>, const V: usize, const G: usize>(tile: &T, to: &mut Factors) {
        // SAFETY: the features of this function.
        unsafe { tile.factors_in_order(to) }
    }
}

/// A sum of 24 bits as two integers: its lowest byte, and the bytes above.
const SPLIT: u32 = 0x0201_8000;
/// What these are multiplied with: the scale in the low half of a lane, which fits an i8, and 256 times this.
const LOW_SCALE: u32 = 0x0080_0100;
/// The scale in the high half of a lane, likewise.
const HIGH_SCALE: u32 = 0x0280_0302;

/// Of each lane the bytes at these places, those that are 0x80 zero.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes<const PLACES: u32>(of: __m256i) -> __m256i {
    let places = |lane: i32| PLACES as i32 + (0x0404_0404 * lane);
    _mm256_shuffle_epi8(
        of,
        _mm256_setr_epi32(places(0), places(1), places(2), places(3), places(0), places(1), places(2), places(3)),
    )
}
