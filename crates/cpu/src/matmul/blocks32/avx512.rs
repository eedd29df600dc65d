//! AVX-512: see [`super`].

use std::arch::x86_64::*;

use bytemuck::Pod;
use tensor::format::block::Block;

use super::{Bits, Nibbles};
use crate::activation::{Form, Unit32};
use crate::matmul::{Kernel, Tile, TileArgs, block_kernel, by_rows};
use crate::simd::avx512::{load, prefetch_near, store};

/// What a format's tile of 16 rows has to tell.
pub(in crate::matmul) trait Avx512Tile: Pod {
    /// What the values are too great by: a power of two, or 0.
    const OFFSET: u32 = 0;

    /// Values 4 g.. of each row, unsigned.
    ///
    /// # Safety
    /// The machine has AVX-512 F and BW.
    unsafe fn quad(&self, g: usize) -> __m512i;

    /// The scales.
    ///
    /// # Safety
    /// The machine has AVX-512 F and BW.
    unsafe fn scale(&self) -> __m512;

    /// What is added, if anything.
    ///
    /// # Safety
    /// The machine has AVX-512 F and BW.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn min(&self) -> Option<__m512> {
        None
    }
}

/// The kernels of tiles `T`.
pub(in crate::matmul) fn kernel<B: Block<32, 1>, T: Avx512Tile + Tile<32, 1>>() -> Kernel {
    let one = by_rows!(multiply::<T, 1, NT>; 1 2 3 4 5 6);
    let two = by_rows!(multiply::<T, 2, NT>; 1 2 3 4 5 6);
    block_kernel::<B, T, 32, 1>(Form::Block32, one, two)
}

/// `P` panels times `NT` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn multiply<T: Avx512Tile, const P: usize, const NT: usize>(args: TileArgs<'_>) {
    let (units, scales) = Unit32::<NT>::of_tile(args.activations);
    let tiles = bytemuck::cast_slice::<u8, T>(args.weights);
    let tiles: [&[T]; P] = std::array::from_fn(|p| &tiles[p * units.len()..][..units.len()]);
    let mut f = [[_mm512_setzero_ps(); NT]; P];
    for (u, unit) in units.iter().enumerate() {
        let mut sums = [[_mm512_setzero_si512(); NT]; P];
        if T::OFFSET > 0 {
            for t in 0..NT {
                let start = _mm512_set1_epi32(unit.neg_sum[t]);
                for p in 0..P {
                    sums[p][t] =
                        _mm512_sll_epi32(start, _mm_cvtsi32_si128(const { T::OFFSET.trailing_zeros() as i32 }));
                }
            }
        }
        for p in 0..P {
            prefetch_near(&tiles[p][u], args.ahead_bytes);
        }
        for g in 0..8 {
            let mut weights = [_mm512_setzero_si512(); P];
            for p in 0..P {
                // SAFETY: the features of this function.
                weights[p] = unsafe { tiles[p][u].quad(g) };
            }
            for t in 0..NT {
                let a = _mm512_set1_epi32(unit.q[g][t]);
                for p in 0..P {
                    sums[p][t] = _mm512_dpbusd_epi32(sums[p][t], weights[p], a);
                }
            }
        }
        for p in 0..P {
            // SAFETY: the features of this function.
            let (d, m) = unsafe { (tiles[p][u].scale(), tiles[p][u].min()) };
            for t in 0..NT {
                // Times 2^exponent, by the bits.
                let sum = _mm512_castps_si512(_mm512_cvtepi32_ps(sums[p][t]));
                let scaled = _mm512_add_epi32(sum, _mm512_set1_epi32(unit.exponent[t]));
                f[p][t] = _mm512_fmadd_ps(_mm512_castsi512_ps(scaled), d, f[p][t]);
                if let Some(m) = m {
                    f[p][t] = _mm512_fmadd_ps(_mm512_set1_ps(unit.sum[t]), m, f[p][t]);
                }
            }
        }
    }
    let (out, _) = args.out.as_chunks_mut::<16>();
    for p in 0..P {
        for t in 0..NT {
            store(&mut out[p * args.panel_stride / 16 + t], _mm512_mul_ps(f[p][t], _mm512_set1_ps(scales[t])));
        }
    }
}

/// Values 4 g.. of each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::matmul) fn nibbles(from: &Nibbles<16>, g: usize) -> __m512i {
    let bytes = load(&from[g % 4]);
    let shifted = if g < 4 { bytes } else { _mm512_srli_epi16::<4>(bytes) };
    _mm512_and_si512(shifted, _mm512_set1_epi8(0x0f))
}

/// Values 4 g.. of each row, with their fifth bit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::matmul) fn nibbles_and_bits(from: &Nibbles<16>, high: &Bits<16>, g: usize) -> __m512i {
    /// a | (b & c)
    const OR_AND: i32 = 0xF8;
    let bit = _mm512_rolv_epi32(load(high), _mm512_set1_epi32((32 + 4 - g as i32) % 32));
    _mm512_ternarylogic_epi32::<OR_AND>(nibbles(from, g), bit, _mm512_set1_epi8(0x10))
}

/// Values 4 g.. of each row, from a table of 16 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::matmul) fn from_table(from: &Nibbles<16>, table: &[u8; 16], g: usize) -> __m512i {
    // SAFETY: 16 bytes are behind the reference.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    _mm512_shuffle_epi8(table, nibbles(from, g))
}
