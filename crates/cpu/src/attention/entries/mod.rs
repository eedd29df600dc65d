//! What the kernels do with stored entries, one file a family of formats: scores of sixteen keys at once, weighted sums
//! of a page's values.

mod pairs;
mod quantized;
mod wide;

use tensor::PAGE_TOKENS;

use super::tile::{Scores, Visible};
use crate::kv::layout::{BLOCKS, Entry};
use crate::kv::{KeyLayout, ValueLayout};
use crate::simd::lanes::LANES;
use crate::simd::{Simd, prefetch};

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Keys in one format. Queries are packed for it, a tile at a time, into words of 32 bits.
trait Keys {
    /// With many registers: eight queries by two blocks in one tile, since loading a key is more than a load. Its two chains
    /// of additions come one after the other; the sums are the same.
    const BY_EIGHT: bool = false;

    /// Appends a tile of queries to `packed`. `queries` gives the values of each, already scaled.
    fn pack(queries: &[&[f32]], scale: f32, packed: &mut Vec<u32>);

    /// The scores of `Q` queries with `B` blocks of sixteen keys. The queries are those from `first` on of a tile that was
    /// packed `width` wide. Asks `ahead` of the keys.
    fn score<S: Simd, A: Ahead, const Q: usize, const B: usize>(
        s: S,
        blocks: [&[u8]; B],
        ahead: A,
        queries: &[u32],
        first: usize,
        width: usize,
    ) -> [[S::F; Q]; B];
}

/// Appends a tile of queries, times `scale`, to `packed`.
pub(super) fn pack_queries(layout: KeyLayout, queries: &[&[f32]], scale: f32, packed: &mut Vec<u32>) {
    match layout.entry {
        Entry::F32 => wide::F32::pack(queries, scale, packed),
        Entry::F16 => wide::F16::pack(queries, scale, packed),
        Entry::Bf16 => pairs::Bf16::pack(queries, scale, packed),
        Entry::Q8_0 => quantized::Q8::pack(queries, scale, packed),
        Entry::Q4_0 => quantized::Q4::pack(queries, scale, packed),
    }
}

/// A page, and where the one lies that will be read after it.
#[derive(Clone, Copy)]
pub(super) struct Page<'a, A> {
    pub(super) bytes: &'a [u8],
    pub(super) ahead: A,
}

/// Asks for the next page while this one is computed, so that memory does not wait for products. Of the two ways one acts
/// and the other does nothing: a line at a time on a machine with many registers, which computes so fast that a part at once
/// fills its queues and stops it; a part at a time on others.
pub(super) trait Ahead: Copy {
    /// Asks for the line of the next page that lies as `at` does in this one.
    fn ask_line<S: Simd, T>(self, at: &T);

    /// Asks for one of `parts` parts of the page after `page`.
    fn ask_part<S: Simd>(self, page: &[u8], part: usize, parts: usize);
}

/// There is no next page, or it was asked for.
#[derive(Clone, Copy)]
pub(super) struct NoNext;

impl Ahead for NoNext {
    #[inline(always)]
    fn ask_line<S: Simd, T>(self, _: &T) {}

    #[inline(always)]
    fn ask_part<S: Simd>(self, _: &[u8], _: usize, _: usize) {}
}

/// The next page lies so many bytes ahead of this one.
#[derive(Clone, Copy)]
pub(super) struct Next(usize);

impl Next {
    pub(super) fn new(page: &[u8], next: &[u8]) -> Next {
        Next(next.as_ptr().addr().wrapping_sub(page.as_ptr().addr()))
    }
}

impl Ahead for Next {
    #[inline(always)]
    fn ask_line<S: Simd, T>(self, at: &T) {
        if S::REGISTERS >= 32 {
            prefetch(std::ptr::from_ref(at).addr().wrapping_add(self.0));
        }
    }

    #[inline(always)]
    fn ask_part<S: Simd>(self, page: &[u8], part: usize, parts: usize) {
        if S::REGISTERS < 32 {
            let len = page.len() / parts;
            for line in page[part * len..(part + 1) * len].chunks(LINE) {
                prefetch(line.as_ptr().addr().wrapping_add(self.0));
            }
        }
    }
}

/// scores\[q\]\[token\] = query q . key, for the blocks of sixteen tokens that any query sees.
#[inline(always)]
pub(super) fn score<S: Simd, A: Ahead, const Q: usize>(
    s: S,
    layout: KeyLayout,
    page: Page<'_, A>,
    queries: &[u32],
    union: Visible,
    scores: &mut [Scores],
) {
    match layout.entry {
        Entry::F32 => score_as::<S, wide::F32, A, Q>(s, page, queries, union, scores),
        Entry::F16 => score_as::<S, wide::F16, A, Q>(s, page, queries, union, scores),
        Entry::Bf16 => score_as::<S, pairs::Bf16, A, Q>(s, page, queries, union, scores),
        Entry::Q8_0 => score_as::<S, quantized::Q8, A, Q>(s, page, queries, union, scores),
        Entry::Q4_0 => score_as::<S, quantized::Q4, A, Q>(s, page, queries, union, scores),
    }
}

#[inline(always)]
fn score_as<S: Simd, K: Keys, A: Ahead, const Q: usize>(
    s: S,
    page: Page<'_, A>,
    queries: &[u32],
    union: Visible,
    scores: &mut [Scores],
) {
    let mut block = union.from / LANES;
    let end = union.to.div_ceil(LANES);
    // Two blocks by four queries load less than one block by eight. Few queries read the keys from memory, though, and
    // memory is to be read in ascending order.
    if Q == 8 && S::REGISTERS < 32 {
        while block < end {
            page.ahead.ask_part::<S>(page.bytes, block, BLOCKS);
            score_tile::<S, K, _, 4, 1>(s, page, queries, 0, Q, block, scores);
            score_tile::<S, K, _, 4, 1>(s, page, queries, 4, Q, block, scores);
            block += 1;
        }
    } else if Q == 8 {
        while block + 2 <= end {
            if K::BY_EIGHT {
                score_tile::<S, K, _, 8, 2>(s, page, queries, 0, Q, block, scores);
            } else {
                // Both ask: what was asked for once only is read at 23 GB/s here, and so at 31 (bf16, eight queries).
                score_tile::<S, K, _, 4, 2>(s, page, queries, 0, Q, block, scores);
                score_tile::<S, K, _, 4, 2>(s, page, queries, 4, Q, block, scores);
            }
            block += 2;
        }
    }
    while block < end {
        page.ahead.ask_part::<S>(page.bytes, block, BLOCKS);
        score_tile::<S, K, _, Q, 1>(s, page, queries, 0, Q, block, scores);
        block += 1;
    }
}

#[inline(always)]
fn score_tile<S: Simd, K: Keys, A: Ahead, const Q: usize, const B: usize>(
    s: S,
    page: Page<'_, A>,
    queries: &[u32],
    first: usize,
    width: usize,
    block: usize,
    scores: &mut [Scores],
) {
    let block_bytes = page.bytes.len() / BLOCKS;
    let mut blocks: [&[u8]; B] = [&[]; B];
    for b in 0..B {
        blocks[b] = &page.bytes[(block + b) * block_bytes..(block + b + 1) * block_bytes];
    }
    let tile = K::score::<S, A, Q, B>(s, blocks, page.ahead, queries, first, width);
    for b in 0..B {
        for q in 0..Q {
            s.store(tile[b][q], &mut scores[first + q].as_chunks_mut::<LANES>().0[block + b]);
        }
    }
}

/// What two chains of additions give together.
#[inline(always)]
fn add_parities<S: Simd, const Q: usize, const B: usize>(s: S, sums: [[[S::F; Q]; B]; 2]) -> [[S::F; Q]; B] {
    let [mut total, odd] = sums;
    for b in 0..B {
        for q in 0..Q {
            total[b][q] = s.add(total[b][q], odd[b][q]);
        }
    }
    total
}

/// outputs\[q\] += sum of weights\[q\]\[token\] * value, over the tokens that any query sees.
#[inline(always)]
pub(super) fn sum_values<S: Simd, A: Ahead>(
    s: S,
    layout: ValueLayout,
    page: Page<'_, A>,
    weights: &[Scores],
    union: Visible,
    outputs: &mut [f32],
) {
    match layout.entry {
        Entry::F32 => wide::sum_values::<S, wide::F32, A>(s, page, weights, union, outputs),
        Entry::F16 => wide::sum_values::<S, wide::F16, A>(s, page, weights, union, outputs),
        Entry::Bf16 => pairs::sum_values(s, page, weights, union, outputs),
        Entry::Q8_0 => quantized::sum_values::<S, quantized::Q8, A>(s, page, weights, union, outputs),
        Entry::Q4_0 => quantized::sum_values::<S, quantized::Q4, A>(s, page, weights, union, outputs),
    }
}

/// Calls `$sum::<S, .., Q, V>($($arg),*)` for all queries and columns of a page, with the tile of `Q` queries by `V`
/// vectors of columns that suits the registers. `$by_eight`: with many, eight queries by two vectors, since loading a value
/// is more than a load. Which tile computes a sum does not change it.
macro_rules! tiles {
    ($s:ty, $queries:expr, $vectors:expr, $by_eight:expr, $sum:ident [$($types:ty),*] ($($arg:expr),*)) => {{
        let (queries, vectors) = ($queries, $vectors);
        let many = <$s>::REGISTERS >= 32;
        let mut column = 0;
        while column < vectors {
            let left = vectors - column;
            let (q, v) = match (many, queries, left) {
                (true, 8.., 2..) if $by_eight => (8, 2),
                (true, 4.., 4..) => (4, 4),
                (true, _, 8..) => (2, 8),
                (true, _, 4..) => (2, 4),
                (false, 4.., _) => (4, 1),
                (false, 3, _) => (3, 1),
                (false, 1, 4..) => (1, 4),
                (_, _, 2..) => (2, 2),
                _ => (2, 1),
            };
            let mut query = 0;
            while query < queries {
                let at = $crate::attention::entries::At { query, column, vectors };
                query += match (q.min(queries - query), v) {
                    (8, 2) => { $sum::<$($types,)* 8, 2>($($arg,)* at); 8 }
                    (4, 4) => { $sum::<$($types,)* 4, 4>($($arg,)* at); 4 }
                    (4, _) => { $sum::<$($types,)* 4, 1>($($arg,)* at); 4 }
                    (3, 4) => { $sum::<$($types,)* 3, 4>($($arg,)* at); 3 }
                    (3, _) => { $sum::<$($types,)* 3, 1>($($arg,)* at); 3 }
                    (2, 8) => { $sum::<$($types,)* 2, 8>($($arg,)* at); 2 }
                    (2, 4) => { $sum::<$($types,)* 2, 4>($($arg,)* at); 2 }
                    (2, 2) => { $sum::<$($types,)* 2, 2>($($arg,)* at); 2 }
                    (2, _) => { $sum::<$($types,)* 2, 1>($($arg,)* at); 2 }
                    (_, 8) => { $sum::<$($types,)* 1, 8>($($arg,)* at); 1 }
                    (_, 4) => { $sum::<$($types,)* 1, 4>($($arg,)* at); 1 }
                    (_, 2) => { $sum::<$($types,)* 1, 2>($($arg,)* at); 1 }
                    _ => { $sum::<$($types,)* 1, 1>($($arg,)* at); 1 }
                };
            }
            column += v;
        }
    }};
}
use tiles;

/// Where a tile of queries by columns begins.
#[derive(Clone, Copy)]
struct At {
    query: usize,
    /// In vectors of [`LANES`].
    column: usize,
    /// All vectors of a query.
    vectors: usize,
}

/// A tile of outputs in registers.
struct Sums<S: Simd, const Q: usize, const V: usize>([[S::F; V]; Q]);

impl<S: Simd, const Q: usize, const V: usize> Sums<S, Q, V> {
    #[inline(always)]
    fn load(s: S, outputs: &[f32], at: At) -> Self {
        let outputs = outputs.as_chunks::<LANES>().0;
        let mut sums = [[s.splat(0.0); V]; Q];
        for q in 0..Q {
            for v in 0..V {
                sums[q][v] = s.load(&outputs[(at.query + q) * at.vectors + at.column + v]);
            }
        }
        Sums(sums)
    }

    #[inline(always)]
    fn store(self, s: S, outputs: &mut [f32], at: At) {
        let outputs = outputs.as_chunks_mut::<LANES>().0;
        for q in 0..Q {
            for v in 0..V {
                s.store(self.0[q][v], &mut outputs[(at.query + q) * at.vectors + at.column + v]);
            }
        }
    }
}

/// The weights of a tile's queries.
#[inline(always)]
fn weights_of<T, const Q: usize>(weights: &[T], at: At) -> &[T; Q] {
    weights[at.query..].first_chunk().expect("a tile lies within its queries")
}

const _: () = assert!(PAGE_TOKENS.is_multiple_of(2 * LANES));

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use tensor::Format;

    use super::*;
    use crate::Isa;
    use crate::simd::Kernel;

    /// Lines of a page that were asked for, as numbers from its first byte on.
    #[derive(Clone, Copy)]
    struct Asked<'a> {
        page: usize,
        lines: &'a RefCell<BTreeSet<usize>>,
    }

    impl Asked<'_> {
        fn ask(self, address: usize) {
            self.lines.borrow_mut().insert((address - self.page) / LINE);
        }
    }

    impl Ahead for Asked<'_> {
        fn ask_line<S: Simd, T>(self, at: &T) {
            if S::REGISTERS >= 32 {
                self.ask(std::ptr::from_ref(at).addr());
            }
        }

        fn ask_part<S: Simd>(self, page: &[u8], part: usize, parts: usize) {
            if S::REGISTERS < 32 {
                let len = page.len() / parts;
                page[part * len..(part + 1) * len].chunks(LINE).for_each(|line| self.ask(line.as_ptr().addr()));
            }
        }
    }

    /// Four queries through a page that they see all of.
    struct Through<'a> {
        keys: KeyLayout,
        values: ValueLayout,
        asked: [Asked<'a>; 2],
        pages: [&'a [u8]; 2],
    }

    impl Kernel for Through<'_> {
        type Output = ();

        fn run<S: Simd>(self, s: S) {
            let query = vec![0.1; self.keys.dim];
            let mut packed = Vec::new();
            pack_queries(self.keys, &[&query[..]; 4], 1.0, &mut packed);
            let all = Visible { from: 0, to: PAGE_TOKENS };
            let mut scores = [[0.0; PAGE_TOKENS]; 4];
            let [keys, values] = [0, 1].map(|i| Page { bytes: self.pages[i], ahead: self.asked[i] });
            score::<S, _, 4>(s, self.keys, keys, &packed, all, &mut scores);
            sum_values(s, self.values, values, &scores, all, &mut vec![0.0; 4 * self.values.dim]);
        }
    }

    #[test]
    fn every_line_of_the_next_page_is_asked_for() {
        for format in [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0] {
            for dim in [32, 64, 80, 128] {
                let (Ok(keys), Ok(values)) = (KeyLayout::new(format, dim), ValueLayout::new(format, dim)) else {
                    assert!(dim == 80, "{} has no layout for heads of {dim}", format.name());
                    continue;
                };
                let memory = [keys.page_bytes(), values.page_bytes()].map(|bytes| vec![0_u64; bytes / 8]);
                let pages: [&[u8]; 2] = [bytemuck::cast_slice(&memory[0]), bytemuck::cast_slice(&memory[1])];
                for isa in Isa::available() {
                    let lines = [RefCell::default(), RefCell::default()];
                    let asked = [0, 1].map(|i| Asked { page: pages[i].as_ptr().addr(), lines: &lines[i] });
                    isa.dispatch(Through { keys, values, asked, pages });
                    for (i, what) in ["keys", "values"].into_iter().enumerate() {
                        let all = (0..pages[i].len() / LINE).collect();
                        assert_eq!(*lines[i].borrow(), all, "{isa}: {} {what} of {dim}", format.name());
                    }
                }
            }
        }
    }
}
