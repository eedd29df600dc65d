//! NEON: see [`super`].

use bytemuck::Pod;
use tensor::format::block::Block;

use super::{Bits, Nibbles};
use crate::Isa;
use crate::activation::{Form, Unit32};
use crate::matmul::{Kernel, Tile, TileArgs, block_kernel, by_rows};
use crate::simd::neon::registers::*;
use crate::simd::neon::{Dot, Dotprod, I8mm, Octet, Rows, Sums, each, load, load_octet, load_table, octet, prefetch};

/// What a format's tile of 8 rows has to tell.
pub(in crate::matmul) trait NeonTile: Pod {
    /// What the values are too great by: a power of two, or 0.
    const OFFSET: u32 = 0;

    /// Values 8 h.. of each row; signed.
    fn octet<D: Dot>(&self, h: usize) -> Octet;

    /// The scales.
    fn scale(&self) -> Rows<float32x4_t>;

    /// What is added, if anything.
    fn min(&self) -> Option<Rows<float32x4_t>> {
        None
    }
}

/// The kernels of tiles `T`.
pub(in crate::matmul) fn kernel<B: Block<32, 1>, T: NeonTile + Tile<32, 1>>(isa: Isa) -> Kernel {
    let one = match isa {
        Isa::NeonI8mm => by_rows!(i8mm::<T, NT>; 1 2 3 4 5 6),
        _ => by_rows!(dotprod::<T, NT>; 1 2 3 4 5 6),
    };
    block_kernel::<B, T, 32, 1>(Form::Block32, one, &[])
}

#[target_feature(enable = "neon,fp16,dotprod")]
fn dotprod<T: NeonTile, const NT: usize>(args: TileArgs<'_>) {
    multiply::<T, Dotprod, NT>(args);
}

#[target_feature(enable = "neon,fp16,dotprod,i8mm")]
fn i8mm<T: NeonTile, const NT: usize>(args: TileArgs<'_>) {
    multiply::<T, I8mm, NT>(args);
}

/// One panel times `NT` rows.
#[inline(always)]
fn multiply<T: NeonTile, D: Dot, const NT: usize>(args: TileArgs<'_>) {
    let (units, scales) = Unit32::<NT>::of_tile(args.activations);
    let tiles = &bytemuck::cast_slice::<u8, T>(args.weights)[..units.len()];
    let columns = D::columns::<NT>();
    let mut f: Sums<float32x4_t> = [[vdupq_n_f32(0.0); 2]; _];
    for (tile, unit) in tiles.iter().zip(units) {
        prefetch::<T, 1>(tile, 0, args.ahead_bytes);
        let mut sums: Sums<int32x4_t> = [[vdupq_n_s32(0); 2]; _];
        if T::OFFSET > 0 {
            let shift = vdupq_n_s32(const { T::OFFSET.trailing_zeros() as i32 });
            for c in 0..columns {
                sums[c] = [vshlq_s32(D::of_column(&unit.neg_sum, c), shift); 2];
            }
        }
        let activations = unit.q.as_chunks::<2>().0;
        for h in 0..4 {
            D::add_products(&mut sums, &tile.octet::<D>(h), &activations[h]);
        }
        let d = D::floats_of_rows(tile.scale());
        let m = tile.min().map(D::floats_of_rows);
        for c in 0..columns {
            let exponent = D::of_column(&unit.exponent, c);
            let sum = D::floats_of_column(&unit.sum, c);
            for half in 0..2 {
                // Times 2^exponent, by the bits.
                let bits = vreinterpretq_s32_f32(vcvtq_f32_s32(sums[c][half]));
                let scaled = vreinterpretq_f32_s32(vaddq_s32(bits, exponent));
                f[c][half] = vfmaq_f32(f[c][half], scaled, d[c % 2][half]);
                if let Some(m) = m {
                    f[c][half] = vfmaq_f32(f[c][half], sum, m[c % 2][half]);
                }
            }
        }
    }
    for c in 0..columns {
        let scale = D::floats_of_column(scales, c);
        f[c] = f[c].map(|f| vmulq_f32(f, scale));
    }
    D::store::<NT>(args.out.as_chunks_mut::<8>().0, &f);
}

/// Values 8 h.. of each row.
#[inline(always)]
pub(in crate::matmul) fn nibbles<D: Dot>(from: &Nibbles<8>, h: usize) -> Octet {
    let bytes = load_octet::<D>(&from[2 * h % 4], &from[2 * h % 4 + 1]);
    if h < 2 { each(bytes, |x| vandq_u8(x, vdupq_n_u8(0x0f))) } else { each(bytes, |x| vshrq_n_u8::<4>(x)) }
}

/// Values 8 h.. of each row, with their fifth bit.
#[inline(always)]
pub(in crate::matmul) fn nibbles_and_bits<D: Dot>(from: &Nibbles<8>, high: &Bits<8>, h: usize) -> Octet {
    let high = load(high);
    // Bit g to bit 4.
    let bits = |g: usize| {
        let shift = vdupq_n_s8(4 - g as i8);
        high.map(|high| vandq_u8(vshlq_u8(high, shift), vdupq_n_u8(0x10)))
    };
    let (low, high) = (nibbles::<D>(from, h), octet::<D>(bits(2 * h), bits(2 * h + 1)));
    let or = |half: usize, i: usize| vorrq_u8(low[half][i], high[half][i]);
    [[or(0, 0), or(0, 1)], [or(1, 0), or(1, 1)]]
}

/// Values 8 h.. of each row, from a table of 16.
#[inline(always)]
pub(in crate::matmul) fn from_table<D: Dot>(from: &Nibbles<8>, table: &[i8; 16], h: usize) -> Octet {
    let table = load_table(table);
    each(nibbles::<D>(from, h), |index| vqtbl1q_u8(table, index))
}
