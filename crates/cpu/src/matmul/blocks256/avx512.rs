//! AVX-512 with many rows: a tile is *spread* once ([`Spread`]), a byte a value, into a place that stays in the first-level
//! cache while all rows pass it. Few rows unpack in registers, each format in its own file.

use std::arch::x86_64::*;

use bytemuck::Pod;
use tensor::format::block::Block;

use crate::activation::{Block256, Form};
use crate::matmul::{Kernel, Sweep, SweepArgs, Tile, TileFn, block_kernel};
use crate::simd::avx2::prefetch_part;
use crate::simd::avx512::{pair_sums, prefetch_near, store};
use crate::simd::rolled;

/// Panels whose tiles are spread together: the first-level cache holds them beside a block of activations.
const PANELS: usize = 4;

/// Fewest tiles of activations for which spreading pays.
const MANY_TILES: usize = 5;

/// What the sums of a tile of 16 rows are multiplied with.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Factors {
    /// Scales of each chain, 16 bits: of its first half, of its second half.
    pub(in crate::matmul) scales: [__m512i; 8],
    /// Minima of sub-blocks 2 j and 2 j + 1, 16 bits: see [`Mins`].
    pub(in crate::matmul) mins: [__m512i; 4],
    pub(in crate::matmul) d: __m512,
    pub(in crate::matmul) dmin: __m512,
}

/// What is subtracted from the sum of the products, times `dmin`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::matmul) enum Mins {
    /// Nothing.
    None,
    /// Minima of 32 values.
    Of32,
}

/// A tile of 16 rows that can be spread to 64 vectors of unsigned bytes, a lane of four for each row.
pub(in crate::matmul) trait Spread: Pod {
    /// Vectors in a chain. The sums of each half of one fit into 16 bits.
    const CHAIN: usize;
    /// log2 of what is subtracted from each value, where sums start; only with chains of 8.
    const OFFSET_BITS: Option<u32> = None;
    /// What is subtracted at the end.
    const MINS: Mins = Mins::None;

    /// Puts the vectors: vector `v` has values 4 v.. of each row.
    ///
    /// # Safety
    /// The machine has AVX-512 F and BW.
    unsafe fn spread(&self, to: &mut [__m512i; 64]);

    /// Puts the factors. Those that the format does not need are left alone.
    ///
    /// # Safety
    /// The machine has AVX-512 F and BW.
    unsafe fn factors(&self, to: &mut Factors);
}

/// The kernel of a format of blocks `B`, packed as tiles `T`, with what multiplies one and two panels by a few rows.
pub(in crate::matmul) fn kernel<B, T, const SUBS: usize>(one: &'static [TileFn], two: &'static [TileFn]) -> Kernel
where
    B: Block<256, SUBS>,
    T: Tile<256, SUBS> + Spread,
{
    const { assert!(T::CHAIN == 8 || T::CHAIN == 16 && T::OFFSET_BITS.is_none()) };
    let sweep = Some(Sweep { from_tiles: MANY_TILES, multiply: sweep::<T> });
    Kernel { sweep, ..block_kernel::<B, T, 256, SUBS>(Form::Block256, one, two) }
}

/// A tile as the loop reads it.
#[derive(Clone, Copy)]
struct SpreadTile {
    q: [__m512i; 64],
    factors: Factors,
}

/// Some panels at a time; all rows pass a block of theirs before the next is spread.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sweep<T: Spread>(args: SweepArgs<'_>) {
    let SweepArgs { activations, .. } = args;
    let (layout, rows) = (activations.layout(), activations.rows());
    let blocks = activations.cols() / 256;
    let (zero, zero_ps) = (_mm512_setzero_si512(), _mm512_setzero_ps());
    let factors = Factors { scales: [zero; 8], mins: [zero; 4], d: zero_ps, dmin: zero_ps };
    let mut spread = [SpreadTile { q: [zero; 64], factors }; PANELS];
    for (weights, out) in
        args.weights.chunks(PANELS * args.panel_bytes).zip(args.out.as_chunks_mut::<16>().0.chunks_mut(PANELS * rows))
    {
        let tiles = bytemuck::cast_slice::<u8, T>(weights);
        let count = tiles.len() / blocks;
        for b in 0..blocks {
            for (tiles, spread) in tiles.chunks_exact(blocks).zip(&mut spread) {
                // SAFETY: the features of this function.
                unsafe {
                    tiles[b].spread(&mut spread.q);
                    tiles[b].factors(&mut spread.factors);
                }
            }
            // To the next block of each panel, at last to the first block of the panels that follow.
            let ahead_bytes =
                if b + 1 < blocks { size_of::<T>() } else { PANELS * args.panel_bytes - b * size_of::<T>() };
            for tile in 0..layout.tiles() {
                for tiles in tiles.chunks_exact(blocks) {
                    // Into the second level: the first has the panels that are spread.
                    prefetch_part(&tiles[b], tile, layout.tiles(), ahead_bytes);
                }
                let of_tile = layout.rows_of_tile(tile);
                let words = activations.tile_words(tile, Form::Block256);
                let step = Step { spread: &spread[..count], words, b, rows, first_row: of_tile.start, out: &mut *out };
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
struct Step<'a> {
    spread: &'a [SpreadTile],
    words: &'a [u32],
    b: usize,
    rows: usize,
    first_row: usize,
    /// `[panels][rows]`
    out: &'a mut [[f32; 16]],
}

impl Step<'_> {
    /// Adds the products of `NT` rows to the sums of the blocks before.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn run<T: Spread, const NT: usize>(self) {
        let a = &Block256::<NT>::of_tile(self.words)[self.b];
        // The same block of the next tile comes next; where that is elsewhere, asking does no harm.
        prefetch_near(a, size_of_val(self.words));
        let (pairs, rest) = self.spread.as_chunks::<2>();
        for (pair, out) in pairs.iter().zip(self.out.chunks_mut(2 * self.rows)) {
            let (first, second) = out.split_at_mut(self.rows);
            let out = [&mut first[self.first_row..][..NT], &mut second[self.first_row..][..NT]];
            add_block::<T, 2, NT>(pair, a, self.b == 0, out);
        }
        if let [last] = rest {
            let out = &mut self.out[(self.spread.len() - 1) * self.rows + self.first_row..][..NT];
            add_block::<T, 1, NT>(std::array::from_ref(last), a, self.b == 0, [out]);
        }
    }
}

/// Adds the products of a block of `P` panels and `NT` rows to `out`: the loop that all this is for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_block<T: Spread, const P: usize, const NT: usize>(
    spread: &[SpreadTile; P],
    a: &Block256<NT>,
    first: bool,
    out: [&mut [[f32; 16]]; P],
) {
    let half = const { T::CHAIN / 2 };
    let mut sums = [[_mm512_setzero_si512(); NT]; P];
    for c in 0..rolled(64 / T::CHAIN) {
        let mut chain = [[[_mm512_setzero_si512(); NT]; P]; 2];
        if let Some(bits) = T::OFFSET_BITS {
            for (h, chain) in chain.iter_mut().enumerate() {
                for t in 0..NT {
                    let sum = _mm512_set1_epi32(a.neg_sum16[(2 * c + h) % 16][t]);
                    let start = _mm512_sll_epi32(sum, _mm_cvtsi32_si128(bits as i32));
                    for p in 0..P {
                        chain[p][t] = start;
                    }
                }
            }
        }
        let turns = rolled(half);
        let a_q = [&a.q[c * T::CHAIN..][..turns], &a.q[c * T::CHAIN + half..][..turns]];
        let mut q: [[&[__m512i]; P]; 2] = [[&[]; P]; 2];
        for p in 0..P {
            q[0][p] = &spread[p].q[c * T::CHAIN..][..turns];
            q[1][p] = &spread[p].q[c * T::CHAIN + half..][..turns];
        }
        for i in 0..turns {
            for h in 0..2 {
                for t in 0..NT {
                    let a = _mm512_set1_epi32(a_q[h][i][t]);
                    for p in 0..P {
                        chain[h][p][t] = _mm512_dpbusd_epi32(chain[h][p][t], q[h][p][i], a);
                    }
                }
            }
        }
        for p in 0..P {
            let scales = spread[p].factors.scales[c % 8];
            for t in 0..NT {
                let both = pair_sums::<16>(chain[0][p][t], chain[1][p][t]);
                sums[p][t] = _mm512_dpwssd_epi32(sums[p][t], both, scales);
            }
        }
    }
    for p in 0..P {
        for t in 0..NT {
            let before = if first { _mm512_setzero_ps() } else { load_f32(&out[p][t]) };
            store(&mut out[p][t], add_scaled::<T, NT>(before, sums[p][t], &spread[p].factors, a, t));
        }
    }
}

/// `before` + what the sums of a block and row `t` come to.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_scaled<T: Spread, const NT: usize>(
    before: __m512,
    sum: __m512i,
    factors: &Factors,
    a: &Block256<NT>,
    t: usize,
) -> __m512 {
    let Factors { mins, d, dmin, .. } = factors;
    let product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), *d);
    let value = match T::MINS {
        Mins::None => product,
        Mins::Of32 => {
            let mut of_mins = _mm512_setzero_si512();
            for (min, sums) in mins.iter().zip(&a.sum32_pairs) {
                of_mins = _mm512_dpwssd_epi32(of_mins, *min, _mm512_set1_epi32(sums[t]));
            }
            _mm512_fnmadd_ps(_mm512_cvtepi32_ps(of_mins), *dmin, product)
        }
    };
    _mm512_fmadd_ps(value, _mm512_set1_ps(a.scale[t]), before)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32(from: &[f32; 16]) -> __m512 {
    // SAFETY: 64 bytes are behind the reference.
    unsafe { _mm512_loadu_ps(from.as_ptr()) }
}
