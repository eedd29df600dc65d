//! AVX2. AVX-VNNI takes these kernels too: with its dot product of bytes they were no faster.
//!
//! AVX2 has no dot product of bytes with a 32-bit sum. `vpmaddubsw` adds two products into 16 bits; a *chain* of them is
//! added up in 16 bits, as far as that holds (see [`crate::activation::block256`]), and `vpmaddwd` then applies the
//! scales. Tiles and activations stand in the order of [`crate::activation::paired256`], where a lane's halves belong to
//! different sub-blocks, so that one such multiplication serves two chains.
//!
//! There is one frame for all formats; a format says how its tile *unpacks* ([`Unpack`]). For a few rows it unpacks in
//! registers, again for each tile of activations. For many rows a tile is spread once ([`Spread`]), a byte a value, into a
//! place that stays in the first-level cache.

use std::arch::x86_64::*;

use bytemuck::{Pod, Zeroable};
use tensor::format::block::{Block, Unpacked};

use crate::activation::paired256::{paired, unpaired};
use crate::activation::{Form, Paired256};
use crate::matmul::{Kernel, Sweep, SweepArgs, Tile, block_kernel};
use crate::simd::avx2::{prefetch, prefetch_part, store};
use crate::simd::rolled;

/// Panels whose tiles are spread together when many rows pass them: the first-level cache holds them beside a block of
/// activations.
const PANELS: usize = 8;

/// Most tiles of activations for which unpacking again costs less than spreading.
const FEW_TILES: usize = 4;

/// What the sums of a tile of eight rows are multiplied with.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Factors {
    /// Scales of each chain, 16 bits: of its low halves, of its high halves.
    pub(in crate::matmul) scales: [__m256i; 8],
    /// Of the sums of activations: see [`Mins`].
    pub(in crate::matmul) mins: [__m256i; 8],
    pub(in crate::matmul) d: __m256,
    pub(in crate::matmul) dmin: __m256,
}

/// What is subtracted from the sum of the products.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::matmul) enum Mins {
    /// Nothing.
    None,
    /// `dmin` times minima of 16 values; `mins` has eight pairs.
    Of16,
    /// `dmin` times minima of 32 values; `mins` has four pairs.
    Of32,
    /// An offset of the values times their scales, for 32 values; `mins` has four pairs.
    Offset32,
}

/// A tile of eight rows, its values in the order of [`crate::activation::paired256`], as `V` vectors of unsigned bytes, in
/// groups of `G` that share packed bytes.
pub(in crate::matmul) trait Unpack<const V: usize, const G: usize>: Pod {
    /// Vectors in a chain.
    const CHAIN: usize;
    /// log2 of what is subtracted from each value, where sums start.
    const OFFSET_BITS: Option<i32> = None;
    /// What is subtracted at the end.
    const MINS: Mins = Mins::None;
    /// Whether unpacking leaves enough registers for the sums of eight rows of activations.
    const EIGHT_ROWS: bool = false;

    /// Of chain `c`, vectors `i`, `i + CHAIN / G`, `i + 2 * CHAIN / G`, ... Vector `v` of the tile meets word `v` of the
    /// activations, modulo 64.
    ///
    /// # Safety
    /// The machine has AVX2, FMA and F16C.
    unsafe fn vectors(&self, c: usize, i: usize) -> [__m256i; G];

    /// Puts the factors. Those that the format does not need are left alone.
    ///
    /// # Safety
    /// The machine has AVX2, FMA and F16C.
    unsafe fn factors(&self, to: &mut Factors);
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
pub(in crate::matmul) fn kernel<B, T, const V: usize, const G: usize, const SUBS: usize>() -> Kernel
where
    B: Block<256, SUBS>,
    T: Tile<256, SUBS> + Unpack<V, G>,
{
    let sweep = Some(Sweep { from_tiles: 0, multiply: sweep::<T, V, G> });
    Kernel { sweep, ..block_kernel::<B, Paired<T>, 256, SUBS>(Form::Paired256, &[], &[]) }
}

/// Multiplies panels by all rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn sweep<T: Unpack<V, G>, const V: usize, const G: usize>(args: SweepArgs<'_>) {
    match args.activations.layout().tiles() {
        ..=FEW_TILES => few_rows::<T, V, G>(args),
        _ => many_rows::<T, V, G>(args),
    }
}

/// A few tiles of activations: a panel at a time, so that addresses ascend.
#[target_feature(enable = "avx2,fma,f16c")]
fn few_rows<T: Unpack<V, G>, const V: usize, const G: usize>(args: SweepArgs<'_>) {
    let SweepArgs { activations, ahead_bytes, .. } = args;
    let layout = activations.layout();
    let out = args.out.as_chunks_mut::<8>().0;
    for (weights, out) in args.weights.chunks(args.panel_bytes).zip(out.chunks_mut(activations.rows().max(1))) {
        let tiles = bytemuck::cast_slice::<u8, T>(weights);
        let words = |tile| activations.tile_words(tile, Form::Paired256);
        let mut tile = 0;
        while tile < layout.tiles() {
            if T::EIGHT_ROWS && layout.rows_of_tile(tile + 1).len() == 4 {
                panel::<T, V, G, 2, 4>(tiles, [words(tile), words(tile + 1)], ahead_bytes, &mut out[4 * tile..][..8]);
                tile += 2;
                continue;
            }
            let rows = layout.rows_of_tile(tile);
            let out = &mut out[rows.clone()];
            match rows.len() {
                1 => panel::<T, V, G, 1, 1>(tiles, [words(tile)], ahead_bytes, out),
                2 => panel::<T, V, G, 1, 2>(tiles, [words(tile)], ahead_bytes, out),
                3 => panel::<T, V, G, 1, 3>(tiles, [words(tile)], ahead_bytes, out),
                _ => panel::<T, V, G, 1, 4>(tiles, [words(tile)], ahead_bytes, out),
            }
            tile += 1;
        }
    }
}

/// A panel times `N` tiles of `NT` rows, which share its unpacked values.
#[target_feature(enable = "avx2,fma,f16c")]
fn panel<T: Unpack<V, G>, const V: usize, const G: usize, const N: usize, const NT: usize>(
    tiles: &[T],
    words: [&[u32]; N],
    ahead_bytes: usize,
    out: &mut [[f32; 8]],
) {
    let blocks = words.map(|words| &Paired256::<NT>::of_tile(words)[..tiles.len()]);
    let mut factors = Factors::zeroed();
    let mut f = [[_mm256_setzero_ps(); NT]; N];
    for (b, tile) in tiles.iter().enumerate() {
        let a = blocks.map(|blocks| &blocks[b]);
        // SAFETY: the features of this function.
        unsafe { tile.factors(&mut factors) };
        let mut sums = [[_mm256_setzero_si256(); NT]; N];
        for c in 0..rolled(V / T::CHAIN) {
            // A chain's share each: asked for at once, a tile's lines would keep loads waiting.
            prefetch_part(tile, c, V / T::CHAIN, ahead_bytes);
            let mut chain = [[_mm256_setzero_si256(); NT]; N];
            // A chain of one row fits the registers unrolled.
            let groups = if N * NT == 1 { T::CHAIN / G } else { rolled(T::CHAIN / G) };
            let mut a_q: [[&[[i32; NT]]; G]; N] = [[&[]; G]; N];
            for n in 0..N {
                chain[n] = chain_start::<T, V, G, NT>(a[n], c);
                let a_chain = &a[n].q[c * T::CHAIN % 64..][..T::CHAIN];
                for k in 0..G {
                    a_q[n][k] = &a_chain[k * (T::CHAIN / G)..][..groups];
                }
            }
            for i in 0..groups {
                // SAFETY: the features of this function.
                let q = unsafe { tile.vectors(c, i) };
                for k in 0..G {
                    for n in 0..N {
                        for t in 0..NT {
                            let products = _mm256_maddubs_epi16(q[k], _mm256_set1_epi32(a_q[n][k][i][t]));
                            chain[n][t] = _mm256_add_epi16(chain[n][t], products);
                        }
                    }
                }
            }
            let scales = factors.scales[c % 8];
            for n in 0..N {
                for t in 0..NT {
                    sums[n][t] = _mm256_add_epi32(sums[n][t], _mm256_madd_epi16(chain[n][t], scales));
                }
            }
        }
        for n in 0..N {
            for t in 0..NT {
                f[n][t] = add_scaled::<T, V, G, NT>(f[n][t], sums[n][t], &factors, a[n], t);
            }
        }
    }
    for (out, f) in out.iter_mut().zip(f.as_flattened()) {
        store(out, *f);
    }
}

/// A tile of eight rows as the loop for many rows of activations reads it.
#[derive(Clone, Copy)]
struct Spread<const V: usize> {
    q: [__m256i; V],
    factors: Factors,
}

/// Many tiles of activations: some panels at a time; all rows pass a block of theirs before the next is spread.
#[target_feature(enable = "avx2,fma,f16c")]
fn many_rows<T: Unpack<V, G>, const V: usize, const G: usize>(args: SweepArgs<'_>) {
    let SweepArgs { activations, .. } = args;
    let (layout, rows) = (activations.layout(), activations.rows());
    let blocks = activations.cols() / 256;
    let mut spread = [Spread::<V>::zeroed(); PANELS];
    for (weights, out) in
        args.weights.chunks(PANELS * args.panel_bytes).zip(args.out.as_chunks_mut::<8>().0.chunks_mut(PANELS * rows))
    {
        let tiles = bytemuck::cast_slice::<u8, T>(weights);
        let count = tiles.len() / blocks;
        for b in 0..blocks {
            for (tiles, spread) in tiles.chunks_exact(blocks).zip(&mut spread) {
                spread.put::<T, G>(&tiles[b]);
            }
            // To the next block of each panel, at last to the first block of the panels that follow.
            let ahead_bytes =
                if b + 1 < blocks { size_of::<T>() } else { PANELS * args.panel_bytes - b * size_of::<T>() };
            for tile in 0..layout.tiles() {
                for tiles in tiles.chunks_exact(blocks) {
                    prefetch_part(&tiles[b], tile, layout.tiles(), ahead_bytes);
                }
                let of_tile = layout.rows_of_tile(tile);
                let words = activations.tile_words(tile, Form::Paired256);
                let step = Step { spread: &spread[..count], words, b, rows, first_row: of_tile.start, out: &mut *out };
                match of_tile.len() {
                    1 => step.run::<T, G, 1>(),
                    2 => step.run::<T, G, 2>(),
                    3 => step.run::<T, G, 3>(),
                    _ => step.run::<T, G, 4>(),
                }
            }
        }
    }
}

/// A block of some panels, and a tile of activations.
struct Step<'a, const V: usize> {
    spread: &'a [Spread<V>],
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
    fn run<T: Unpack<V, G>, const G: usize, const NT: usize>(self) {
        let a = &Paired256::<NT>::of_tile(self.words)[self.b];
        // The same block of the next tile comes next; where that is elsewhere, asking does no harm.
        prefetch(a, size_of_val(self.words));
        let (pairs, rest) = self.spread.as_chunks::<2>();
        for (pair, out) in pairs.iter().zip(self.out.chunks_mut(2 * self.rows)) {
            let (first, second) = out.split_at_mut(self.rows);
            let out = [&mut first[self.first_row..][..NT], &mut second[self.first_row..][..NT]];
            add_block::<T, V, G, 2, NT>(pair, a, self.b == 0, out);
        }
        if let [last] = rest {
            let out = &mut self.out[(self.spread.len() - 1) * self.rows + self.first_row..][..NT];
            add_block::<T, V, G, 1, NT>(std::array::from_ref(last), a, self.b == 0, [out]);
        }
    }
}

/// Adds the products of a block of `P` panels and `NT` rows to `out`: the loop that all this is for.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_block<T: Unpack<V, G>, const V: usize, const G: usize, const P: usize, const NT: usize>(
    spread: &[Spread<V>; P],
    a: &Paired256<NT>,
    first: bool,
    out: [&mut [[f32; 8]]; P],
) {
    let mut sums = [[_mm256_setzero_si256(); NT]; P];
    for c in 0..rolled(V / T::CHAIN) {
        let mut chain = [chain_start::<T, V, G, NT>(a, c); P];
        // Two vectors a turn: of a whole chain, unrolled, the compiler would keep more in registers than there are.
        let turns = rolled(T::CHAIN / 2);
        let mut q: [&[[__m256i; 2]]; P] = [&[]; P];
        for p in 0..P {
            q[p] = &spread[p].q[c * T::CHAIN..].as_chunks().0[..turns];
        }
        let a_q = &a.q[c * T::CHAIN % 64..].as_chunks::<2>().0[..turns];
        for turn in 0..turns {
            for v in 0..2 {
                for t in 0..NT {
                    let a = _mm256_set1_epi32(a_q[turn][v][t]);
                    for p in 0..P {
                        chain[p][t] = _mm256_add_epi16(chain[p][t], _mm256_maddubs_epi16(q[p][turn][v], a));
                    }
                }
            }
        }
        for p in 0..P {
            let scales = spread[p].factors.scales[c % 8];
            for t in 0..NT {
                sums[p][t] = _mm256_add_epi32(sums[p][t], _mm256_madd_epi16(chain[p][t], scales));
            }
        }
    }
    for p in 0..P {
        for t in 0..NT {
            let before = if first { _mm256_setzero_ps() } else { load_f32(&out[p][t]) };
            store(&mut out[p][t], add_scaled::<T, V, G, NT>(before, sums[p][t], &spread[p].factors, a, t));
        }
    }
}

/// Where the sums of chain `c` start.
#[inline]
#[target_feature(enable = "avx2")]
fn chain_start<T: Unpack<V, G>, const V: usize, const G: usize, const NT: usize>(
    a: &Paired256<NT>,
    c: usize,
) -> [__m256i; NT] {
    let mut start = [_mm256_setzero_si256(); NT];
    if let Some(bits) = T::OFFSET_BITS {
        for t in 0..NT {
            let sum = _mm256_set1_epi32(a.neg_sum16_pairs[c % 8][t]);
            start[t] = _mm256_sll_epi16(sum, _mm_cvtsi32_si128(bits));
        }
    }
    start
}

/// `before` + what the sums of a block and row `t` come to.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_scaled<T: Unpack<V, G>, const V: usize, const G: usize, const NT: usize>(
    before: __m256,
    sum: __m256i,
    factors: &Factors,
    a: &Paired256<NT>,
    t: usize,
) -> __m256 {
    let Factors { mins, d, dmin, .. } = factors;
    let sum = match T::MINS {
        Mins::Offset32 => _mm256_sub_epi32(sum, dot(&mins[..4], &a.sum32_pairs, t)),
        _ => sum,
    };
    let product = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), *d);
    let value = match T::MINS {
        Mins::None | Mins::Offset32 => product,
        Mins::Of32 => {
            let m = _mm256_cvtepi32_ps(dot(&mins[..4], &a.sum32_pairs, t));
            _mm256_fnmadd_ps(m, *dmin, product)
        }
        Mins::Of16 => {
            let negative = _mm256_cvtepi32_ps(dot(mins, &a.neg_sum16_pairs, t));
            _mm256_fmadd_ps(negative, *dmin, product)
        }
    };
    _mm256_fmadd_ps(value, _mm256_set1_ps(a.scale[t]), before)
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

impl Factors {
    #[target_feature(enable = "avx2")]
    fn zeroed() -> Factors {
        let (zero, zero_ps) = (_mm256_setzero_si256(), _mm256_setzero_ps());
        Factors { scales: [zero; 8], mins: [zero; 8], d: zero_ps, dmin: zero_ps }
    }
}

impl<const V: usize> Spread<V> {
    #[target_feature(enable = "avx2")]
    fn zeroed() -> Spread<V> {
        Spread { q: [_mm256_setzero_si256(); V], factors: Factors::zeroed() }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn put<T: Unpack<V, G>, const G: usize>(&mut self, tile: &T) {
        for (c, chain) in self.q.chunks_exact_mut(T::CHAIN).enumerate() {
            for i in 0..T::CHAIN / G {
                // SAFETY: the features of this function.
                let q = unsafe { tile.vectors(c, i) };
                for k in 0..G {
                    chain[k * (T::CHAIN / G) + i] = q[k];
                }
            }
        }
        // SAFETY: the features of this function.
        unsafe { tile.factors(&mut self.factors) };
    }
}
