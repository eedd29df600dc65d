//! AVX-VNNI, the product of bytes in 256 bits, over the tiles of AVX2.

use std::arch::x86_64::*;

use super::avx2::{Avx2Tile, multiply_by, starts};
use crate::activation::Unit32;
use crate::matmul::TileArgs;
use crate::simd::avx2::pin;

/// `P` panels times `NT` rows.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) fn multiply<T: Avx2Tile, const P: usize, const NT: usize>(args: TileArgs<'_>) {
    multiply_by::<T, P, NT>(args, |tiles, unit| sums(tiles, unit));
}

/// The sums of a unit's products.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn sums<T: Avx2Tile, const P: usize, const NT: usize>(tiles: [&T; P], unit: &Unit32<NT>) -> [[__m256i; NT]; P] {
    let mut sums = starts::<T, P, NT>(unit);
    for g in 0..8 {
        let (half, g) = (g / 4, g % 4);
        let mut weights = [_mm256_setzero_si256(); P];
        for p in 0..P {
            // SAFETY: the features of this function.
            weights[p] = unsafe { tiles[p].quad(half, g) };
        }
        for t in 0..NT {
            let a = _mm256_set1_epi32(unit.q[4 * half + g][t]);
            for p in 0..P {
                sums[p][t] = _mm256_dpbusd_avx_epi32(sums[p][t], weights[p], a);
            }
        }
        pin(&mut sums);
    }
    sums
}
