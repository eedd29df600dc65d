//! BF16 in pairs: two dimensions of a key, two tokens of a value. Queries and weights are rounded to BF16 as well, so
//! that one instruction multiplies and adds two of them where the machine has it.

use half::bf16;
use tensor::PAGE_TOKENS;

use super::{Ahead, At, Keys, Page, Sums, add_parities, tiles, weights_of};
use crate::attention::tile::{MAX_WIDTH, Scores, Visible};
use crate::simd::Simd;
use crate::simd::lanes::LANES;

pub(super) struct Bf16;

/// Weights of one query, in pairs of tokens.
type PairWeights = [u32; PAGE_TOKENS / 2];

impl Keys for Bf16 {
    fn pack(queries: &[&[f32]], scale: f32, packed: &mut Vec<u32>) {
        let bits = |x: f32| u32::from(bf16::from_f32(x * scale).to_bits());
        for i in (0..queries[0].len()).step_by(2) {
            packed.extend(queries.iter().map(|query| bits(query[i]) | bits(query[i + 1]) << 16));
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
        let keys = blocks.map(|block| bytemuck::cast_slice::<u8, u32>(block).as_chunks::<LANES>().0);
        let pairs = keys[0].len();
        // Even and odd pairs apart: two chains of additions for each score.
        let mut sums = [[[s.splat(0.0); Q]; B]; 2];
        for (i, queries) in queries.chunks_exact(2 * width).take(pairs / 2).enumerate() {
            for parity in 0..2 {
                let queries =
                    queries[parity * width + first..].first_chunk::<Q>().expect("a tile lies within its width");
                for b in 0..B {
                    let key = &keys[b][2 * i + parity];
                    ahead.ask_line::<S, _>(key);
                    let key = s.load_words(key);
                    for q in 0..Q {
                        sums[parity][b][q] = s.dot_bf16(key, queries[q], sums[parity][b][q]);
                    }
                }
            }
        }
        add_parities(s, sums)
    }
}

#[inline(always)]
pub(super) fn sum_values<S: Simd, A: Ahead>(
    s: S,
    page: Page<'_, A>,
    weights: &[Scores],
    union: Visible,
    outputs: &mut [f32],
) {
    let vectors = outputs.len() / weights.len() / LANES;
    let mut pair_weights = [[0u32; PAGE_TOKENS / 2]; MAX_WIDTH];
    for (weights, pairs) in weights.iter().zip(&mut pair_weights) {
        let halves = bytemuck::cast_slice_mut::<u32, u16>(pairs).as_chunks_mut::<LANES>().0;
        for (weights, halves) in weights.as_chunks::<LANES>().0.iter().zip(halves) {
            // What is no number may become one here: the row's sum of weights is none still.
            s.store_bf16(s.load(weights), halves);
        }
    }
    page.ahead.ask_part::<S>(page.bytes, 0, 1);
    let pairs = union.from / 2..union.to.div_ceil(2);
    let rows = bytemuck::cast_slice::<u8, u32>(page.bytes).as_chunks::<LANES>().0;
    let rows = &rows[pairs.start * vectors..pairs.end * vectors];
    let pair_weights = &pair_weights[..weights.len()];
    tiles!(S, weights.len(), vectors, false, sum[S, A](s, rows, page.ahead, pair_weights, pairs.start, outputs));
}

/// `rows`: pairs of tokens from `from` on, `vectors` a pair.
#[inline(always)]
fn sum<S: Simd, A: Ahead, const Q: usize, const V: usize>(
    s: S,
    rows: &[[u32; LANES]],
    ahead: A,
    weights: &[PairWeights],
    from: usize,
    outputs: &mut [f32],
    at: At,
) {
    let weights = weights_of::<_, Q>(weights, at);
    let mut sums = Sums::<S, Q, V>::load(s, outputs, at);
    for (pair, row) in rows.chunks_exact(at.vectors).enumerate() {
        let row = row[at.column..].first_chunk::<V>().expect("a tile lies within its columns");
        let mut values = [s.load_words(&row[0]); V];
        for v in 0..V {
            ahead.ask_line::<S, _>(&row[v]);
            values[v] = s.load_words(&row[v]);
        }
        for q in 0..Q {
            for v in 0..V {
                sums.0[q][v] = s.dot_bf16(values[v], weights[q][from + pair], sums.0[q][v]);
            }
        }
    }
    sums.store(s, outputs, at);
}
