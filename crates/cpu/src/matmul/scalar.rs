//! Plain kernels over the packed layouts: for machines without any other, and the oracle of the others.
//!
//! The order of the float operations here is the one that every kernel keeps to.

use super::{Tile, TileArgs};
use crate::activation::{Block256, Unit32};

/// Formats in blocks of 32: for each block `f += d * (t * 2^exponent) - dmin * sum`, at last `f * scale`.
pub(super) fn blocks_of_32<T: Tile<32, 1>, const NT: usize>(args: TileArgs<'_>) {
    let (units, scales) = Unit32::<NT>::of_tile(args.activations);
    let tiles = bytemuck::cast_slice::<u8, T>(args.weights);
    for (panel, tiles) in tiles.chunks(units.len()).enumerate() {
        for row in 0..T::ROWS {
            let mut f = [0.0_f32; NT];
            for (tile, unit) in tiles.iter().zip(units) {
                let block = tile.get(row);
                for t in 0..NT {
                    let products = block.q.as_chunks::<4>().0.iter().zip(&unit.q);
                    let sum: i32 = products.map(|(q, a)| dot4(q, a[t])).sum();
                    let scaled = f32::from_bits((sum as f32).to_bits().wrapping_add(unit.exponent[t] as u32));
                    f[t] = scaled.mul_add(block.d, f[t]);
                    f[t] = unit.sum[t].mul_add(-block.dmin, f[t]);
                }
            }
            for t in 0..NT {
                args.out[panel * args.panel_stride + t * T::ROWS + row] = f[t] * scales[t];
            }
        }
    }
}

/// Formats in super-blocks of 256: for each block `f += scale * (d * t - dmin * m)`.
pub(super) fn blocks_of_256<T: Tile<256, SUBS>, const SUBS: usize, const NT: usize>(args: TileArgs<'_>) {
    let blocks = Block256::<NT>::of_tile(args.activations);
    let tiles = bytemuck::cast_slice::<u8, T>(args.weights);
    let quads = 64 / SUBS;
    for (panel, tiles) in tiles.chunks(blocks.len()).enumerate() {
        for row in 0..T::ROWS {
            let mut f = [0.0_f32; NT];
            for (tile, activations) in tiles.iter().zip(blocks) {
                let block = tile.get(row);
                for t in 0..NT {
                    let (mut products, mut mins) = (0_i32, 0_i32);
                    for (j, q) in block.q.as_chunks::<4>().0.chunks(quads).enumerate() {
                        let a = &activations.q[j * quads..];
                        let sum: i32 = q.iter().zip(a).map(|(q, a)| dot4(q, a[t])).sum();
                        products += i32::from(block.scales[j]) * sum;
                        let ones: i32 = a[..quads].iter().map(|a| dot4(&[1; 4], a[t])).sum();
                        mins += i32::from(block.mins[j]) * ones;
                    }
                    let value = (mins as f32).mul_add(-block.dmin, products as f32 * block.d);
                    f[t] = value.mul_add(activations.scale[t], f[t]);
                }
            }
            for t in 0..NT {
                args.out[panel * args.panel_stride + t * T::ROWS + row] = f[t];
            }
        }
    }
}

/// Four weights times the four activations of a word.
fn dot4(q: &[i8; 4], word: i32) -> i32 {
    let a = word.to_le_bytes();
    (0..4).map(|i| i32::from(q[i]) * i32::from(a[i] as i8)).sum()
}
