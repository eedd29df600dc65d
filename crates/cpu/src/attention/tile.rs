//! One page for some queries: scores, online softmax, weighted sum of values.

use tensor::PAGE_TOKENS;

use super::entries::{Ahead, LINE, Next, NoNext, Page, pack_queries, score, sum_values};
use super::state::{self, States};
use super::{Scratch, Task};
use crate::simd::lanes::LANES;
use crate::simd::{Simd, math, prefetch};

/// Queries of a tile at most.
pub(super) const MAX_WIDTH: usize = 8;

/// Scores of one query over a page.
pub(super) type Scores = [f32; PAGE_TOKENS];

/// Tokens `[from, to)` of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visible {
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Visible {
    const NOTHING: Visible = Visible { from: PAGE_TOKENS, to: 0 };
    const ALL: Visible = Visible { from: 0, to: PAGE_TOKENS };

    pub(super) fn is_nothing(self) -> bool {
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
    /// The tiles' queries, packed for the keys' format.
    queries: Vec<u32>,
    scores: Vec<Scores>,
}

/// Queries `[first, first + width)` of an item, packed into `words` words.
#[derive(Clone, Copy, Debug)]
struct Tile {
    first: usize,
    width: usize,
    words: usize,
    /// Positions that each query sees: `[from, to)`.
    sees: [Sees; MAX_WIDTH],
}

/// Positions `[from, to)` of a sequence.
#[derive(Clone, Copy, Debug)]
struct Sees {
    from: usize,
    to: usize,
}

impl Sees {
    const NOTHING: Sees = Sees { from: 0, to: 0 };

    fn of(task: &Task<'_>, query: usize) -> Sees {
        let position = task.rows[query / task.shape.group()].position as usize;
        Sees { from: task.shape.first_visible(position), to: position + 1 }
    }

    /// The tokens of a page among them.
    #[inline(always)]
    fn in_page(self, page: usize) -> Visible {
        let start = page * PAGE_TOKENS;
        Visible {
            from: self.from.saturating_sub(start).min(PAGE_TOKENS),
            to: self.to.saturating_sub(start).min(PAGE_TOKENS),
        }
    }
}

impl TileScratch {
    /// Lays out the item's queries in tiles.
    pub(super) fn pack(&mut self, task: &Task<'_>) {
        let count = task.rows.len() * task.shape.group();
        self.tiles.clear();
        self.queries.clear();
        self.scores.resize(MAX_WIDTH, [0.0; PAGE_TOKENS]);
        let mut first = 0;
        while first < count {
            let width = match count - first {
                8.. => MAX_WIDTH,
                4..8 => 4,
                rest => rest,
            };
            let mut queries: [&[f32]; MAX_WIDTH] = [&[]; MAX_WIDTH];
            let mut sees = [Sees::NOTHING; MAX_WIDTH];
            for i in 0..width {
                (queries[i], sees[i]) = (task.query(first + i), Sees::of(task, first + i));
            }
            let packed = self.queries.len();
            pack_queries(task.kv.key_layout(), &queries[..width], task.shape.scale, &mut self.queries);
            self.tiles.push(Tile { first, width, words: self.queries.len() - packed, sees });
            first += width;
        }
    }
}

/// One page for all queries of an item; `next` is the sequence's page after it, if any of them sees it.
#[inline(always)]
pub(super) fn page<S: Simd>(s: S, task: &Task<'_>, page: usize, next: Option<usize>, scratch: &mut Scratch) {
    let (keys, values) = (key_page(task, page), value_page(task, page));
    let mut asking = next.map(|next| {
        let (next_keys, next_values) = (key_page(task, next), value_page(task, next));
        let keys = Page { bytes: keys, ahead: Next::new(keys, next_keys) };
        (keys, Page { bytes: values, ahead: Next::new(values, next_values) })
    });
    let (keys, values) = (Page { bytes: keys, ahead: NoNext }, Page { bytes: values, ahead: NoNext });
    let TileScratch { tiles, queries, scores } = &mut scratch.tiles;
    let mut queries = &queries[..];
    for tile in tiles {
        let (tile_queries, rest) = queries.split_at(tile.words);
        queries = rest;
        let mut visible = [Visible::NOTHING; MAX_WIDTH];
        let mut union = Visible::NOTHING;
        for i in 0..tile.width {
            visible[i] = tile.sees[i].in_page(page);
            union = union.union(visible[i]);
        }
        if union.is_nothing() {
            continue;
        }
        let tile = VisibleTile { first: tile.first, width: tile.width, queries: tile_queries, visible, union };
        // The first tile that sees the page asks for the next one.
        match asking.take() {
            Some((keys, values)) => tile.attend(s, task, keys, values, scores, &mut scratch.state),
            None => tile.attend(s, task, keys, values, scores, &mut scratch.state),
        }
    }
}

/// Asks for the keys and values of a page at once: of the first one, which is waited for in any case.
#[inline(always)]
pub(super) fn ask_for(task: &Task<'_>, page: usize) {
    for line in [key_page(task, page), value_page(task, page)].into_iter().flat_map(|page| page.chunks(LINE)) {
        prefetch(line.as_ptr().addr());
    }
}

#[inline(always)]
fn key_page<'a>(task: &Task<'a>, page: usize) -> &'a [u8] {
    task.kv.key_page(task.kv_head, task.table[page])
}

#[inline(always)]
fn value_page<'a>(task: &Task<'a>, page: usize) -> &'a [u8] {
    task.kv.value_page(task.kv_head, task.table[page])
}

/// A tile, and what it sees of a page.
struct VisibleTile<'a> {
    first: usize,
    width: usize,
    /// Packed.
    queries: &'a [u32],
    /// By query.
    visible: [Visible; MAX_WIDTH],
    /// By any.
    union: Visible,
}

impl VisibleTile<'_> {
    /// Takes the page into the state of the tile's queries.
    #[inline(always)]
    fn attend<S: Simd, A: Ahead>(
        &self,
        s: S,
        task: &Task<'_>,
        keys: Page<'_, A>,
        values: Page<'_, A>,
        scores: &mut [Scores],
        state: &mut States,
    ) {
        let (layout, queries, union) = (task.kv.key_layout(), self.queries, self.union);
        let scores = &mut scores[..self.width];
        match self.width {
            8 => score::<S, A, 8>(s, layout, keys, queries, union, scores),
            4 => score::<S, A, 4>(s, layout, keys, queries, union, scores),
            3 => score::<S, A, 3>(s, layout, keys, queries, union, scores),
            2 => score::<S, A, 2>(s, layout, keys, queries, union, scores),
            _ => score::<S, A, 1>(s, layout, keys, queries, union, scores),
        }
        let dim = task.shape.padded_dim();
        let queries = self.first..self.first + self.width;
        let outputs = &mut state.outputs[queries.start * dim..queries.end * dim];
        let (greatest, sums) = (&mut state.greatest[queries.clone()], &mut state.sums[queries]);
        // In two passes: what one query waits for, its greatest score, is found while others are at work.
        for (i, (scores, output)) in scores.iter_mut().zip(outputs.chunks_exact_mut(dim)).enumerate() {
            raise(s, scores, self.visible[i], task.shape.soft_cap, &mut greatest[i], &mut sums[i], output);
        }
        for (i, scores) in scores.iter_mut().enumerate() {
            soften(s, scores, self.visible[i], greatest[i], &mut sums[i]);
        }
        sum_values(s, task.kv.value_layout(), values, scores, union, outputs);
    }
}

/// Caps a query's scores of a page and raises its state to the greatest of those that it sees.
#[inline(always)]
fn raise<S: Simd>(
    s: S,
    scores: &mut Scores,
    visible: Visible,
    soft_cap: Option<f32>,
    greatest: &mut f32,
    sums: &mut [f32; LANES],
    output: &mut [f32],
) {
    let nothing = s.splat(f32::NEG_INFINITY);
    let mut max = nothing;
    for (block, scores) in scores.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut score = s.load(scores);
        if let Some(cap) = soft_cap {
            score = math::soft_cap(s, score, cap);
            s.store(score, scores);
        }
        if visible != Visible::ALL {
            score = s.select(mask(s, visible, block), score, nothing);
        }
        max = s.max(score, max);
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
}

/// Turns scores into exp(score - greatest), and adds them to the query's sums. What it does not see becomes zero.
#[inline(always)]
fn soften<S: Simd>(s: S, scores: &mut Scores, visible: Visible, greatest: f32, sums: &mut [f32; LANES]) {
    if visible.is_nothing() {
        *scores = [0.0; PAGE_TOKENS];
        return;
    }
    let greatest = s.splat(greatest);
    let mut sum = s.load(sums);
    for (block, scores) in scores.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut weight = math::exp_or_nan(s, s.sub(s.load(scores), greatest));
        if visible != Visible::ALL {
            // What is hidden may be anything.
            weight = s.select(mask(s, visible, block), weight, s.splat(0.0));
        }
        sum = s.add(sum, weight);
        s.store(weight, scores);
    }
    s.store(sum, sums);
}

#[inline(always)]
fn mask<S: Simd>(s: S, visible: Visible, block: usize) -> S::Mask {
    s.lanes_between(visible.from.saturating_sub(block * LANES), visible.to.saturating_sub(block * LANES))
}

/// The scores of one query over a page, for [`super::plain`], which packed it as the only one; what it does not see keeps
/// its score.
#[inline(always)]
pub(super) fn scores_of_one<S: Simd>(
    s: S,
    task: &Task<'_>,
    query: usize,
    packed: &[u32],
    page: usize,
    scores: &mut Scores,
) {
    let visible = Sees::of(task, query).in_page(page);
    if visible.is_nothing() {
        return;
    }
    let keys = Page { bytes: key_page(task, page), ahead: NoNext };
    let mut all = [[0.0; PAGE_TOKENS]];
    score::<S, _, 1>(s, task.kv.key_layout(), keys, packed, visible, &mut all);
    let blocks = scores.as_chunks_mut::<LANES>().0.iter_mut().zip(all[0].as_chunks::<LANES>().0);
    for (block, (scores, all)) in blocks.enumerate() {
        let mut score = s.load(all);
        if let Some(cap) = task.shape.soft_cap {
            score = math::soft_cap(s, score, cap);
        }
        s.store(s.select(mask(s, visible, block), score, s.load(scores)), scores);
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
    let visible = Sees::of(task, query).in_page(page);
    if !visible.is_nothing() {
        let values = Page { bytes: value_page(task, page), ahead: NoNext };
        sum_values(s, task.kv.value_layout(), values, std::slice::from_ref(weights), visible, output);
    }
}
