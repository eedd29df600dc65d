//! NEON: see [`super`].

use bytemuck::Pod;
use tensor::format::block::Block;

use crate::Isa;
use crate::activation::{Block256, Form};
use crate::matmul::{Kernel, Tile, TileArgs, block_kernel, by_rows};
use crate::simd::neon::registers::*;
use crate::simd::neon::{Dot, Dotprod, I8mm, Octet, Rows, Sums, prefetch};
use crate::simd::rolled;

/// What a format's tile of 8 rows has to tell; `SUBS` (8 or 16) sub-blocks have scales of their own.
pub(in crate::matmul) trait NeonTile<const SUBS: usize>: Pod {
    /// What the values are too great by: a power of two, or 0. Only with 16 sub-blocks, since that many sums of
    /// activations there are.
    const OFFSET: u32 = 0;

    /// Of the 32 values at 32 u, values 8 h.. of each row; signed.
    fn octet<D: Dot>(&self, u: usize, h: usize) -> Octet;

    /// The scales of the super-blocks.
    fn d(&self) -> Rows<float32x4_t>;

    /// The scales of the sub-blocks.
    fn scales(&self) -> [Rows<int32x4_t>; SUBS];

    /// The scales of the minima, and the minima of the sub-blocks, if there are any.
    fn mins(&self) -> Option<(Rows<float32x4_t>, [Rows<int32x4_t>; SUBS])> {
        None
    }
}

/// The kernels of tiles `T`.
pub(in crate::matmul) fn kernel<B, T, const SUBS: usize>(isa: Isa) -> Kernel
where
    B: Block<256, SUBS>,
    T: NeonTile<SUBS> + Tile<256, SUBS>,
{
    let one = match isa {
        Isa::NeonI8mm => by_rows!(i8mm::<T, SUBS, NT>; 1 2 3 4),
        _ => by_rows!(dotprod::<T, SUBS, NT>; 1 2 3 4),
    };
    block_kernel::<B, T, 256, SUBS>(Form::Block256, one, &[])
}

#[target_feature(enable = "neon,fp16,dotprod")]
fn dotprod<T: NeonTile<SUBS>, const SUBS: usize, const NT: usize>(args: TileArgs<'_>) {
    multiply::<T, Dotprod, SUBS, NT>(args);
}

#[target_feature(enable = "neon,fp16,dotprod,i8mm")]
fn i8mm<T: NeonTile<SUBS>, const SUBS: usize, const NT: usize>(args: TileArgs<'_>) {
    multiply::<T, I8mm, SUBS, NT>(args);
}

/// One panel times `NT` rows.
#[inline(always)]
fn multiply<T: NeonTile<SUBS>, D: Dot, const SUBS: usize, const NT: usize>(args: TileArgs<'_>) {
    let blocks = Block256::<NT>::of_tile(args.activations);
    let tiles = &bytemuck::cast_slice::<u8, T>(args.weights)[..blocks.len()];
    let columns = D::columns::<NT>();
    let mut f: Sums<float32x4_t> = [[vdupq_n_f32(0.0); 2]; _];
    for (tile, a) in tiles.iter().zip(blocks) {
        let products = products::<T, D, SUBS, NT>(tile, a, args.ahead_bytes);
        let d = D::floats_of_rows(tile.d());
        let mut values: Sums<float32x4_t> = [[vdupq_n_f32(0.0); 2]; _];
        for c in 0..columns {
            for half in 0..2 {
                values[c][half] = vmulq_f32(vcvtq_f32_s32(products[c][half]), d[c % 2][half]);
            }
        }
        if let Some((dmin, mins)) = tile.mins() {
            let dmin = D::floats_of_rows(dmin);
            let sums = sums_of_mins::<D, SUBS, NT>(&mins, a);
            for c in 0..columns {
                for half in 0..2 {
                    let sum = vcvtq_f32_s32(sums[c][half]);
                    values[c][half] = vfmsq_f32(values[c][half], sum, dmin[c % 2][half]);
                }
            }
        }
        for c in 0..columns {
            let scale = D::floats_of_column(&a.scale, c);
            for half in 0..2 {
                f[c][half] = vfmaq_f32(f[c][half], values[c][half], scale);
            }
        }
    }
    D::store::<NT>(args.out.as_chunks_mut::<8>().0, &f);
}

/// The sums of scale * weight * activation.
#[inline(always)]
fn products<T: NeonTile<SUBS>, D: Dot, const SUBS: usize, const NT: usize>(
    tile: &T,
    a: &Block256<NT>,
    ahead_bytes: usize,
) -> Sums<int32x4_t> {
    let subs_per_unit = const { SUBS / 8 };
    let octets_per_sub = const { 32 / SUBS };
    let columns = D::columns::<NT>();
    let scales = tile.scales();
    let (scales, activations) = (scales.as_chunks::<2>().0, a.q.as_chunks::<2>().0.as_chunks::<8>().0);
    let shift = vdupq_n_s32(const { T::OFFSET.trailing_zeros() as i32 % 32 });
    let mut products: Sums<int32x4_t> = [[vdupq_n_s32(0); 2]; _];
    for pair in 0..rolled(4) {
        prefetch::<T, 4>(tile, pair, ahead_bytes);
        for v in 0..2 {
            let unit = 2 * pair + v;
            for s in 0..subs_per_unit {
                let sub = subs_per_unit * unit + s;
                let mut sums: Sums<int32x4_t> = [[vdupq_n_s32(0); 2]; _];
                if T::OFFSET > 0 {
                    for c in 0..columns {
                        sums[c] = [vshlq_s32(D::of_column(&a.neg_sum16[sub], c), shift); 2];
                    }
                }
                for h in octets_per_sub * s..octets_per_sub * (s + 1) {
                    D::add_products(&mut sums, &tile.octet::<D>(unit, h), &activations[pair][4 * v + h]);
                }
                let scale = D::of_rows(scales[sub / 2][sub % 2]);
                for c in 0..columns {
                    for half in 0..2 {
                        products[c][half] = vmlaq_s32(products[c][half], sums[c][half], scale[c % 2][half]);
                    }
                }
            }
        }
    }
    products
}

/// The sums of minimum * activation.
#[inline(always)]
fn sums_of_mins<D: Dot, const SUBS: usize, const NT: usize>(
    mins: &[Rows<int32x4_t>; SUBS],
    a: &Block256<NT>,
) -> Sums<int32x4_t> {
    let negative = a.neg_sum16.chunks_exact(const { 16 / SUBS });
    let mut sums: Sums<int32x4_t> = [[vdupq_n_s32(0); 2]; _];
    for (&min, negative) in mins[..rolled(SUBS)].iter().zip(negative) {
        let min = D::of_rows(min);
        for c in 0..D::columns::<NT>() {
            let mut sum = D::of_column(&negative[0], c);
            if let [_, second] = negative {
                sum = vaddq_s32(sum, D::of_column(second, c));
            }
            for half in 0..2 {
                sums[c][half] = vmlsq_s32(sums[c][half], min[c % 2][half], sum);
            }
        }
    }
    sums
}
