//! AVX-512 (F, BW, DQ, VL, VNNI) for the matrix kernels: typed loads and stores, and what several kernels share.
//!
//! A register has a lane of 32 bits for each of a panel's 16 rows. The functions are safe to call where the features are
//! enabled; memory is only reached through references.

use std::arch::x86_64::*;

use tensor::format::block::F16Bytes;

/// 4 values, each a byte, of 16 rows.
pub(crate) type Quad = [[u8; 4]; 16];

/// Loads a vector of bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load(from: &Quad) -> __m512i {
    // SAFETY: 64 bytes are behind the reference.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// Loads 16 halves as f32.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_f16(from: &[F16Bytes; 16]) -> __m512 {
    // SAFETY: 32 bytes are behind the reference.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
}

/// Loads 16 16-bit integers as 32-bit ones.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_u16(from: &[[u8; 2]; 16]) -> __m512i {
    // SAFETY: 32 bytes are behind the reference.
    _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
}

/// Loads 16 bytes as 32-bit integers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_u8(from: &[u8; 16]) -> __m512i {
    // SAFETY: 16 bytes are behind the reference.
    _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
}

/// Loads two signed bytes of 16 rows, widened to two 16-bit integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn load_i8_pairs(from: &[[u8; 2]; 16]) -> __m512i {
    // SAFETY: 32 bytes are behind the reference.
    _mm512_cvtepi8_epi16(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
}

/// Loads two bytes of 16 rows, widened to two 16-bit integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn load_u8_pairs(from: &[[u8; 2]; 16]) -> __m512i {
    // SAFETY: 32 bytes are behind the reference.
    _mm512_cvtepu8_epi16(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
}

/// Stores a vector of f32.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store(to: &mut [f32; 16], value: __m512) {
    // SAFETY: 64 bytes are behind the reference.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
}

/// Asks for the cache lines of what lies `ahead_bytes` behind `at`, into the first level: a line then goes through the
/// second level once, where one that is asked for into that goes twice. Addresses without memory do no harm.
#[inline(always)]
pub(crate) fn prefetch_near<T>(at: &T, ahead_bytes: usize) {
    prefetch_part_near(at, 0, 1, ahead_bytes);
}

/// The same for part `part` of `parts` equal ones of `T`.
#[inline(always)]
pub(crate) fn prefetch_part_near<T>(at: &T, part: usize, parts: usize, ahead_bytes: usize) {
    super::avx2::for_lines(at, part, parts, ahead_bytes, |address| {
        // SAFETY: as in `simd::prefetch`.
        unsafe { std::arch::asm!("prefetcht0 [{0}]", in(reg) address, options(nomem, nostack, preserves_flags)) };
    });
}

/// Two vectors of sums as 16-bit halves of one: `low` (low half of each lane), `high << SHIFT` (high half).
/// `high << SHIFT` must have zeros in its low half; every sum must fit into 16 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn pair_sums<const SHIFT: u32>(low: __m512i, high: __m512i) -> __m512i {
    /// a | (b & c)
    const OR_AND: i32 = 0xF8;
    _mm512_ternarylogic_epi32::<OR_AND>(_mm512_slli_epi32::<SHIFT>(high), low, _mm512_set1_epi32(0xffff))
}
