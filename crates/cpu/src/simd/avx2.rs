//! AVX2, FMA and F16C for the matrix kernels: typed loads and stores, and what several kernels share.
//!
//! A register has a lane of 32 bits for each of a panel's 8 rows. The functions are safe to call where the features are
//! enabled; memory is only reached through references.

use std::arch::x86_64::*;

use tensor::format::block::F16Bytes;

/// 4 values, each a byte, of 8 rows.
pub(crate) type Quad = [[u8; 4]; 8];

/// Loads a vector of bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load(from: &Quad) -> __m256i {
    // SAFETY: 32 bytes are behind the reference.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// Loads vectors of bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn loads<const N: usize>(from: &[Quad; N]) -> [__m256i; N] {
    let mut vectors = [_mm256_setzero_si256(); N];
    for i in 0..N {
        vectors[i] = load(&from[i]);
    }
    vectors
}

/// Loads 8 halves as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(crate) fn load_f16(from: &[F16Bytes; 8]) -> __m256 {
    // SAFETY: 16 bytes are behind the reference.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
}

/// Loads 8 16-bit integers as 32-bit ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_u16(from: &[[u8; 2]; 8]) -> __m256i {
    // SAFETY: 16 bytes are behind the reference.
    _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
}

/// Loads 8 bytes as 32-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_u8(from: &[u8; 8]) -> __m256i {
    // SAFETY: 8 bytes are behind the reference.
    _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(from.as_ptr().cast()) })
}

/// Stores a vector of f32.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store(to: &mut [f32; 8], value: __m256) {
    // SAFETY: 32 bytes are behind the reference.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
}

/// Keeps the compiler from computing the sums in an order of its own: it would take one after the other through all
/// weights, and keep every broadcast activation in memory meanwhile.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn pin<const P: usize, const NT: usize>(sums: &mut [[__m256i; NT]; P]) {
    for sum in sums.as_flattened_mut() {
        // SAFETY: no instruction at all. Not `pure`, so that these stay in order.
        unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) * sum, options(nomem, nostack, preserves_flags)) };
    }
}

/// Asks for the cache lines of what lies `ahead_bytes` behind `at`, into the second level. Addresses without memory
/// do no harm.
#[inline(always)]
pub(crate) fn prefetch<T>(at: &T, ahead_bytes: usize) {
    prefetch_part(at, 0, 1, ahead_bytes);
}

/// The same for part `part` of `parts` equal ones of `T`.
#[inline(always)]
pub(crate) fn prefetch_part<T>(at: &T, part: usize, parts: usize, ahead_bytes: usize) {
    for_lines(at, part, parts, ahead_bytes, super::prefetch);
}

/// Calls `ask` with the address of each cache line of part `part` of `parts` equal ones of what lies `ahead_bytes` behind
/// `at`.
#[inline(always)]
pub(super) fn for_lines<T>(at: &T, part: usize, parts: usize, ahead_bytes: usize, ask: impl Fn(usize)) {
    let len = size_of::<T>() / parts;
    for line in (0..len).step_by(64) {
        ask(std::ptr::from_ref(at).addr().wrapping_add(ahead_bytes + part * len + line));
    }
}

/// Loads two signed bytes of 8 rows, widened to two 16-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_i8_pairs(from: &[[u8; 2]; 8]) -> __m256i {
    // SAFETY: 16 bytes are behind the reference.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
}

/// Loads two unsigned bytes of 8 rows, widened to two 16-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_u8_pairs(from: &[[u8; 2]; 8]) -> __m256i {
    // SAFETY: 16 bytes are behind the reference.
    _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
}

/// [`load_u8_pairs`] of each.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_all_u8_pairs<const N: usize>(from: &[[[u8; 2]; 8]; N]) -> [__m256i; N] {
    let mut vectors = [_mm256_setzero_si256(); N];
    for i in 0..N {
        vectors[i] = load_u8_pairs(&from[i]);
    }
    vectors
}

/// The low 16 bits of both vectors' lanes as halves of one: `low` (low half of each lane), `high` (high half). Sums that fit
/// into 16 bits stay whole.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn pair_sums(low: __m256i, high: __m256i) -> __m256i {
    _mm256_blend_epi16::<0b1010_1010>(low, _mm256_slli_epi32::<16>(high))
}

/// `bytes >> BITS & mask`. What comes from the byte above must be masked away.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn bits<const BITS: i32>(bytes: __m256i, mask: u8) -> __m256i {
    _mm256_and_si256(_mm256_srli_epi16::<BITS>(bytes), _mm256_set1_epi8(mask as i8))
}

/// `a | b | c`
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn or(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_or_si256(a, b), c)
}
