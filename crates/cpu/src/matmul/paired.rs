//! Formats in super-blocks of 256 on AVX2.
//!
//! AVX2 has no dot product of bytes with a 32-bit sum. `vpmaddubsw` adds two products into 16 bits; a *chain* of them is
//! added up in 16 bits, as far as that holds (see [`crate::activation::block256`]), and `vpmaddwd` then applies the
//! scales. Tiles and activations stand in the order of [`crate::activation::paired256`], where a lane's halves belong to
//! different sub-blocks, so that one such multiplication serves two chains.
//!
//! There is one multiplying loop for all formats. A format *spreads* a tile into what that loop reads ([`Bytes`]): a byte
//! a value, 16 bits a scale, in a place that stays in the first-level cache. For a few rows that happens as the tile's
//! turn comes, and costs less than waiting for memory; for many, once for all rows.

use std::arch::x86_64::*;

use bytemuck::{Pod, Zeroable};
use tensor::format::block::{Block, Unpacked};

use super::{Kernel, SweepArgs, Tile, block_kernel};
use crate::activation::paired256::{paired, unpaired};
use crate::activation::{Form, Paired256};
use crate::simd::avx2::{prefetch, store};
use crate::simd::rolled;

/// Panels whose tiles are spread together when many rows pass them: the first-level cache holds them beside a block of
/// activations.
const PANELS: usize = 8;

/// A tile of eight rows as the multiplying loop reads it: see the module.
#[derive(Clone, Copy)]
pub(super) struct Bytes<const V: usize> {
    /// Values, unsigned: vector `v` meets word `v` of the activations.
    pub(super) q: [__m256i; V],
    /// Scales of each chain, 16 bits: of its low halves, of its high halves.
    pub(super) scales: [__m256i; 8],
    /// What the sums of activations are multiplied with: see [`Mins`].
    pub(super) mins: [__m256i; 8],
    pub(super) d: __m256,
    pub(super) dmin: __m256,
}

/// What is subtracted from the sum of the products.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mins {
    /// Nothing.
    None,
    /// `dmin` times minima of 16 values; `mins` has eight pairs.
    Of16,
    /// `dmin` times minima of 32 values; `mins` has four pairs.
    Of32,
    /// An offset of the values times their scales, for 32 values; `mins` has four pairs.
    Offset32,
}

/// A tile of eight rows, its values in the order of [`crate::activation::paired256`], that can be spread.
pub(super) trait Spread<const V: usize>: Pod {
    /// Vectors in a chain.
    const CHAIN: usize;
    /// log2 of what is subtracted from each value, where sums start.
    const OFFSET_BITS: Option<i32> = None;
    /// What is subtracted at the end.
    const MINS: Mins = Mins::None;

    /// Spreads the tile. Fields that the format does not need are left alone.
    ///
    /// # Safety
    /// The machine has AVX2, FMA and F16C.
    unsafe fn spread(&self, to: &mut Bytes<V>);
}

/// A tile whose values are put and got in the order of [`crate::activation::paired256`], its sub-blocks likewise where
/// they are shorter than half of 64 values.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Paired<T>(T);

// SAFETY: the same bytes as `T`.
unsafe impl<T: Zeroable> Zeroable for Paired<T> {}
// SAFETY: as above.
unsafe impl<T: Pod> Pod for Paired<T> {}

impl<T: Tile<256, SUBS>, const SUBS: usize> Tile<256, SUBS> for Paired<T> {
    const ROWS: usize = T::ROWS;

    fn put(&mut self, row: usize, block: &Unpacked<256, SUBS>) {
        let Unpacked { d, dmin, scales, mins, q } = block;
        self.0.put(
            row,
            &Unpacked { d: *d, dmin: *dmin, scales: sub_blocks(scales), mins: sub_blocks(mins), q: paired(q) },
        );
    }

    fn get(&self, row: usize) -> Unpacked<256, SUBS> {
        let Unpacked { d, dmin, scales, mins, q } = self.0.get(row);
        Unpacked { d, dmin, scales: sub_blocks(&scales), mins: sub_blocks(&mins), q: unpaired(&q) }
    }
}

/// Of sixteen sub-blocks the second and third of every four change places.
fn sub_blocks<T: Copy, const SUBS: usize>(of: &[T; SUBS]) -> [T; SUBS] {
    match SUBS {
        16 => std::array::from_fn(|j| of[j / 4 * 4 + [0, 2, 1, 3][j % 4]]),
        _ => *of,
    }
}

/// The kernel of a format of blocks `B`, packed as tiles `T`.
pub(super) fn kernel<B, T, const V: usize, const SUBS: usize>() -> Kernel
where
    B: Block<256, SUBS>,
    T: Tile<256, SUBS> + Spread<V>,
{
    let sweep = const { Some(sweep::<T, V> as super::SweepFn) };
    Kernel { sweep, ..block_kernel::<B, Paired<T>, 256, SUBS>(Form::Paired256, &[], &[]) }
}

/// Multiplies panels by all rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn sweep<T: Spread<V>, const V: usize>(args: SweepArgs<'_>) {
    match args.activations.layout().tiles() {
        0 => {}
        1 => few_rows::<T, V>(args),
        _ => many_rows::<T, V>(args),
    }
}

/// One tile of activations: two panels at a time, each block of theirs as it comes.
#[target_feature(enable = "avx2,fma,f16c")]
fn few_rows<T: Spread<V>, const V: usize>(args: SweepArgs<'_>) {
    let rows = args.activations.rows();
    let words = args.activations.tile_words(0, Form::Paired256);
    let mut bytes = [Bytes::<V>::zeroed(); 2];
    for (weights, out) in
        args.weights.chunks(2 * args.panel_bytes).zip(args.out.as_chunks_mut::<8>().0.chunks_mut(2 * rows))
    {
        let tiles = bytemuck::cast_slice::<u8, T>(weights);
        match (weights.len() > args.panel_bytes, rows) {
            (true, 1) => panels::<T, V, 2, 1>(tiles, words, &mut bytes, out),
            (true, 2) => panels::<T, V, 2, 2>(tiles, words, &mut bytes, out),
            (true, 3) => panels::<T, V, 2, 3>(tiles, words, &mut bytes, out),
            (true, _) => panels::<T, V, 2, 4>(tiles, words, &mut bytes, out),
            (false, 1) => panels::<T, V, 1, 1>(tiles, words, &mut bytes, out),
            (false, 2) => panels::<T, V, 1, 2>(tiles, words, &mut bytes, out),
            (false, 3) => panels::<T, V, 1, 3>(tiles, words, &mut bytes, out),
            (false, _) => panels::<T, V, 1, 4>(tiles, words, &mut bytes, out),
        }
    }
}

/// `P` panels times `NT` rows. `out` is `[P][NT]`.
#[target_feature(enable = "avx2,fma,f16c")]
fn panels<T: Spread<V>, const V: usize, const P: usize, const NT: usize>(
    tiles: &[T],
    words: &[u32],
    bytes: &mut [Bytes<V>; 2],
    out: &mut [[f32; 8]],
) {
    let blocks = Paired256::<NT>::of_tile(words);
    let tiles: [&[T]; P] = std::array::from_fn(|p| &tiles[p * blocks.len()..][..blocks.len()]);
    let mut f = [[_mm256_setzero_ps(); NT]; P];
    for (b, a) in blocks.iter().enumerate() {
        for p in 0..P {
            // SAFETY: the features of this function.
            unsafe { tiles[p][b].spread(&mut bytes[p]) };
        }
        block::<T, V, P, NT>(std::array::from_fn(|p| &bytes[p]), a, &mut f);
    }
    for p in 0..P {
        for t in 0..NT {
            store(&mut out[p * NT + t], f[p][t]);
        }
    }
}

/// Many tiles of activations: some panels at a time; all rows pass a block of theirs before the next is spread.
#[target_feature(enable = "avx2,fma,f16c")]
fn many_rows<T: Spread<V>, const V: usize>(args: SweepArgs<'_>) {
    let SweepArgs { activations, .. } = args;
    let (layout, rows) = (activations.layout(), activations.rows());
    let blocks = activations.cols() / 256;
    let mut bytes = [Bytes::<V>::zeroed(); PANELS];
    for (weights, out) in
        args.weights.chunks(PANELS * args.panel_bytes).zip(args.out.as_chunks_mut::<8>().0.chunks_mut(PANELS * rows))
    {
        let tiles = bytemuck::cast_slice::<u8, T>(weights);
        let count = tiles.len() / blocks;
        for b in 0..blocks {
            for (tiles, bytes) in tiles.chunks_exact(blocks).zip(&mut bytes) {
                prefetch(&tiles[b], size_of::<T>());
                // SAFETY: the features of this function.
                unsafe { tiles[b].spread(bytes) };
            }
            for tile in 0..layout.tiles() {
                let of_tile = layout.rows_of_tile(tile);
                let words = activations.tile_words(tile, Form::Paired256);
                let step = Step { bytes: &bytes[..count], words, b, rows, first_row: of_tile.start, out: &mut *out };
                match of_tile.len() {
                    1 => step.run::<T, 1>(),
                    2 => step.run::<T, 2>(),
                    3 => step.run::<T, 3>(),
                    _ => step.run::<T, 4>(),
                }
            }
        }
    }
}

/// A block of some panels, and a tile of activations.
struct Step<'a, const V: usize> {
    bytes: &'a [Bytes<V>],
    words: &'a [u32],
    b: usize,
    rows: usize,
    first_row: usize,
    /// `[panels][rows]`
    out: &'a mut [[f32; 8]],
}

impl<const V: usize> Step<'_, V> {
    /// Adds the products of `NT` rows to the sums of the blocks before.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run<T: Spread<V>, const NT: usize>(self) {
        let a = &Paired256::<NT>::of_tile(self.words)[self.b];
        let (pairs, rest) = self.bytes.as_chunks::<2>();
        for (bytes, out) in pairs.iter().zip(self.out.chunks_mut(2 * self.rows)) {
            let (first, second) = out.split_at_mut(self.rows);
            let out = [&mut first[self.first_row..][..NT], &mut second[self.first_row..][..NT]];
            add_block::<T, V, 2, NT>([&bytes[0], &bytes[1]], a, self.b == 0, out);
        }
        if let [bytes] = rest {
            let out = &mut self.out[(self.bytes.len() - 1) * self.rows + self.first_row..][..NT];
            add_block::<T, V, 1, NT>([bytes], a, self.b == 0, [out]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_block<T: Spread<V>, const V: usize, const P: usize, const NT: usize>(
    bytes: [&Bytes<V>; P],
    a: &Paired256<NT>,
    first: bool,
    out: [&mut [[f32; 8]]; P],
) {
    let mut f = [[_mm256_setzero_ps(); NT]; P];
    if !first {
        for p in 0..P {
            for t in 0..NT {
                f[p][t] = load_f32(&out[p][t]);
            }
        }
    }
    block::<T, V, P, NT>(bytes, a, &mut f);
    for p in 0..P {
        for t in 0..NT {
            store(&mut out[p][t], f[p][t]);
        }
    }
}

/// Adds the products of a block of `P` panels and `NT` rows to `f`: the loop that all this is for.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn block<T: Spread<V>, const V: usize, const P: usize, const NT: usize>(
    bytes: [&Bytes<V>; P],
    a: &Paired256<NT>,
    f: &mut [[__m256; NT]; P],
) {
    let mut sums = [[_mm256_setzero_si256(); NT]; P];
    for c in 0..rolled(V / T::CHAIN) {
        let first = c * T::CHAIN;
        let mut chain = [[_mm256_setzero_si256(); NT]; P];
        if let Some(bits) = T::OFFSET_BITS {
            for t in 0..NT {
                let sum = _mm256_set1_epi32(a.neg_sum16_pairs[c][t]);
                let start = _mm256_sll_epi16(sum, _mm_cvtsi32_si128(bits));
                for p in 0..P {
                    chain[p][t] = start;
                }
            }
        }
        let q: [&[__m256i]; P] = std::array::from_fn(|p| &bytes[p].q[first..][..T::CHAIN]);
        let a_q = &a.q[first % 64..][..T::CHAIN];
        for v in 0..T::CHAIN {
            for t in 0..NT {
                let a = _mm256_set1_epi32(a_q[v][t]);
                for p in 0..P {
                    chain[p][t] = _mm256_add_epi16(chain[p][t], _mm256_maddubs_epi16(q[p][v], a));
                }
            }
        }
        for p in 0..P {
            let scales = bytes[p].scales[c];
            for t in 0..NT {
                sums[p][t] = _mm256_add_epi32(sums[p][t], _mm256_madd_epi16(chain[p][t], scales));
            }
        }
    }
    for p in 0..P {
        let Bytes { mins, d, dmin, .. } = bytes[p];
        for t in 0..NT {
            let mut sum = sums[p][t];
            if T::MINS == Mins::Offset32 {
                sum = _mm256_sub_epi32(sum, dot(&mins[..4], &a.sum32_pairs, t));
            }
            let mut value = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), *d);
            value = match T::MINS {
                Mins::None | Mins::Offset32 => value,
                Mins::Of32 => {
                    let m = _mm256_cvtepi32_ps(dot(&mins[..4], &a.sum32_pairs, t));
                    _mm256_fnmadd_ps(m, *dmin, value)
                }
                Mins::Of16 => {
                    let negative = _mm256_cvtepi32_ps(dot(mins, &a.neg_sum16_pairs, t));
                    _mm256_fmadd_ps(negative, *dmin, value)
                }
            };
            f[p][t] = _mm256_fmadd_ps(value, _mm256_set1_ps(a.scale[t]), f[p][t]);
        }
    }
}

/// Sum of the products of pairs of 16-bit integers with those of row `t`.
#[inline]
#[target_feature(enable = "avx2")]
fn dot<const NT: usize>(pairs: &[__m256i], words: &[[i32; NT]], t: usize) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    for (pair, word) in pairs.iter().zip(words) {
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(*pair, _mm256_set1_epi32(word[t])));
    }
    sum
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_f32(from: &[f32; 8]) -> __m256 {
    // SAFETY: 32 bytes are behind the reference.
    unsafe { _mm256_loadu_ps(from.as_ptr()) }
}

impl<const V: usize> Bytes<V> {
    #[target_feature(enable = "avx2")]
    fn zeroed() -> Bytes<V> {
        let (zero, zero_ps) = (_mm256_setzero_si256(), _mm256_setzero_ps());
        Bytes { q: [zero; V], scales: [zero; 8], mins: [zero; 8], d: zero_ps, dmin: zero_ps }
    }
}
