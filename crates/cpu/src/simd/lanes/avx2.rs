//! Lanes in two 256-bit registers.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// AVX2, FMA and F16C, perhaps AVX-VNNI. Made by [`run`] and [`run_vnni`] alone, where the compiler is told that the machine
/// has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2<const VNNI: bool>(());

/// Runs a kernel with AVX2.
///
/// # Panics
/// When the machine does not have it.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx2::<false>(()))
    }
    assert!(crate::Isa::Avx2.is_available(), "this machine has no AVX2");
    // SAFETY: the machine has the instructions, as just checked.
    unsafe { with_avx2(kernel) }
}

/// Runs a kernel with AVX2 and the 8-bit dot product of AVX-VNNI.
///
/// # Panics
/// When the machine does not have them.
pub(super) fn run_vnni<K: Kernel>(kernel: K) -> K::Output {
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    fn with_avx_vnni<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx2::<true>(()))
    }
    assert!(crate::Isa::AvxVnni.is_available(), "this machine has no AVX-VNNI");
    // SAFETY: the machine has the instructions, as just checked.
    unsafe { with_avx_vnni(kernel) }
}

/// Lanes 0 to 7, lanes 8 to 15.
type Pair = [__m256; 2];

type IntPair = [__m256i; 2];

/// A method that is one expression of intrinsics.
macro_rules! operation {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty = $body:expr) => {
        #[inline(always)]
        fn $name(self, $($arg: $type),*) -> $result {
            // SAFETY: `self` proves that the machine has AVX2, FMA and F16C, where `VNNI` AVX-VNNI too; memory is reached
            // through array references alone, and half of an array lies within it.
            unsafe { $body }
        }
    };
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = Pair;
    type Mask = Pair;
    type Words = [__m256i; 2];
    type I = [__m256i; 2];

    const REGISTERS: usize = 8;

    operation!(splat(x: f32) -> Pair = [_mm256_set1_ps(x); 2]);
    operation!(load(from: &[f32; LANES]) -> Pair = {
        [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))]
    });
    operation!(load_halves(low: &[f32; LANES / 2], high: &[f32; LANES / 2]) -> Pair = {
        [_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr())]
    });
    operation!(store(x: Pair, to: &mut [f32; LANES]) -> () = {
        _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
        _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
    });
    operation!(load_f16(from: &[u16; LANES]) -> Pair = {
        let at = from.as_ptr();
        [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_cvtph_ps(_mm_loadu_si128(at.add(8).cast()))]
    });
    operation!(store_bf16(x: Pair, to: &mut [u16; LANES]) -> () = {
        let round = |x: __m256| {
            // Adds half of the last kept bit, less one unless that bit is set: nearest, ties to even.
            let bits = _mm256_castps_si256(x);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            _mm256_srli_epi32::<16>(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd))
        };
        // `packus` works within 128-bit halves; the permutation puts their four quarters in order.
        let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(round(x[0]), round(x[1])));
        _mm256_storeu_si256(to.as_mut_ptr().cast(), packed)
    });
    operation!(load_i8(from: &[i8; LANES]) -> Pair = {
        let bytes = _mm_loadu_si128(from.as_ptr().cast());
        let widen = |bytes: __m128i| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
        [widen(bytes), widen(_mm_srli_si128::<8>(bytes))]
    });

    operation!(store_i8(x: Pair, to: &mut [i8; LANES]) -> () = {
        let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
        // As in `store_bf16`.
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
        let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        _mm_storeu_si128(to.as_mut_ptr().cast(), bytes)
    });

    operation!(load_nibbles(from: &[u8; LANES]) -> (Pair, Pair) = {
        let bytes = _mm_loadu_si128(from.as_ptr().cast());
        let (mask, eight) = (_mm_set1_epi8(15), _mm_set1_epi8(8));
        let low = _mm_sub_epi8(_mm_and_si128(bytes, mask), eight);
        let high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16::<4>(bytes), mask), eight);
        let widen = |bytes: __m128i| {
            let half = |bytes: __m128i| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
            [half(bytes), half(_mm_srli_si128::<8>(bytes))]
        };
        (widen(low), widen(high))
    });

    operation!(load_words(from: &[u32; LANES]) -> IntPair = {
        let at = from.as_ptr();
        [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(8).cast())]
    });
    operation!(low_nibbles(x: IntPair) -> IntPair = x.map(|x| _mm256_and_si256(x, _mm256_set1_epi8(15))));
    operation!(high_nibbles(x: IntPair) -> IntPair = {
        x.map(|x| _mm256_and_si256(_mm256_srli_epi32::<4>(x), _mm256_set1_epi8(15)))
    });
    operation!(dot_bf16(words: IntPair, factors: u32, sum: Pair) -> Pair = {
        let low_factor = _mm256_set1_ps(f32::from_bits(factors << 16));
        let high_factor = _mm256_set1_ps(f32::from_bits(factors & 0xffff_0000));
        let half = |words: __m256i, sum: __m256| {
            let low = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words));
            let high = _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            _mm256_fmadd_ps(_mm256_castsi256_ps(high), high_factor, _mm256_fmadd_ps(low, low_factor, sum))
        };
        [half(words[0], sum[0]), half(words[1], sum[1])]
    });
    operation!(dot_small(words: IntPair, factors: u32, sum: IntPair) -> IntPair = {
        let factors = _mm256_set1_epi32(factors as i32);
        if VNNI {
            return dot(words, factors, sum);
        }
        // Two products are at most 2 * 15 * 128: no saturation.
        let half = |words: __m256i, sum: __m256i| {
            let pairs = _mm256_maddubs_epi16(words, factors);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        };
        [half(words[0], sum[0]), half(words[1], sum[1])]
    });
    operation!(dot_narrow(words: IntPair, factors: u32, sum: IntPair) -> IntPair = {
        let factors = _mm256_set1_epi32(factors as i32);
        if VNNI {
            return dot(words, factors, sum);
        }
        let half = |words: __m256i, sum: __m256i| _mm256_add_epi16(sum, _mm256_maddubs_epi16(words, factors));
        [half(words[0], sum[0]), half(words[1], sum[1])]
    });
    operation!(dot_offset(words: IntPair, factors: u32, sum: IntPair) -> IntPair = {
        let factors = _mm256_set1_epi32(factors as i32);
        if VNNI {
            return dot(words, factors, sum);
        }
        // |factor| * (byte with the factor's sign): two products are at most 2 * 127 * 127, no saturation.
        let magnitudes = _mm256_abs_epi8(factors);
        let half = |words: __m256i, sum: __m256i| {
            let signed = _mm256_xor_si256(words, _mm256_set1_epi8(-128));
            let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(signed, factors));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        };
        [half(words[0], sum[0]), half(words[1], sum[1])]
    });
    operation!(offset_start(sum_of_factors: i32) -> IntPair = {
        [_mm256_set1_epi32(if VNNI { -128 * sum_of_factors } else { 0 }); 2]
    });
    operation!(splat_i(x: i32) -> IntPair = [_mm256_set1_epi32(x); 2]);
    operation!(to_float(x: IntPair) -> Pair = x.map(|x| _mm256_cvtepi32_ps(x)));

    operation!(add(a: Pair, b: Pair) -> Pair = [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]);
    operation!(sub(a: Pair, b: Pair) -> Pair = [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]);
    operation!(mul(a: Pair, b: Pair) -> Pair = [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]);
    operation!(div(a: Pair, b: Pair) -> Pair = [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])]);
    operation!(fma(a: Pair, b: Pair, c: Pair) -> Pair = {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    });
    operation!(min(a: Pair, b: Pair) -> Pair = [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]);
    operation!(max(a: Pair, b: Pair) -> Pair = [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]);
    operation!(round(x: Pair) -> Pair = {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        [_mm256_round_ps::<NEAREST>(x[0]), _mm256_round_ps::<NEAREST>(x[1])]
    });
    operation!(exp2_of_integer(x: Pair) -> Pair = {
        let power = |x: __m256| {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        };
        [power(x[0]), power(x[1])]
    });

    operation!(less(a: Pair, b: Pair) -> Pair = {
        [_mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])]
    });
    operation!(select(mask: Pair, a: Pair, b: Pair) -> Pair = {
        [_mm256_blendv_ps(b[0], a[0], mask[0]), _mm256_blendv_ps(b[1], a[1], mask[1])]
    });
    operation!(lanes_between(from: usize, to: usize) -> Pair = {
        let lanes = [_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)];
        let before = _mm256_set1_epi32(from.min(LANES) as i32 - 1);
        let after = _mm256_set1_epi32(to.min(LANES) as i32);
        let inside = |lane: __m256i| {
            let inside = _mm256_and_si256(_mm256_cmpgt_epi32(lane, before), _mm256_cmpgt_epi32(after, lane));
            _mm256_castsi256_ps(inside)
        };
        [inside(lanes[0]), inside(lanes[1])]
    });

    operation!(sum(x: Pair) -> f32 = {
        let x8 = _mm256_add_ps(x[0], x[1]);
        let x4 = _mm_add_ps(_mm256_castps256_ps128(x8), _mm256_extractf128_ps::<1>(x8));
        let x2 = _mm_add_ps(x4, _mm_movehl_ps(x4, x4));
        _mm_cvtss_f32(_mm_add_ss(x2, _mm_shuffle_ps::<1>(x2, x2)))
    });
    operation!(greatest(x: Pair) -> f32 = {
        let x8 = _mm256_max_ps(x[0], x[1]);
        let x4 = _mm_max_ps(_mm256_castps256_ps128(x8), _mm256_extractf128_ps::<1>(x8));
        let x2 = _mm_max_ps(x4, _mm_movehl_ps(x4, x4));
        _mm_cvtss_f32(_mm_max_ss(x2, _mm_shuffle_ps::<1>(x2, x2)))
    });
}

/// `sum` + the products of unsigned bytes and signed ones.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn dot(bytes: IntPair, factors: __m256i, sum: IntPair) -> IntPair {
    [_mm256_dpbusd_avx_epi32(sum[0], bytes[0], factors), _mm256_dpbusd_avx_epi32(sum[1], bytes[1], factors)]
}
