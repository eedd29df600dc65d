//! Lanes in two 256-bit registers.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// AVX2, FMA and F16C. Made by [`run`] alone, where the compiler is told that the machine has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

/// Runs a kernel with AVX2.
///
/// # Panics
/// When the machine does not have it.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    assert!(crate::Isa::Avx2.is_available(), "this machine has no AVX2");
    // SAFETY: the machine has the instructions, as just checked.
    unsafe { with_avx2(kernel) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// Lanes 0 to 7, lanes 8 to 15.
type Pair = [__m256; 2];

/// A method that is one expression of intrinsics.
macro_rules! operation {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty = $body:expr) => {
        #[inline(always)]
        fn $name(self, $($arg: $type),*) -> $result {
            // SAFETY: `self` proves that the machine has AVX2, FMA and F16C; memory is reached through array references
            // alone, and half of an array lies within it.
            unsafe { $body }
        }
    };
}

impl Simd for Avx2 {
    type F = Pair;
    type Mask = Pair;

    const REGISTERS: usize = 8;

    operation!(splat(x: f32) -> Pair = [_mm256_set1_ps(x); 2]);
    operation!(load(from: &[f32; LANES]) -> Pair = {
        [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))]
    });
    operation!(store(x: Pair, to: &mut [f32; LANES]) -> () = {
        _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
        _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
    });
    operation!(load_f16(from: &[u16; LANES]) -> Pair = {
        let at = from.as_ptr();
        [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_cvtph_ps(_mm_loadu_si128(at.add(8).cast()))]
    });
    operation!(store_f16(x: Pair, to: &mut [u16; LANES]) -> () = {
        let at = to.as_mut_ptr();
        _mm_storeu_si128(at.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]));
        _mm_storeu_si128(at.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]));
    });
    operation!(load_bf16(from: &[u16; LANES]) -> Pair = {
        let at = from.as_ptr();
        let widen = |bits: __m128i| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)));
        [widen(_mm_loadu_si128(at.cast())), widen(_mm_loadu_si128(at.add(8).cast()))]
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
