//! Lanes in one 512-bit register.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// AVX-512 F, BW, DQ, VL and VNNI, perhaps BF16. Made by [`run`] and [`run_bf16`] alone, where the compiler is told that
/// the machine has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512<const BF16: bool>(());

/// Runs a kernel with AVX-512.
///
/// # Panics
/// When the machine does not have it.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    fn with_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx512::<false>(()))
    }
    assert!(crate::Isa::Avx512.is_available(), "this machine has no AVX-512");
    // SAFETY: the machine has the instructions, as just checked.
    unsafe { with_avx512(kernel) }
}

/// Runs a kernel with AVX-512 and its bf16 dot product.
///
/// # Panics
/// When the machine does not have them.
pub(super) fn run_bf16<K: Kernel>(kernel: K) -> K::Output {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
    fn with_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx512::<true>(()))
    }
    assert!(crate::Isa::Avx512Bf16.is_available(), "this machine has no AVX-512 with bf16");
    // SAFETY: the machine has the instructions, as just checked.
    unsafe { with_avx512_bf16(kernel) }
}

/// A method that is one expression of intrinsics.
macro_rules! operation {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty = $body:expr) => {
        #[inline(always)]
        fn $name(self, $($arg: $type),*) -> $result {
            // SAFETY: `self` proves that the machine has AVX-512; memory is reached through array references alone.
            unsafe { $body }
        }
    };
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = __m512;
    type Mask = __mmask16;
    type Words = __m512i;
    type I = __m512i;

    const REGISTERS: usize = 32;

    operation!(splat(x: f32) -> __m512 = _mm512_set1_ps(x));
    operation!(load(from: &[f32; LANES]) -> __m512 = _mm512_loadu_ps(from.as_ptr()));
    operation!(store(x: __m512, to: &mut [f32; LANES]) -> () = _mm512_storeu_ps(to.as_mut_ptr(), x));
    operation!(load_f16(from: &[u16; LANES]) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())));
    operation!(store_bf16(x: __m512, to: &mut [u16; LANES]) -> () = {
        if BF16 {
            let halves = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x));
            return _mm256_storeu_si256(to.as_mut_ptr().cast(), halves);
        }
        // Adds half of the last kept bit, less one unless that bit is set: nearest, ties to even.
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded));
        _mm256_storeu_si256(to.as_mut_ptr().cast(), halves)
    });
    operation!(load_i8(from: &[i8; LANES]) -> __m512 = {
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast())))
    });

    operation!(store_i8(x: __m512, to: &mut [i8; LANES]) -> () = {
        _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)))
    });

    operation!(byte_sums(bytes: &[[i8; LANES]; 16]) -> [[i32; 16]; 2] = {
        let ones = _mm512_set1_epi8(1);
        // Four sixteens a register, a 128-bit lane each: sums of four bytes.
        let (mut quads, mut magnitudes) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
        for (i, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
            let bytes = _mm512_loadu_si512(bytes.as_ptr().cast());
            quads[i] = _mm512_dpbusd_epi32(quads[i], ones, bytes);
            magnitudes[i] = _mm512_dpbusd_epi32(magnitudes[i], _mm512_abs_epi8(bytes), ones);
        }
        [sums_of_quads(&quads), sums_of_quads(&magnitudes)]
    });

    operation!(load_nibbles(from: &[u8; LANES]) -> (__m512, __m512) = {
        let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast()));
        let low = _mm512_and_si512(bytes, _mm512_set1_epi32(15));
        let eight = _mm512_set1_epi32(8);
        (
            _mm512_cvtepi32_ps(_mm512_sub_epi32(low, eight)),
            _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32::<4>(bytes), eight)),
        )
    });

    operation!(load_words(from: &[u32; LANES]) -> __m512i = _mm512_loadu_si512(from.as_ptr().cast()));
    operation!(low_nibbles(x: __m512i) -> __m512i = _mm512_and_si512(x, _mm512_set1_epi8(15)));
    operation!(high_nibbles(x: __m512i) -> __m512i = {
        _mm512_and_si512(_mm512_srli_epi32::<4>(x), _mm512_set1_epi8(15))
    });
    operation!(dot_bf16(words: __m512i, factors: u32, sum: __m512) -> __m512 = {
        let factors = _mm512_set1_epi32(factors as i32);
        if BF16 {
            // A register of bf16 has a type of its own and no cast; the bits are the same.
            let [words, factors] = [words, factors].map(|x| std::mem::transmute::<__m512i, __m512bh>(x));
            _mm512_dpbf16_ps(sum, words, factors)
        } else {
            let low = |x| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x));
            let high = |x| _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
            let sum = _mm512_fmadd_ps(low(words), low(factors), sum);
            _mm512_fmadd_ps(high(words), high(factors), sum)
        }
    });
    operation!(dot_small(words: __m512i, factors: u32, sum: __m512i) -> __m512i = {
        _mm512_dpbusd_epi32(sum, words, _mm512_set1_epi32(factors as i32))
    });
    operation!(dot_offset(words: __m512i, factors: u32, sum: __m512i) -> __m512i = {
        _mm512_dpbusd_epi32(sum, words, _mm512_set1_epi32(factors as i32))
    });
    operation!(offset_start(sum_of_factors: i32) -> __m512i = _mm512_set1_epi32(-128 * sum_of_factors));
    operation!(splat_i(x: i32) -> __m512i = _mm512_set1_epi32(x));
    operation!(to_float(x: __m512i) -> __m512 = _mm512_cvtepi32_ps(x));

    operation!(add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b));
    operation!(sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b));
    operation!(mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b));
    operation!(div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b));
    operation!(fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c));
    operation!(min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b));
    operation!(max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b));
    operation!(round(x: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT }>(x));
    operation!(exp2_of_integer(x: __m512) -> __m512 = {
        let biased = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
    });

    operation!(times_power(a: __m512, x: __m512) -> __m512 = _mm512_scalef_ps(a, x));

    operation!(less(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b));
    operation!(select(mask: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_blend_ps(mask, b, a));

    #[inline(always)]
    fn lanes_between(self, from: usize, to: usize) -> __mmask16 {
        let below = |lane: usize| (1u32 << lane.min(LANES)) - 1;
        (below(to) & !below(from)) as __mmask16
    }

    operation!(sum(x: __m512) -> f32 = {
        let x8 = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
        let x4 = _mm_add_ps(_mm256_castps256_ps128(x8), _mm256_extractf128_ps::<1>(x8));
        let x2 = _mm_add_ps(x4, _mm_movehl_ps(x4, x4));
        _mm_cvtss_f32(_mm_add_ss(x2, _mm_shuffle_ps::<1>(x2, x2)))
    });
    operation!(greatest(x: __m512) -> f32 = _mm512_reduce_max_ps(x));
}

/// Sums of the four lanes of 128 bits: of those of the first vector, of the second, ... Sums of two fit into 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn sums_of_quads(quads: &[__m512i; 4]) -> [i32; 16] {
    let ones = _mm512_set1_epi16(1);
    let first = _mm512_madd_epi16(_mm512_packs_epi32(quads[0], quads[1]), ones);
    let last = _mm512_madd_epi16(_mm512_packs_epi32(quads[2], quads[3]), ones);
    let sums = _mm512_madd_epi16(_mm512_packs_epi32(first, last), ones);
    // What belongs to vector v and its k-th 128 bits is now at 4 k + v.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let mut out = [0; 16];
    // SAFETY: 64 bytes are behind the reference.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_permutexvar_epi32(order, sums)) };
    out
}
