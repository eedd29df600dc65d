//! Q8_0 and Q4_0 entries. Scores are integer dot products with queries quantized to 8 bits a group; values become f32,
//! their scale goes into the weight.

use bytemuck::Pod;
use tensor::PAGE_TOKENS;

use super::{Ahead, At, Keys, LINE, Page, Sums, weights_of};
use crate::attention::tile::{Scores, Visible};
use crate::kv::layout::{GROUP, Q4Keys, Q4Values, Q8Keys, Q8Values};
use crate::simd::Simd;
use crate::simd::lanes::LANES;

pub(super) struct Q8;
pub(super) struct Q4;

/// Words of one query and group: the codes, four a word, their scale, their sum. A tile has them side by side:
/// `[groups][GROUP_WORDS][width]`.
const GROUP_WORDS: usize = GROUP / 4 + 2;

/// Where the scale is among them, and where the sum.
const SCALE: usize = GROUP / 4;
const SUM: usize = GROUP / 4 + 1;

/// One word of `Q` queries of a group.
#[inline(always)]
fn word<const Q: usize>(group: &[u32], word: usize, first: usize, width: usize) -> &[u32; Q] {
    group[word * width + first..].first_chunk().expect("a tile lies within its width")
}

/// Quantizes a tile of queries. With a value that is no number, no score of the query is one.
fn pack(queries: &[&[f32]], scale: f32, packed: &mut Vec<u32>) {
    const Q_MAX: f32 = 127.0;
    let width = queries.len();
    for group in 0..queries[0].len() / GROUP {
        let first = packed.len();
        packed.resize(first + GROUP_WORDS * width, 0);
        let words = &mut packed[first..];
        for (q, query) in queries.iter().enumerate() {
            let values = &query[group * GROUP..(group + 1) * GROUP];
            let is_number = values.iter().all(|x| !x.is_nan());
            let max = if is_number { values.iter().fold(0.0f32, |max, x| max.max(x.abs())) } else { f32::NAN };
            let inverse = if max == 0.0 { 0.0 } else { Q_MAX / max };
            let mut sum = 0;
            for (i, values) in values.as_chunks::<4>().0.iter().enumerate() {
                let codes = values.map(|x| (x * inverse).round_ties_even() as i8);
                sum += codes.iter().map(|&code| i32::from(code)).sum::<i32>();
                words[i * width + q] = u32::from_le_bytes(codes.map(|code| code as u8));
            }
            words[SCALE * width + q] = (max / Q_MAX * scale).to_bits();
            words[SUM * width + q] = sum as u32;
        }
    }
}

impl Keys for Q8 {
    fn pack(queries: &[&[f32]], scale: f32, packed: &mut Vec<u32>) {
        pack(queries, scale, packed);
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
        let keys = blocks.map(bytemuck::cast_slice::<u8, Q8Keys>);
        let mut scores = [[s.splat(0.0); Q]; B];
        for (group, queries) in queries.chunks_exact(GROUP_WORDS * width).take(keys[0].len()).enumerate() {
            let start = word::<Q>(queries, SUM, first, width).map(|sum| s.offset_start(sum as i32));
            let mut sums = [start; B];
            for i in 0..GROUP / 4 {
                let queries = word::<Q>(queries, i, first, width);
                for b in 0..B {
                    let codes = &keys[b][group].codes[i];
                    ahead.ask_line::<S, _>(codes);
                    let codes = s.load_words(codes);
                    for q in 0..Q {
                        sums[b][q] = s.dot_offset(codes, queries[q], sums[b][q]);
                    }
                }
            }
            for b in 0..B {
                ahead.ask_line::<S, _>(&keys[b][group].scales);
            }
            let scales = word::<Q>(queries, SCALE, first, width);
            add_scaled(s, &mut scores, sums, keys.map(|keys| &keys[group].scales), scales);
        }
        scores
    }
}

impl Keys for Q4 {
    fn pack(queries: &[&[f32]], scale: f32, packed: &mut Vec<u32>) {
        pack(queries, scale, packed);
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
        let keys = blocks.map(bytemuck::cast_slice::<u8, Q4Keys>);
        let mut scores = [[s.splat(0.0); Q]; B];
        for (group, queries) in queries.chunks_exact(GROUP_WORDS * width).take(keys[0].len()).enumerate() {
            let start = word::<Q>(queries, SUM, first, width).map(|sum| s.splat_i(-8 * (sum as i32)));
            let mut sums = [start; B];
            for i in 0..GROUP / 8 {
                let low_queries = word::<Q>(queries, i, first, width);
                let high_queries = word::<Q>(queries, GROUP / 8 + i, first, width);
                for b in 0..B {
                    let codes = &keys[b][group].codes[i];
                    ahead.ask_line::<S, _>(codes);
                    let codes = s.load_words(codes);
                    let (low, high) = (s.low_nibbles(codes), s.high_nibbles(codes));
                    for q in 0..Q {
                        sums[b][q] = s.dot_small(low, low_queries[q], sums[b][q]);
                        sums[b][q] = s.dot_small(high, high_queries[q], sums[b][q]);
                    }
                }
            }
            for b in 0..B {
                ahead.ask_line::<S, _>(&keys[b][group].scales);
            }
            let scales = word::<Q>(queries, SCALE, first, width);
            add_scaled(s, &mut scores, sums, keys.map(|keys| &keys[group].scales), scales);
        }
        scores
    }
}

/// scores += sums * scale of the key * scale of the query.
#[inline(always)]
fn add_scaled<S: Simd, const Q: usize, const B: usize>(
    s: S,
    scores: &mut [[S::F; Q]; B],
    sums: [[S::I; Q]; B],
    key_scales: [&[u16; LANES]; B],
    query_scales: &[u32; Q],
) {
    for b in 0..B {
        let key_scales = s.load_f16(key_scales[b]);
        for q in 0..Q {
            let scale = s.mul(key_scales, s.splat(f32::from_bits(query_scales[q])));
            scores[b][q] = s.fma(s.to_float(sums[b][q]), scale, scores[b][q]);
        }
    }
}

/// A group of values.
pub(super) trait Values: Sized {
    type Group: Pod;
    /// Of one token.
    type Codes;

    fn scales(group: &Self::Group) -> &[u16; PAGE_TOKENS];
    fn codes(group: &Self::Group) -> &[Self::Codes; PAGE_TOKENS];
    /// The 32 values of a token, without their scale.
    fn load<S: Simd>(s: S, codes: &Self::Codes) -> [S::F; 2];
}

impl Values for Q8 {
    type Group = Q8Values;
    type Codes = [[i8; LANES]; 2];

    #[inline(always)]
    fn scales(group: &Q8Values) -> &[u16; PAGE_TOKENS] {
        &group.scales
    }

    #[inline(always)]
    fn codes(group: &Q8Values) -> &[Self::Codes; PAGE_TOKENS] {
        &group.codes
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, [first, second]: &Self::Codes) -> [S::F; 2] {
        [s.load_i8(first), s.load_i8(second)]
    }
}

impl Values for Q4 {
    type Group = Q4Values;
    type Codes = [u8; LANES];

    #[inline(always)]
    fn scales(group: &Q4Values) -> &[u16; PAGE_TOKENS] {
        &group.scales
    }

    #[inline(always)]
    fn codes(group: &Q4Values) -> &[Self::Codes; PAGE_TOKENS] {
        &group.codes
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, codes: &Self::Codes) -> [S::F; 2] {
        let (first, second) = s.load_nibbles(codes);
        [first, second]
    }
}

#[inline(always)]
pub(super) fn sum_values<S: Simd, E: Values, A: Ahead>(
    s: S,
    page: Page<'_, A>,
    weights: &[Scores],
    union: Visible,
    outputs: &mut [f32],
) {
    let groups = bytemuck::cast_slice::<u8, E::Group>(page.bytes);
    let widest = if S::REGISTERS >= 32 { 4 } else { 1 };
    let mut query = 0;
    while query < weights.len() {
        let width = widest.min(weights.len() - query);
        for (group, values) in groups.iter().enumerate() {
            if query == 0 {
                page.ahead.ask_part::<S>(page.bytes, group, groups.len());
            }
            let at = At { query, column: 2 * group, vectors: 2 * groups.len() };
            match width {
                4 => sum::<S, E, A, 4>(s, values, page.ahead, weights, union, outputs, at),
                3 => sum::<S, E, A, 3>(s, values, page.ahead, weights, union, outputs, at),
                2 => sum::<S, E, A, 2>(s, values, page.ahead, weights, union, outputs, at),
                _ => sum::<S, E, A, 1>(s, values, page.ahead, weights, union, outputs, at),
            }
        }
        query += width;
    }
}

#[inline(always)]
fn sum<S: Simd, E: Values, A: Ahead, const Q: usize>(
    s: S,
    group: &E::Group,
    ahead: A,
    weights: &[Scores],
    union: Visible,
    outputs: &mut [f32],
    at: At,
) {
    let weights = weights_of::<_, Q>(weights, at);
    let mut scaled = [[0.0; PAGE_TOKENS]; Q];
    for (block, scales) in E::scales(group).as_chunks::<LANES>().0.iter().enumerate() {
        if block.is_multiple_of(LINE / size_of_val(scales)) {
            ahead.ask_line::<S, _>(scales);
        }
        let scales = s.load_f16(scales);
        for q in 0..Q {
            let weight = s.load(&weights[q].as_chunks::<LANES>().0[block]);
            s.store(s.mul(weight, scales), &mut scaled[q].as_chunks_mut::<LANES>().0[block]);
        }
    }
    let codes = E::codes(group);
    // Even and odd tokens apart: two chains of additions for each sum, of which there are few.
    let mut sums = [[[s.splat(0.0); 2]; Q]; 2];
    for pair in union.from / 2..union.to.div_ceil(2) {
        for parity in 0..2 {
            let token = 2 * pair + parity;
            let codes = &codes[token];
            if token.is_multiple_of(LINE / size_of::<E::Codes>()) {
                ahead.ask_line::<S, _>(codes);
            }
            let values = E::load(s, codes);
            for q in 0..Q {
                let weight = s.splat(scaled[q][token]);
                for v in 0..2 {
                    sums[parity][q][v] = s.fma(values[v], weight, sums[parity][q][v]);
                }
            }
        }
    }
    let mut total = Sums::<S, Q, 2>::load(s, outputs, at);
    for q in 0..Q {
        for v in 0..2 {
            total.0[q][v] = s.add(total.0[q][v], s.add(sums[0][q][v], sums[1][q][v]));
        }
    }
    total.store(s, outputs, at);
}
