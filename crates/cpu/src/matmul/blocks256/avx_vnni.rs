//! AVX-VNNI: the dot product of bytes gives the sum of a lane's four products at once, so that a lane belongs to one
//! sub-block. Sums of two sub-blocks are put into the halves of one lane, and the dot product of 16-bit integers applies
//! both scales.

use std::arch::x86_64::*;

use bytemuck::{Pod, Zeroable};
use tensor::format::block::{Block, Unpacked};

use super::avx2::{Factors, Mins, Unpack, sub_blocks};
use crate::activation::{Block256, Form};
use crate::matmul::{Kernel, Tile, TileArgs, block_kernel, by_rows};
use crate::simd::avx2::{prefetch_part, store};
use crate::simd::rolled;

/// A tile whose values are put and got in the order of chains: of 8 vectors, the second and third 16 of every 64 values
/// change places, and sub-blocks of that length with them.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Chained<T, const CHAIN: usize>(T);

// SAFETY: the same bytes as `T`.
unsafe impl<T: Zeroable, const CHAIN: usize> Zeroable for Chained<T, CHAIN> {}
// SAFETY: as above.
unsafe impl<T: Pod, const CHAIN: usize> Pod for Chained<T, CHAIN> {}

impl<T: Tile<256, SUBS>, const SUBS: usize, const CHAIN: usize> Tile<256, SUBS> for Chained<T, CHAIN> {
    const ROWS: usize = T::ROWS;

    fn put(&mut self, row: usize, block: &Unpacked<256, SUBS>) {
        self.0.put(row, &chained::<SUBS, CHAIN>(block));
    }

    fn get(&self, row: usize) -> Unpacked<256, SUBS> {
        // The inverse is the same exchange.
        chained::<SUBS, CHAIN>(&self.0.get(row))
    }
}

fn chained<const SUBS: usize, const CHAIN: usize>(block: &Unpacked<256, SUBS>) -> Unpacked<256, SUBS> {
    let Unpacked { d, dmin, scales, mins, q } = block;
    let q = match CHAIN {
        8 => *bytemuck::cast_ref(&sub_blocks(bytemuck::cast_ref::<_, [[i8; 16]; 16]>(q))),
        _ => *q,
    };
    Unpacked { d: *d, dmin: *dmin, scales: sub_blocks(scales), mins: sub_blocks(mins), q }
}

/// The kernel of a format of blocks `B`, packed as tiles `T`.
pub(super) fn kernel<B, T, const V: usize, const G: usize, const SUBS: usize>() -> Kernel
where
    B: Block<256, SUBS>,
    T: Tile<256, SUBS> + Unpack<V, G>,
{
    let one = by_rows!(multiply::<T, V, G, NT>; 1 2 3 4);
    match T::CHAIN {
        8 => block_kernel::<B, Chained<T, 8>, 256, SUBS>(Form::Block256, one, &[]),
        _ => block_kernel::<B, Chained<T, 16>, 256, SUBS>(Form::Block256, one, &[]),
    }
}

/// A panel times `NT` rows.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn multiply<T: Unpack<V, G>, const V: usize, const G: usize, const NT: usize>(args: TileArgs<'_>) {
    let blocks = Block256::<NT>::of_tile(args.activations);
    let tiles = &bytemuck::cast_slice::<u8, T>(args.weights)[..blocks.len()];
    let mut factors = Factors::zeroed();
    let mut f = [_mm256_setzero_ps(); NT];
    for (tile, a) in tiles.iter().zip(blocks) {
        // SAFETY: the features of this function.
        unsafe { tile.factors(&mut factors) };
        let mut sums = [_mm256_setzero_si256(); NT];
        for c in 0..rolled(V / T::CHAIN) {
            prefetch_part(tile, c, V / T::CHAIN, args.ahead_bytes);
            let chain = chain::<T, V, G, NT>(tile, a, c);
            for t in 0..NT {
                sums[t] = _mm256_dpwssd_avx_epi32(sums[t], chain[t], factors.scales[c % 8]);
            }
        }
        for t in 0..NT {
            f[t] = add_scaled::<T, V, G, NT>(f[t], sums[t], &factors, a, t);
        }
    }
    for (out, f) in args.out.as_chunks_mut::<8>().0.iter_mut().zip(f) {
        store(out, f);
    }
}

/// The sums of chain `c`, two of 16 bits in a lane: of A, of B.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn chain<T: Unpack<V, G>, const V: usize, const G: usize, const NT: usize>(
    tile: &T,
    a: &Block256<NT>,
    c: usize,
) -> [__m256i; NT] {
    // The first words of A and B, and the 16 values whose sums belong to the chain's.
    let (words, subs) = (words_of::<T, V, G>(c), words_of::<T, V, G>(c).map(|word| word / 4));
    let mut sums = [[_mm256_setzero_si256(); NT]; 2];
    if let Some(bits) = T::OFFSET_BITS {
        for half in 0..2 {
            for t in 0..NT {
                let start = _mm256_set1_epi32(a.neg_sum16[subs[half]][t]);
                sums[half][t] = _mm256_sll_epi32(start, _mm_cvtsi32_si128(bits));
            }
        }
    }
    let groups = rolled(T::CHAIN / G);
    let mut a_q: [&[[i32; NT]]; G] = [&[]; G];
    for k in 0..G {
        let first = words[k / (G / 2)] + k % (G / 2) * (T::CHAIN / G);
        a_q[k] = &a.q[first..][..groups];
    }
    for i in 0..groups {
        // SAFETY: the features of this function.
        let q = unsafe { tile.vectors(c, i) };
        for k in 0..G {
            for t in 0..NT {
                let sum = &mut sums[k / (G / 2)][t];
                *sum = _mm256_dpbusd_avx_epi32(*sum, q[k], _mm256_set1_epi32(a_q[k][i][t]));
            }
        }
    }
    let [low, high] = sums;
    let mut both = [_mm256_setzero_si256(); NT];
    for t in 0..NT {
        both[t] = _mm256_blend_epi16::<0xaa>(low[t], _mm256_slli_epi32::<16>(high[t]));
    }
    both
}

/// The first words of activations that chain `c` meets, of A and of B.
#[inline]
fn words_of<T: Unpack<V, G>, const V: usize, const G: usize>(c: usize) -> [usize; 2] {
    let word = c * T::CHAIN % 64;
    let a = word / 16 * 16 + word % 16 / 2;
    [a, a + 8]
}

/// `before` + what the sums of a block and row `t` come to.
#[inline]
#[target_feature(enable = "avx2,fma,avxvnni")]
fn add_scaled<T: Unpack<V, G>, const V: usize, const G: usize, const NT: usize>(
    before: __m256,
    sum: __m256i,
    factors: &Factors,
    a: &Block256<NT>,
    t: usize,
) -> __m256 {
    let Factors { mins, d, dmin, .. } = factors;
    let mut of_mins = _mm256_setzero_si256();
    match T::MINS {
        Mins::None => {}
        Mins::Of32 | Mins::Offset32 => {
            for (min, sums) in mins.iter().zip(&a.sum32_pairs) {
                of_mins = _mm256_dpwssd_avx_epi32(of_mins, *min, _mm256_set1_epi32(sums[t]));
            }
        }
        Mins::Of16 => {
            for (c, min) in mins.iter().enumerate() {
                let [low, high] = words_of::<T, V, G>(c).map(|word| a.neg_sum16[word / 4][t]);
                let pair = low & 0xffff | high << 16;
                of_mins = _mm256_dpwssd_avx_epi32(of_mins, *min, _mm256_set1_epi32(pair));
            }
        }
    }
    let product = |sum| _mm256_mul_ps(_mm256_cvtepi32_ps(sum), *d);
    let value = match T::MINS {
        Mins::None => product(sum),
        Mins::Offset32 => product(_mm256_sub_epi32(sum, of_mins)),
        Mins::Of32 => _mm256_fnmadd_ps(_mm256_cvtepi32_ps(of_mins), *dmin, product(sum)),
        Mins::Of16 => _mm256_fmadd_ps(_mm256_cvtepi32_ps(of_mins), *dmin, product(sum)),
    };
    _mm256_fmadd_ps(value, _mm256_set1_ps(a.scale[t]), before)
}
