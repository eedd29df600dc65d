//! AVX2 has no product of bytes that neither saturates nor mixes up signs. So products are added up in 16 bits where the
//! weights are small enough, and where they are not, magnitudes are multiplied by activations with the weights' signs.
//! AVX-VNNI has one: `avx_vnni.rs`.
//!
//! A unit's weights come as 8 quads, in two halves of 4: quad `g` of half `h` are values 16 h + 4 g.. of each row.

use std::arch::x86_64::*;

use bytemuck::Pod;
use tensor::format::block::Block;

use super::{Bits, Nibbles, avx_vnni};
use crate::Isa;
use crate::activation::{Form, Unit32};
use crate::matmul::{Kernel, Tile, TileArgs, block_kernel, by_rows};
use crate::simd::avx2::{load, pin, prefetch, store};

/// What a format's tile of 8 rows has to tell, for AVX2 and AVX-VNNI.
pub(in crate::matmul) trait Avx2Tile: Pod {
    /// What the values are too great by: a power of two, or 0.
    const OFFSET: u32 = 0;
    /// How many quads' products with activations 16 bits hold: 8 or 4, for values of at most 128 divided by that, or
    /// none.
    const RUN: Option<usize>;

    /// A quad, unsigned.
    ///
    /// # Safety
    /// The machine has AVX2.
    unsafe fn quad(&self, half: usize, g: usize) -> __m256i;

    /// A quad without [`Avx2Tile::OFFSET`], where that is 128.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn signed_quad(&self, half: usize, g: usize) -> __m256i {
        // SAFETY: the features of this function.
        _mm256_xor_si256(unsafe { self.quad(half, g) }, _mm256_set1_epi8(i8::MIN))
    }

    /// The scales.
    ///
    /// # Safety
    /// The machine has AVX2 and F16C.
    unsafe fn scale(&self) -> __m256;

    /// What is added, if anything.
    ///
    /// # Safety
    /// The machine has AVX2 and F16C.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn min(&self) -> Option<__m256> {
        None
    }
}

/// The kernels of tiles `T`.
pub(in crate::matmul) fn kernel<B: Block<32, 1>, T: Avx2Tile + Tile<32, 1>>(isa: Isa) -> Kernel {
    const { assert!(matches!(T::RUN, Some(4 | 8)) || T::RUN.is_none() && T::OFFSET == 128) };
    let (one, two) = match isa {
        Isa::AvxVnni => {
            (by_rows!(avx_vnni::multiply::<T, 1, NT>; 1 2 3 4), by_rows!(avx_vnni::multiply::<T, 2, NT>; 2 3 4))
        }
        _ => (by_rows!(multiply::<T, 1, NT>; 1 2 3 4), by_rows!(multiply::<T, 2, NT>; 2 3 4)),
    };
    block_kernel::<B, T, 32, 1>(Form::Block32, one, two)
}

/// `P` panels times `NT` rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<T: Avx2Tile, const P: usize, const NT: usize>(args: TileArgs<'_>) {
    match T::RUN {
        Some(_) => multiply_by::<T, P, NT>(args, |tiles, unit| unsigned_sums(tiles, unit)),
        None => multiply_by::<T, P, NT>(args, |tiles, unit| signed_sums(tiles, unit)),
    }
}

/// The sums of a unit's products, for small weights.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unsigned_sums<T: Avx2Tile, const P: usize, const NT: usize>(
    tiles: [&T; P],
    unit: &Unit32<NT>,
) -> [[__m256i; NT]; P] {
    let mut pairs = [[_mm256_setzero_si256(); NT]; P];
    for g in 0..4 {
        add_pairs(tiles, unit, 0, g, &mut pairs);
        if T::RUN == Some(8) {
            add_pairs(tiles, unit, 1, g, &mut pairs);
        }
    }
    let mut sums = starts::<T, P, NT>(unit);
    add_halves(&mut sums, &pairs);
    if T::RUN == Some(4) {
        pairs = [[_mm256_setzero_si256(); NT]; P];
        for g in 0..4 {
            add_pairs(tiles, unit, 1, g, &mut pairs);
        }
        add_halves(&mut sums, &pairs);
    }
    sums
}

/// The sums of a unit's products, for weights of 8 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed_sums<T: Avx2Tile, const P: usize, const NT: usize>(tiles: [&T; P], unit: &Unit32<NT>) -> [[__m256i; NT]; P] {
    let mut sums = [[_mm256_setzero_si256(); NT]; P];
    for g in 0..4 {
        add_signed(tiles, unit, 0, g, &mut sums);
        add_signed(tiles, unit, 1, g, &mut sums);
    }
    sums
}

/// What sums of products start from: less what the offset of the weights comes to.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn starts<T: Avx2Tile, const P: usize, const NT: usize>(unit: &Unit32<NT>) -> [[__m256i; NT]; P] {
    let mut starts = [[_mm256_setzero_si256(); NT]; P];
    if T::OFFSET > 0 {
        let shift = _mm_cvtsi32_si128(const { T::OFFSET.trailing_zeros() as i32 });
        for t in 0..NT {
            let start = _mm256_sll_epi32(_mm256_set1_epi32(unit.neg_sum[t]), shift);
            for p in 0..P {
                starts[p][t] = start;
            }
        }
    }
    starts
}

/// `P` panels times `NT` rows, where `sums` are the exact sums of a unit's products.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply_by<T: Avx2Tile, const P: usize, const NT: usize>(
    args: TileArgs<'_>,
    sums: impl Fn([&T; P], &Unit32<NT>) -> [[__m256i; NT]; P],
) {
    let (units, scales) = Unit32::<NT>::of_tile(args.activations);
    let tiles = bytemuck::cast_slice::<u8, T>(args.weights);
    let tiles: [&[T]; P] = std::array::from_fn(|p| &tiles[p * units.len()..][..units.len()]);
    let mut f = [[_mm256_setzero_ps(); NT]; P];
    for (u, unit) in units.iter().enumerate() {
        let tile: [&T; P] = std::array::from_fn(|p| &tiles[p][u]);
        for p in 0..P {
            prefetch(tile[p], args.ahead_bytes);
        }
        let sums = sums(tile, unit);
        for p in 0..P {
            // SAFETY: the features of this function.
            let (d, m) = unsafe { (tile[p].scale(), tile[p].min()) };
            for t in 0..NT {
                // Times 2^exponent, by the bits.
                let sum = _mm256_castps_si256(_mm256_cvtepi32_ps(sums[p][t]));
                let scaled = _mm256_add_epi32(sum, _mm256_set1_epi32(unit.exponent[t]));
                f[p][t] = _mm256_fmadd_ps(_mm256_castsi256_ps(scaled), d, f[p][t]);
                if let Some(m) = m {
                    f[p][t] = _mm256_fmadd_ps(_mm256_set1_ps(unit.sum[t]), m, f[p][t]);
                }
            }
        }
    }
    let (out, _) = args.out.as_chunks_mut::<8>();
    for p in 0..P {
        for t in 0..NT {
            store(&mut out[p * args.panel_stride / 8 + t], _mm256_mul_ps(f[p][t], _mm256_set1_ps(scales[t])));
        }
    }
}

/// Adds the products of a quad, in 16 bits: two of each row.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pairs<T: Avx2Tile, const P: usize, const NT: usize>(
    tiles: [&T; P],
    unit: &Unit32<NT>,
    half: usize,
    g: usize,
    pairs: &mut [[__m256i; NT]; P],
) {
    let mut weights = [_mm256_setzero_si256(); P];
    for p in 0..P {
        // SAFETY: the features of this function.
        weights[p] = unsafe { tiles[p].quad(half, g) };
    }
    for t in 0..NT {
        let a = _mm256_set1_epi32(unit.q[4 * half + g][t]);
        for p in 0..P {
            // Two products are at most 2 * 128 / RUN * 127: `RUN` of these fit into 16 bits.
            pairs[p][t] = _mm256_add_epi16(pairs[p][t], _mm256_maddubs_epi16(weights[p], a));
        }
    }
    pin(pairs);
}

/// sums += both halves of `pairs`.
#[inline]
#[target_feature(enable = "avx2")]
fn add_halves<const P: usize, const NT: usize>(sums: &mut [[__m256i; NT]; P], pairs: &[[__m256i; NT]; P]) {
    for p in 0..P {
        for t in 0..NT {
            sums[p][t] = _mm256_add_epi32(sums[p][t], _mm256_madd_epi16(pairs[p][t], _mm256_set1_epi16(1)));
        }
    }
}

/// Adds the products of a quad of signed weights.
#[inline]
#[target_feature(enable = "avx2")]
fn add_signed<T: Avx2Tile, const P: usize, const NT: usize>(
    tiles: [&T; P],
    unit: &Unit32<NT>,
    half: usize,
    g: usize,
    sums: &mut [[__m256i; NT]; P],
) {
    let mut weights = [_mm256_setzero_si256(); P];
    let mut magnitudes = [_mm256_setzero_si256(); P];
    for p in 0..P {
        // SAFETY: the features of this function.
        weights[p] = unsafe { tiles[p].signed_quad(half, g) };
        magnitudes[p] = _mm256_abs_epi8(weights[p]);
    }
    for t in 0..NT {
        let a = _mm256_set1_epi32(unit.q[4 * half + g][t]);
        for p in 0..P {
            // At most 2 * 128 * 127: no saturation. |-128| is 128 as an unsigned byte, and no activation is -128.
            let pairs = _mm256_maddubs_epi16(magnitudes[p], _mm256_sign_epi8(a, weights[p]));
            sums[p][t] = _mm256_add_epi32(sums[p][t], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
    }
    pin(sums);
}

/// A quad.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::matmul) fn nibbles(from: &Nibbles<8>, half: usize, g: usize) -> __m256i {
    let bytes = load(&from[g]);
    let shifted = if half == 0 { bytes } else { _mm256_srli_epi16::<4>(bytes) };
    _mm256_and_si256(shifted, _mm256_set1_epi8(0x0f))
}

/// A quad with its fifth bits.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::matmul) fn nibbles_and_bits(from: &Nibbles<8>, high: &Bits<8>, half: usize, g: usize) -> __m256i {
    let bits = load(high);
    // Bit 4 half + g of each byte becomes bit 4; what comes from a neighbouring byte does not get that far.
    let shifted = match half {
        0 => _mm256_sllv_epi32(bits, _mm256_set1_epi32([4, 3, 2, 1][g])),
        _ => _mm256_srlv_epi32(bits, _mm256_set1_epi32([0, 1, 2, 3][g])),
    };
    _mm256_or_si256(nibbles(from, half, g), _mm256_and_si256(shifted, _mm256_set1_epi8(0x10)))
}

/// A quad from a table of 16 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::matmul) fn from_table(from: &Nibbles<8>, table: &[u8; 16], half: usize, g: usize) -> __m256i {
    // SAFETY: 16 bytes are behind the reference.
    let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    _mm256_shuffle_epi8(table, nibbles(from, half, g))
}
