//! One page for some queries: scores, online softmax, weighted sum of values.

use bytemuck::Pod;
use tensor::PAGE_TOKENS;

use super::{Scratch, Task, state};
use crate::kv::layout::Entry;
use crate::simd::lanes::LANES;
use crate::simd::{Simd, math};

/// Queries of a tile at most.
const MAX_WIDTH: usize = 8;

/// Scores of one query over a page.
type Scores = [f32; PAGE_TOKENS];

/// Tokens `[from, to)` of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visible {
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Visible {
    const NOTHING: Visible = Visible { from: PAGE_TOKENS, to: 0 };

    fn is_nothing(self) -> bool {
        self.from >= self.to
    }

    fn union(self, other: Visible) -> Visible {
        if other.is_nothing() {
            return self;
        }
        Visible { from: self.from.min(other.from), to: self.to.max(other.to) }
    }
}

/// Queries in tiles, and the scores of one tile.
#[derive(Debug, Default)]
pub(super) struct TileScratch {
    tiles: Vec<Tile>,
    /// Of each tile: `[padded_dim][width]`, times the scale.
    queries: Vec<f32>,
    scores: Vec<Scores>,
}

/// Queries `[first, first + width)` of an item.
#[derive(Clone, Copy, Debug)]
struct Tile {
    first: usize,
    width: usize,
}

impl TileScratch {
    /// Lays out the item's queries for the tiles that suit this many registers.
    pub(super) fn pack(&mut self, task: &Task<'_>, registers: usize) {
        let widest = if registers >= 32 { MAX_WIDTH } else { 2 };
        let count = task.rows.len() * task.shape.group();
        let dim = task.shape.padded_dim();
        self.tiles.clear();
        self.queries.clear();
        self.scores.resize(MAX_WIDTH, [0.0; PAGE_TOKENS]);
        let mut first = 0;
        while first < count {
            let width = match (count - first).min(widest) {
                8.. => 8,
                4..8 => 4,
                rest => rest,
            };
            self.tiles.push(Tile { first, width });
            for i in 0..dim {
                self.queries.extend((first..first + width).map(|query| task.query(query)[i] * task.shape.scale));
            }
            first += width;
        }
    }
}

/// One page for all queries of an item.
#[inline(always)]
pub(super) fn page<S: Simd>(s: S, task: &Task<'_>, page: usize, scratch: &mut Scratch) {
    let dim = task.shape.padded_dim();
    let keys = task.kv.key_page(task.kv_head, task.table[page]);
    let values = task.kv.value_page(task.kv_head, task.table[page]);
    let mut queries = &scratch.tiles.queries[..];
    for tile in &scratch.tiles.tiles {
        let (tile_queries, rest) = queries.split_at(tile.width * dim);
        queries = rest;
        let mut visible = [Visible::NOTHING; MAX_WIDTH];
        let mut union = Visible::NOTHING;
        for i in 0..tile.width {
            visible[i] = task.visible(tile.first + i, page);
            union = union.union(visible[i]);
        }
        if union.is_nothing() {
            continue;
        }
        let scores = &mut scratch.tiles.scores[..tile.width];
        match tile.width {
            8 => score::<S, 8>(s, task.kv.key_layout().entry, keys, tile_queries, union, scores),
            4 => score::<S, 4>(s, task.kv.key_layout().entry, keys, tile_queries, union, scores),
            3 => score::<S, 3>(s, task.kv.key_layout().entry, keys, tile_queries, union, scores),
            2 => score::<S, 2>(s, task.kv.key_layout().entry, keys, tile_queries, union, scores),
            _ => score::<S, 1>(s, task.kv.key_layout().entry, keys, tile_queries, union, scores),
        }
        let outputs = &mut scratch.state.outputs[tile.first * dim..(tile.first + tile.width) * dim];
        for (i, (scores, output)) in scores.iter_mut().zip(outputs.chunks_exact_mut(dim)).enumerate() {
            let greatest = &mut scratch.state.greatest[tile.first + i];
            let sums = &mut scratch.state.sums[tile.first + i];
            soften(s, scores, visible[i], task.shape.soft_cap, greatest, sums, output);
        }
        sum_values(s, task.kv.value_layout().entry, values, scores, union, outputs);
    }
}

/// Raw entries, and how to load sixteen.
trait Entries {
    type Raw: Pod;
    fn load<S: Simd>(s: S, raw: &[Self::Raw; LANES]) -> S::F;
}

struct F32;
struct F16;
struct Bf16;

impl Entries for F32 {
    type Raw = f32;
    #[inline(always)]
    fn load<S: Simd>(s: S, raw: &[f32; LANES]) -> S::F {
        s.load(raw)
    }
}

impl Entries for F16 {
    type Raw = u16;
    #[inline(always)]
    fn load<S: Simd>(s: S, raw: &[u16; LANES]) -> S::F {
        s.load_f16(raw)
    }
}

impl Entries for Bf16 {
    type Raw = u16;
    #[inline(always)]
    fn load<S: Simd>(s: S, raw: &[u16; LANES]) -> S::F {
        s.load_bf16(raw)
    }
}

/// scores\[q\]\[token\] = query q . key, for the blocks of sixteen tokens that any query sees.
#[inline(always)]
fn score<S: Simd, const Q: usize>(
    s: S,
    entry: Entry,
    keys: &[u8],
    queries: &[f32],
    union: Visible,
    scores: &mut [Scores],
) {
    match entry {
        Entry::F32 => score_as::<S, F32, Q>(s, keys, queries, union, scores),
        Entry::F16 => score_as::<S, F16, Q>(s, keys, queries, union, scores),
        Entry::Bf16 => score_as::<S, Bf16, Q>(s, keys, queries, union, scores),
    }
}

#[inline(always)]
fn score_as<S: Simd, E: Entries, const Q: usize>(
    s: S,
    keys: &[u8],
    queries: &[f32],
    union: Visible,
    scores: &mut [Scores],
) {
    let keys: &[E::Raw] = bytemuck::cast_slice(keys);
    let queries = queries.as_chunks::<Q>().0;
    let block_len = queries.len() * LANES;
    for block in union.from / LANES..union.to.div_ceil(LANES) {
        let keys = keys[block * block_len..(block + 1) * block_len].as_chunks::<LANES>().0;
        // Even and odd dimensions apart: two chains of additions for each query.
        let mut even = [s.splat(0.0); Q];
        let mut odd = [s.splat(0.0); Q];
        for (keys, queries) in keys.as_chunks::<2>().0.iter().zip(queries.as_chunks::<2>().0) {
            let (key0, key1) = (E::load(s, &keys[0]), E::load(s, &keys[1]));
            for q in 0..Q {
                even[q] = s.fma(key0, s.splat(queries[0][q]), even[q]);
                odd[q] = s.fma(key1, s.splat(queries[1][q]), odd[q]);
            }
        }
        for q in 0..Q {
            s.store(s.add(even[q], odd[q]), &mut scores[q].as_chunks_mut::<LANES>().0[block]);
        }
    }
}

/// Turns scores into exp(score - greatest), and takes the page into the query's state. What the query does not see
/// becomes zero.
#[inline(always)]
fn soften<S: Simd>(
    s: S,
    scores: &mut Scores,
    visible: Visible,
    soft_cap: Option<f32>,
    greatest: &mut f32,
    sums: &mut [f32; LANES],
    output: &mut [f32],
) {
    if visible.is_nothing() {
        *scores = [0.0; PAGE_TOKENS];
        return;
    }
    let hidden = s.splat(f32::NEG_INFINITY);
    let mut score = [hidden; PAGE_TOKENS / LANES];
    let mut max = hidden;
    for (block, scores) in scores.as_chunks::<LANES>().0.iter().enumerate() {
        let mut x = s.load(scores);
        if let Some(cap) = soft_cap {
            x = s.mul(s.splat(cap), math::tanh(s, s.mul(x, s.splat(1.0 / cap))));
        }
        score[block] = s.select(mask(s, visible, block), x, hidden);
        max = s.max(score[block], max);
    }
    let max = s.greatest(max);
    if max > *greatest {
        let factor = s.splat(state::exp(s, *greatest - max));
        for output in output.as_chunks_mut::<LANES>().0 {
            s.store(s.mul(s.load(output), factor), output);
        }
        s.store(s.mul(s.load(sums), factor), sums);
        *greatest = max;
    }
    let greatest = s.splat(*greatest);
    let mut sum = s.load(sums);
    for (block, scores) in scores.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let weight = math::exp(s, s.sub(score[block], greatest));
        // exp never gives zero.
        let weight = s.select(mask(s, visible, block), weight, s.splat(0.0));
        sum = s.add(sum, weight);
        s.store(weight, scores);
    }
    s.store(sum, sums);
}

#[inline(always)]
fn mask<S: Simd>(s: S, visible: Visible, block: usize) -> S::Mask {
    s.lanes_between(visible.from.saturating_sub(block * LANES), visible.to.saturating_sub(block * LANES))
}

/// outputs\[q\] += sum of weights\[q\]\[token\] * value, over the tokens that any query sees.
#[inline(always)]
fn sum_values<S: Simd>(s: S, entry: Entry, values: &[u8], weights: &[Scores], union: Visible, outputs: &mut [f32]) {
    match entry {
        Entry::F32 => sum_values_as::<S, F32>(s, values, weights, union, outputs),
        Entry::F16 => sum_values_as::<S, F16>(s, values, weights, union, outputs),
        Entry::Bf16 => sum_values_as::<S, Bf16>(s, values, weights, union, outputs),
    }
}

#[inline(always)]
fn sum_values_as<S: Simd, E: Entries>(s: S, values: &[u8], weights: &[Scores], union: Visible, outputs: &mut [f32]) {
    let values: &[E::Raw] = bytemuck::cast_slice(values);
    let dim = outputs.len() / weights.len();
    let vectors = dim / LANES;
    let rows = &values.as_chunks::<LANES>().0[union.from * vectors..union.to * vectors];
    let mut columns = 0;
    let many = S::REGISTERS >= 32;
    while columns < vectors {
        let left = vectors - columns;
        let part = Part { rows, vectors, columns, from: union.from };
        columns += if many && weights.len() >= 4 && left >= 4 {
            part.queries::<S, E, 4, 4>(s, weights, outputs)
        } else if many && left >= 8 {
            part.queries::<S, E, 2, 8>(s, weights, outputs)
        } else if many && left >= 4 {
            part.queries::<S, E, 2, 4>(s, weights, outputs)
        } else if left >= 2 {
            part.queries::<S, E, 2, 2>(s, weights, outputs)
        } else {
            part.queries::<S, E, 2, 1>(s, weights, outputs)
        };
    }
}

/// Columns of a page's values.
struct Part<'a, R> {
    /// Tokens from `from` on, `vectors` a token.
    rows: &'a [[R; LANES]],
    vectors: usize,
    /// The first column, in vectors.
    columns: usize,
    from: usize,
}

impl<R: Pod> Part<'_, R> {
    /// Columns `[columns, columns + V)` for all queries, `Q` at a time. Returns `V`.
    #[inline(always)]
    fn queries<S: Simd, E: Entries<Raw = R>, const Q: usize, const V: usize>(
        &self,
        s: S,
        weights: &[Scores],
        outputs: &mut [f32],
    ) -> usize {
        let dim = self.vectors * LANES;
        let (groups, rest) = weights.as_chunks::<Q>();
        let (group_outputs, rest_outputs) = outputs.split_at_mut(groups.len() * Q * dim);
        for (weights, outputs) in groups.iter().zip(group_outputs.chunks_exact_mut(Q * dim)) {
            self.sum::<S, E, Q, V>(s, weights, outputs);
        }
        for (weights, outputs) in rest.iter().zip(rest_outputs.chunks_exact_mut(dim)) {
            self.sum::<S, E, 1, V>(s, std::array::from_ref(weights), outputs);
        }
        V
    }

    #[inline(always)]
    fn sum<S: Simd, E: Entries<Raw = R>, const Q: usize, const V: usize>(
        &self,
        s: S,
        weights: &[Scores; Q],
        outputs: &mut [f32],
    ) {
        let outputs = outputs.as_chunks_mut::<LANES>().0;
        let mut sums = [[s.splat(0.0); V]; Q];
        for q in 0..Q {
            for v in 0..V {
                sums[q][v] = s.load(&outputs[q * self.vectors + self.columns + v]);
            }
        }
        for (token, row) in (self.from..PAGE_TOKENS).zip(self.rows.chunks_exact(self.vectors)) {
            let row = row[self.columns..].first_chunk::<V>().expect("columns lie within a row");
            let mut value = [s.splat(0.0); V];
            for v in 0..V {
                value[v] = E::load(s, &row[v]);
            }
            for q in 0..Q {
                let weight = s.splat(weights[q][token]);
                for v in 0..V {
                    sums[q][v] = s.fma(value[v], weight, sums[q][v]);
                }
            }
        }
        for q in 0..Q {
            for v in 0..V {
                s.store(sums[q][v], &mut outputs[q * self.vectors + self.columns + v]);
            }
        }
    }
}

/// The scores of one query over a page, for [`super::plain`]; what it does not see keeps its score.
#[inline(always)]
pub(super) fn scores_of_one<S: Simd>(s: S, task: &Task<'_>, query: usize, page: usize, scores: &mut Scores) {
    let visible = task.visible(query, page);
    if visible.is_nothing() {
        return;
    }
    let keys = task.kv.key_page(task.kv_head, task.table[page]);
    let mut all = [[0.0; PAGE_TOKENS]];
    score::<S, 1>(s, task.kv.key_layout().entry, keys, task.query(query), visible, &mut all);
    for (block, (scores, all)) in
        scores.as_chunks_mut::<LANES>().0.iter_mut().zip(all[0].as_chunks::<LANES>().0).enumerate()
    {
        let mut x = s.mul(s.load(all), s.splat(task.shape.scale));
        if let Some(cap) = task.shape.soft_cap {
            x = s.mul(s.splat(cap), math::tanh(s, s.mul(x, s.splat(1.0 / cap))));
        }
        s.store(s.select(mask(s, visible, block), x, s.load(scores)), scores);
    }
}

/// Adds the weighted values of a page for one query, for [`super::plain`].
#[inline(always)]
pub(super) fn add_values_of_one<S: Simd>(
    s: S,
    task: &Task<'_>,
    query: usize,
    page: usize,
    weights: &Scores,
    output: &mut [f32],
) {
    let visible = task.visible(query, page);
    if !visible.is_nothing() {
        let values = task.kv.value_page(task.kv_head, task.table[page]);
        sum_values(s, task.kv.value_layout().entry, values, std::slice::from_ref(weights), visible, output);
    }
}
