//! The frame of the kernels of AVX2 and AVX-VNNI, whose panels have eight rows: start with [`sweep`]. How an instruction set
//! adds up products of bytes is its [`ByteProducts`], how the tile of a format *unpacks* its [`Unpack`].
//!
//! The vectors of a tile come in *chains*, each with two sums in every row; one multiplication of pairs of 16-bit integers
//! applies the scales of both. For a few rows a tile unpacks in registers, again for each tile of activations. For many rows
//! it is spread once ([`SpreadTile`]), a byte a value, into a place that stays in the first-level cache.

use std::arch::x86_64::*;
use std::ops::Range;

use bytemuck::Pod;

use crate::activation::Form;
use crate::matmul::{Sweep, SweepArgs};
use crate::simd::avx2::{pin, prefetch, prefetch_part, store};
use crate::simd::rolled;

/// Panels whose tiles are spread together when many rows pass them: the first-level cache holds them beside a block of
/// activations.
const PANELS: usize = 8;

/// Most tiles of activations for which unpacking again costs less than spreading.
const FEW_TILES: usize = 4;

/// What the sums of a tile of eight rows are multiplied with.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Factors {
    /// Scales of the two sums of each chain, 16 bits.
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

/// A tile of eight rows as `V` vectors of unsigned bytes, in groups of `G` that share packed bytes. Its values are in the
/// order in which they were put.
pub(in crate::matmul) trait Unpack<const V: usize, const G: usize>: Pod {
    /// Vectors in a chain.
    const CHAIN: usize;
    /// Whether the sums of a chain need more than 16 bits, at most 24; scales then fit an i8. AVX-VNNI alone can do that.
    const WIDE: bool = false;
    /// log2 of what is subtracted from each value, where sums start.
    const OFFSET_BITS: Option<i32> = None;
    /// What is subtracted at the end.
    const MINS: Mins = Mins::None;
    /// Whether unpacking leaves enough registers for the sums of eight rows of activations, one for each.
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

    /// The same for values that were put in their own order, not that of [`crate::activation::paired256`]. It differs where a
    /// chain is shorter than two sub-blocks.
    ///
    /// # Safety
    /// The machine has AVX2, FMA and F16C.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factors_in_order(&self, to: &mut Factors) {
        // SAFETY: the features of this function.
        unsafe { self.factors(to) }
    }
}

/// How an instruction set adds up the products of bytes.
///
/// Functions of the frame that are generic over it run its instructions, though the compiler sees them as safe wherever AVX2
/// is: they may only be called on a machine that has that instruction set. [`sweep`]'s function is their one entry, and it is
/// reached through an unsafe function pointer, by callers who know that the machine does.
///
/// What makes them fast is that they and the functions here are inlined into [`ByteProducts::run`], where the compiler may use
/// the instructions; else each product would be a call. No test sees that: `nm -C` of a release binary must not show
/// `add_products`.
pub(super) trait ByteProducts {
    /// Of the activations.
    const FORM: Form;
    /// Parts of a chain that have sums of their own: at most [`MAX_PARTS`].
    const PARTS: usize;
    /// Vectors whose products the compiler may add in an order of its own, see [`pin`]: as measured.
    const PINNED: usize;
    /// 256 activations of `NT` rows in this form.
    type Block<const NT: usize>: Pod;

    /// Runs `code` where the compiler may use the instruction set.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn run(code: impl FnOnce());

    /// What every form has.
    fn rows<const NT: usize>(a: &Self::Block<NT>) -> Rows<'_, NT>;

    /// Of minima of 16 values, minus the sum of their products with the sums of row `t`.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn neg_of_16<const NT: usize>(mins: &[__m256i; 8], a: &Self::Block<NT>, t: usize) -> __m256i;

    /// Of minima of 32 values, the sum of their products with the sums of row `t`.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn of_32<const NT: usize>(mins: &[__m256i; 8], a: &Self::Block<NT>, t: usize) -> __m256i;

    /// Where the sums of these vectors and row `t` start, whose values are too great by 2^`offset_bits`.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn start<const NT: usize>(a: &Self::Block<NT>, vectors: Range<usize>, t: usize, offset_bits: i32)
    -> __m256i;

    /// `sum` + the products of unsigned bytes and signed ones.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn add_products(sum: __m256i, q: __m256i, a: __m256i) -> __m256i;

    /// `sum` + the sums of a chain's parts times its scales.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn add_chain(sum: __m256i, parts: [__m256i; MAX_PARTS], scales: __m256i, wide: bool) -> __m256i;

    /// Puts a tile's factors.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn factors<T: Unpack<V, G>, const V: usize, const G: usize>(tile: &T, to: &mut Factors);
}

/// Of 256 activations of `NT` rows.
pub(super) struct Rows<'a, const NT: usize> {
    pub(super) q: &'a [[i32; NT]; 64],
    pub(super) scale: &'a [f32; NT],
}

/// Most parts of a chain that have sums of their own.
pub(super) const MAX_PARTS: usize = 2;

/// What multiplies panels by all rows.
pub(super) fn sweep<A: ByteProducts, T: Unpack<V, G>, const V: usize, const G: usize>() -> Sweep {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn multiply<A: ByteProducts, T: Unpack<V, G>, const V: usize, const G: usize>(args: SweepArgs<'_>) {
        match args.activations.layout().tiles() {
            ..=FEW_TILES => few_rows::<A, T, V, G>(args),
            _ => many_rows::<A, T, V, G>(args),
        }
    }
    Sweep { from_tiles: 0, multiply: multiply::<A, T, V, G> }
}

/// A few tiles of activations: a panel at a time, so that addresses ascend.
#[target_feature(enable = "avx2,fma,f16c")]
fn few_rows<A: ByteProducts, T: Unpack<V, G>, const V: usize, const G: usize>(args: SweepArgs<'_>) {
    let SweepArgs { activations, ahead_bytes, .. } = args;
    let layout = activations.layout();
    let out = args.out.as_chunks_mut::<8>().0;
    for (weights, out) in args.weights.chunks(args.panel_bytes).zip(out.chunks_mut(activations.rows().max(1))) {
        let panel = Panel { tiles: bytemuck::cast_slice::<u8, T>(weights), ahead_bytes };
        let words = |tile| activations.tile_words(tile, A::FORM);
        let mut tile = 0;
        while tile < layout.tiles() {
            // A sum a row fits the registers, two do not.
            if T::EIGHT_ROWS && A::PARTS == 1 && layout.rows_of_tile(tile + 1).len() == 4 {
                panel.run::<A, V, G, 2, 4>([words(tile), words(tile + 1)], &mut out[4 * tile..][..8]);
                tile += 2;
                continue;
            }
            let rows = layout.rows_of_tile(tile);
            let out = &mut out[rows.clone()];
            match rows.len() {
                1 => panel.run::<A, V, G, 1, 1>([words(tile)], out),
                2 => panel.run::<A, V, G, 1, 2>([words(tile)], out),
                3 => panel.run::<A, V, G, 1, 3>([words(tile)], out),
                _ => panel.run::<A, V, G, 1, 4>([words(tile)], out),
            }
            tile += 1;
        }
    }
}

/// A panel of packed tiles.
struct Panel<'a, T> {
    tiles: &'a [T],
    ahead_bytes: usize,
}

impl<T> Panel<'_, T> {
    /// Times `N` tiles of `NT` rows, which share its unpacked values.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run<A: ByteProducts, const V: usize, const G: usize, const N: usize, const NT: usize>(
        &self,
        words: [&[u32]; N],
        out: &mut [[f32; 8]],
    ) where
        T: Unpack<V, G>,
    {
        // SAFETY: the features of the sweep.
        unsafe { A::run(|| multiply_panel::<A, T, V, G, N, NT>(self, words, out)) }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_panel<A: ByteProducts, T: Unpack<V, G>, const V: usize, const G: usize, const N: usize, const NT: usize>(
    panel: &Panel<'_, T>,
    words: [&[u32]; N],
    out: &mut [[f32; 8]],
) {
    let Panel { tiles, ahead_bytes } = *panel;
    let blocks = words.map(|words| &bytemuck::cast_slice::<u32, A::Block<NT>>(words)[..tiles.len()]);
    let mut factors = Factors::zeroed();
    let mut f = [[_mm256_setzero_ps(); NT]; N];
    for (b, tile) in tiles.iter().enumerate() {
        let a = blocks.map(|blocks| &blocks[b]);
        // SAFETY: the features of the sweep.
        unsafe { A::factors(tile, &mut factors) };
        let mut sums = [[_mm256_setzero_si256(); NT]; N];
        for c in 0..rolled(V / T::CHAIN) {
            // A chain's share each: asked for at once, a tile's lines would keep loads waiting.
            prefetch_part(tile, c, V / T::CHAIN, ahead_bytes);
            let mut parts = [[[_mm256_setzero_si256(); NT]; N]; MAX_PARTS];
            // A chain of one row fits the registers unrolled.
            let groups = if N * NT == 1 { T::CHAIN / G } else { rolled(T::CHAIN / G) };
            let mut a_q: [[&[[i32; NT]]; G]; N] = [[&[]; G]; N];
            for n in 0..N {
                let first = c * T::CHAIN % 64;
                for part in 0..A::PARTS {
                    let len = T::CHAIN / A::PARTS;
                    let first = first + part * len;
                    parts[part][n] = starts::<A, T, V, G, NT>(a[n], first..first + len);
                }
                let a_chain = &A::rows(a[n]).q[first..][..T::CHAIN];
                for k in 0..G {
                    a_q[n][k] = &a_chain[k * (T::CHAIN / G)..][..groups];
                }
            }
            for i in 0..groups {
                // SAFETY: the features of this function.
                let q = unsafe { tile.vectors(c, i) };
                for k in 0..G {
                    let part = k * A::PARTS / G;
                    for n in 0..N {
                        for t in 0..NT {
                            let a = _mm256_set1_epi32(a_q[n][k][i][t]);
                            // SAFETY: the features of the sweep.
                            parts[part][n][t] = unsafe { A::add_products(parts[part][n][t], q[k], a) };
                        }
                    }
                }
            }
            let scales = factors.scales[c % 8];
            for n in 0..N {
                for t in 0..NT {
                    let parts = [parts[0][n][t], parts[1][n][t]];
                    // SAFETY: the features of the sweep.
                    sums[n][t] = unsafe { A::add_chain(sums[n][t], parts, scales, T::WIDE) };
                }
            }
        }
        for n in 0..N {
            for t in 0..NT {
                f[n][t] = add_scaled::<A, T, V, G, NT>(f[n][t], sums[n][t], &factors, a[n], t);
            }
        }
    }
    for (out, f) in out.iter_mut().zip(f.as_flattened()) {
        store(out, *f);
    }
}

/// A tile of eight rows as the loop for many rows of activations reads it.
#[derive(Clone, Copy)]
struct SpreadTile<const V: usize> {
    q: [__m256i; V],
    factors: Factors,
}

/// Many tiles of activations: some panels at a time; all rows pass a block of theirs before the next is spread.
#[target_feature(enable = "avx2,fma,f16c")]
fn many_rows<A: ByteProducts, T: Unpack<V, G>, const V: usize, const G: usize>(args: SweepArgs<'_>) {
    let SweepArgs { activations, .. } = args;
    let (layout, rows) = (activations.layout(), activations.rows());
    let blocks = activations.cols() / 256;
    let mut spread = [SpreadTile::<V>::zeroed(); PANELS];
    for (weights, out) in
        args.weights.chunks(PANELS * args.panel_bytes).zip(args.out.as_chunks_mut::<8>().0.chunks_mut(PANELS * rows))
    {
        let tiles = bytemuck::cast_slice::<u8, T>(weights);
        let count = tiles.len() / blocks;
        for b in 0..blocks {
            for (tiles, spread) in tiles.chunks_exact(blocks).zip(&mut spread) {
                spread.put::<A, T, G>(&tiles[b]);
            }
            // To the next block of each panel, at last to the first block of the panels that follow.
            let ahead_bytes =
                if b + 1 < blocks { size_of::<T>() } else { PANELS * args.panel_bytes - b * size_of::<T>() };
            for tile in 0..layout.tiles() {
                for tiles in tiles.chunks_exact(blocks) {
                    prefetch_part(&tiles[b], tile, layout.tiles(), ahead_bytes);
                }
                let of_tile = layout.rows_of_tile(tile);
                let words = activations.tile_words(tile, A::FORM);
                let step = Step { spread: &spread[..count], words, b, rows, first_row: of_tile.start, out: &mut *out };
                match of_tile.len() {
                    1 => step.run::<A, T, G, 1>(),
                    2 => step.run::<A, T, G, 2>(),
                    3 => step.run::<A, T, G, 3>(),
                    _ => step.run::<A, T, G, 4>(),
                }
            }
        }
    }
}

/// A block of some panels, and a tile of activations.
struct Step<'a, const V: usize> {
    spread: &'a [SpreadTile<V>],
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
    fn run<A: ByteProducts, T: Unpack<V, G>, const G: usize, const NT: usize>(self) {
        // SAFETY: the features of the sweep.
        unsafe { A::run(|| self.add::<A, T, G, NT>()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn add<A: ByteProducts, T: Unpack<V, G>, const G: usize, const NT: usize>(self) {
        let a = &bytemuck::cast_slice::<u32, A::Block<NT>>(self.words)[self.b];
        // The same block of the next tile comes next; where that is elsewhere, asking does no harm.
        prefetch(a, size_of_val(self.words));
        let (pairs, rest) = self.spread.as_chunks::<2>();
        for (pair, out) in pairs.iter().zip(self.out.chunks_mut(2 * self.rows)) {
            let (first, second) = out.split_at_mut(self.rows);
            let out = [&mut first[self.first_row..][..NT], &mut second[self.first_row..][..NT]];
            add_block::<A, T, V, G, 2, NT>(pair, a, self.b == 0, out);
        }
        if let [last] = rest {
            let out = &mut self.out[(self.spread.len() - 1) * self.rows + self.first_row..][..NT];
            add_block::<A, T, V, G, 1, NT>(std::array::from_ref(last), a, self.b == 0, [out]);
        }
    }
}

/// Adds the products of a block of `P` panels and `NT` rows to `out`: the loop that all this is for.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_block<A: ByteProducts, T: Unpack<V, G>, const V: usize, const G: usize, const P: usize, const NT: usize>(
    spread: &[SpreadTile<V>; P],
    a: &A::Block<NT>,
    first: bool,
    out: [&mut [[f32; 8]]; P],
) {
    let mut sums = [[_mm256_setzero_si256(); NT]; P];
    for c in 0..rolled(V / T::CHAIN) {
        let mut parts = [[[_mm256_setzero_si256(); NT]; P]; MAX_PARTS];
        for part in 0..A::PARTS {
            let len = T::CHAIN / A::PARTS;
            let first = c * T::CHAIN % V + part * len;
            let mut chain = [starts::<A, T, V, G, NT>(a, first % 64..first % 64 + len); P];
            for v in first..first + len {
                for t in 0..NT {
                    let a = _mm256_set1_epi32(A::rows(a).q[v % 64][t]);
                    for p in 0..P {
                        // SAFETY: the features of the sweep.
                        chain[p][t] = unsafe { A::add_products(chain[p][t], spread[p].q[v], a) };
                    }
                }
                if (v + 1) % A::PINNED == 0 {
                    pin(&mut chain);
                }
            }
            parts[part] = chain;
        }
        for p in 0..P {
            let scales = spread[p].factors.scales[c % 8];
            for t in 0..NT {
                let parts = [parts[0][p][t], parts[1][p][t]];
                // SAFETY: the features of the sweep.
                sums[p][t] = unsafe { A::add_chain(sums[p][t], parts, scales, T::WIDE) };
            }
        }
    }
    for p in 0..P {
        for t in 0..NT {
            let before = if first { _mm256_setzero_ps() } else { load_f32(&out[p][t]) };
            store(&mut out[p][t], add_scaled::<A, T, V, G, NT>(before, sums[p][t], &spread[p].factors, a, t));
        }
    }
}

/// Where the sums of a chain's part start.
#[inline]
#[target_feature(enable = "avx2")]
fn starts<A: ByteProducts, T: Unpack<V, G>, const V: usize, const G: usize, const NT: usize>(
    a: &A::Block<NT>,
    vectors: Range<usize>,
) -> [__m256i; NT] {
    let mut starts = [_mm256_setzero_si256(); NT];
    if let Some(bits) = T::OFFSET_BITS {
        for t in 0..NT {
            // SAFETY: the features of the sweep.
            starts[t] = unsafe { A::start(a, vectors.clone(), t, bits) };
        }
    }
    starts
}

/// `before` + what the sums of a block and row `t` come to.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_scaled<A: ByteProducts, T: Unpack<V, G>, const V: usize, const G: usize, const NT: usize>(
    before: __m256,
    sum: __m256i,
    factors: &Factors,
    a: &A::Block<NT>,
    t: usize,
) -> __m256 {
    let Factors { mins, d, dmin, .. } = factors;
    let of_mins = match T::MINS {
        Mins::None => _mm256_setzero_si256(),
        // SAFETY: the features of the sweep.
        Mins::Of16 => unsafe { A::neg_of_16(mins, a, t) },
        // SAFETY: the features of the sweep.
        Mins::Of32 | Mins::Offset32 => unsafe { A::of_32(mins, a, t) },
    };
    let of_mins_ps = _mm256_cvtepi32_ps(of_mins);
    let product = |sum: __m256i| _mm256_mul_ps(_mm256_cvtepi32_ps(sum), *d);
    let value = match T::MINS {
        Mins::None => product(sum),
        Mins::Of16 => _mm256_fmadd_ps(of_mins_ps, *dmin, product(sum)),
        Mins::Of32 => _mm256_fnmadd_ps(of_mins_ps, *dmin, product(sum)),
        Mins::Offset32 => product(_mm256_sub_epi32(sum, of_mins)),
    };
    _mm256_fmadd_ps(value, _mm256_set1_ps(A::rows(a).scale[t]), before)
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

impl<const V: usize> SpreadTile<V> {
    #[target_feature(enable = "avx2")]
    fn zeroed() -> SpreadTile<V> {
        SpreadTile { q: [_mm256_setzero_si256(); V], factors: Factors::zeroed() }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn put<A: ByteProducts, T: Unpack<V, G>, const G: usize>(&mut self, tile: &T) {
        for (c, chain) in self.q.chunks_exact_mut(T::CHAIN).enumerate() {
            for i in 0..T::CHAIN / G {
                // SAFETY: the features of this function.
                let q = unsafe { tile.vectors(c, i) };
                for k in 0..G {
                    chain[k * (T::CHAIN / G) + i] = q[k];
                }
            }
        }
        // SAFETY: the features of the sweep.
        unsafe { A::factors(tile, &mut self.factors) };
    }
}
