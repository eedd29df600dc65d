//! Entries that widen to f32 one by one: F32, F16.

use bytemuck::Pod;
use tensor::PAGE_TOKENS;

use super::{Ahead, At, Keys, LINE, Page, Sums, add_parities, tiles, weights_of};
use crate::attention::tile::{Scores, Visible};
use crate::simd::Simd;
use crate::simd::lanes::LANES;

/// How sixteen entries become f32.
pub(super) trait Wide {
    /// An entry.
    type Raw: Pod;
    /// Vectors of entries in a cache line.
    const VECTORS_PER_LINE: usize = LINE / size_of::<[Self::Raw; LANES]>();
    fn load<S: Simd>(s: S, raw: &[Self::Raw; LANES]) -> S::F;
}

pub(super) struct F32;
pub(super) struct F16;

impl Wide for F32 {
    type Raw = f32;

    #[inline(always)]
    fn load<S: Simd>(s: S, raw: &[f32; LANES]) -> S::F {
        s.load(raw)
    }
}

impl Wide for F16 {
    type Raw = u16;

    #[inline(always)]
    fn load<S: Simd>(s: S, raw: &[u16; LANES]) -> S::F {
        s.load_f16(raw)
    }
}

impl<W: Wide> Keys for W {
    const BY_EIGHT: bool = true;

    fn pack(queries: &[&[f32]], scale: f32, packed: &mut Vec<u32>) {
        for i in 0..queries[0].len() {
            packed.extend(queries.iter().map(|query| (query[i] * scale).to_bits()));
        }
    }

    #[inline(always)]
    fn score<S: Simd, A: Ahead, const Q: usize, const B: usize>(
        s: S,
        blocks: [&[u8]; B],
        ahead: A,
        queries: &[u32],
        first: usize,
        width: usize,
    ) -> [[S::F; Q]; B] {
        let keys = blocks.map(|block| bytemuck::cast_slice::<u8, W::Raw>(block).as_chunks::<LANES>().0);
        let queries = bytemuck::cast_slice::<u32, f32>(queries);
        // Even and odd dimensions apart: two chains of additions for each score. Where the registers do not hold both, one
        // after the other: the block stays in the first-level cache.
        let [mut even, mut odd] = [[[s.splat(0.0); Q]; B]; 2];
        let pairs = queries.chunks_exact(2 * width).take(keys[0].len() / 2);
        if 2 * Q * B < S::REGISTERS {
            for (i, queries) in pairs.enumerate() {
                add_dimension::<S, W, A, Q, B>(s, keys, ahead, 2 * i, &queries[first..], &mut even);
                add_dimension::<S, W, A, Q, B>(s, keys, ahead, 2 * i + 1, &queries[width + first..], &mut odd);
            }
        } else {
            for (i, queries) in pairs.clone().enumerate() {
                add_dimension::<S, W, A, Q, B>(s, keys, ahead, 2 * i, &queries[first..], &mut even);
            }
            for (i, queries) in pairs.enumerate() {
                add_dimension::<S, W, A, Q, B>(s, keys, ahead, 2 * i + 1, &queries[width + first..], &mut odd);
            }
        }
        add_parities(s, [even, odd])
    }
}

/// sums += one dimension of `Q` queries times that of sixteen keys.
#[inline(always)]
fn add_dimension<S: Simd, W: Wide, A: Ahead, const Q: usize, const B: usize>(
    s: S,
    keys: [&[[W::Raw; LANES]]; B],
    ahead: A,
    dimension: usize,
    queries: &[f32],
    sums: &mut [[S::F; Q]; B],
) {
    let queries = queries.first_chunk::<Q>().expect("a tile lies within its width");
    for b in 0..B {
        let raw = &keys[b][dimension];
        if dimension.is_multiple_of(W::VECTORS_PER_LINE) {
            ahead.ask_line::<S, _>(raw);
        }
        let key = W::load(s, raw);
        for q in 0..Q {
            sums[b][q] = s.fma(key, s.splat(queries[q]), sums[b][q]);
        }
    }
}

#[inline(always)]
pub(super) fn sum_values<S: Simd, W: Wide, A: Ahead>(
    s: S,
    page: Page<'_, A>,
    weights: &[Scores],
    union: Visible,
    outputs: &mut [f32],
) {
    let vectors = outputs.len() / weights.len() / LANES;
    let rows = bytemuck::cast_slice::<u8, W::Raw>(page.bytes).as_chunks::<LANES>().0;
    // Few registers hold a narrow column of outputs: the page is then read in order, some tokens at a time.
    let step = if S::REGISTERS < 32 { LANES } else { PAGE_TOKENS };
    for from in (union.from..union.to).step_by(step) {
        page.ahead.ask_part::<S>(page.bytes, from / step, PAGE_TOKENS / step);
        let rows = &rows[from * vectors..union.to.min(from + step) * vectors];
        tiles!(S, weights.len(), vectors, true, sum[S, W, A](s, rows, page.ahead, weights, from, outputs));
    }
}

/// `rows`: tokens from `from` on, `vectors` a token.
#[inline(always)]
fn sum<S: Simd, W: Wide, A: Ahead, const Q: usize, const V: usize>(
    s: S,
    rows: &[[W::Raw; LANES]],
    ahead: A,
    weights: &[Scores],
    from: usize,
    outputs: &mut [f32],
    at: At,
) {
    let weights = weights_of::<_, Q>(weights, at);
    let mut sums = Sums::<S, Q, V>::load(s, outputs, at);
    for (token, row) in rows.chunks_exact(at.vectors).enumerate() {
        let row = row[at.column..].first_chunk::<V>().expect("a tile lies within its columns");
        let mut values = [s.splat(0.0); V];
        for v in 0..V {
            if v.is_multiple_of(W::VECTORS_PER_LINE) {
                ahead.ask_line::<S, _>(&row[v]);
            }
            values[v] = W::load(s, &row[v]);
        }
        for q in 0..Q {
            let weight = s.splat(weights[q][from + token]);
            for v in 0..V {
                sums.0[q][v] = s.fma(values[v], weight, sums.0[q][v]);
            }
        }
    }
    sums.store(s, outputs, at);
}
