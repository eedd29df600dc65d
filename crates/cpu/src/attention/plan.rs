//! Cutting a step's attention into items.

use std::ops::Range;

use tensor::PAGE_TOKENS;

use super::item::{QueryRow, Span};
use super::{CHUNK_PAGES, Shape, state};

/// Queries of an item at most: their outputs stay in the second-level cache while pages go by.
const MAX_QUERIES: usize = 128;

/// A sequence's rows in the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its place in the batch, which says where its page tables are.
    pub seq: usize,
    /// Its rows among the step's query rows.
    pub first_row: usize,
    /// How many.
    pub rows: usize,
}

/// An item to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The sequence's place in the batch.
    pub seq: usize,
    /// The key head.
    pub kv_head: usize,
    /// First of the item's rows among the step's query rows.
    pub first_row: usize,
    /// How many.
    pub rows: usize,
    /// Pages to look at.
    pub pages: Span,
}

/// Chunks of the same rows, to be folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Where the first chunk's state begins among the partial states.
    pub first: usize,
    /// Chunks, one state after the other.
    pub chunks: usize,
}

/// The items of a layer's attention. Outputs are `[kv_heads][query rows][group_width]`.
#[derive(Debug, Default)]
pub struct Plan {
    /// Items that see all their pages and write outputs.
    pub whole: Vec<Item>,
    /// Their outputs.
    pub whole_ranges: Vec<Range<usize>>,
    /// Items that see one chunk and write a partial state.
    pub split: Vec<Item>,
    /// Their partial states.
    pub split_ranges: Vec<Range<usize>>,
    /// What becomes of the partial states.
    pub folds: Vec<Fold>,
    /// Their outputs.
    pub fold_ranges: Vec<Range<usize>>,
}

impl Plan {
    /// Length of all partial states.
    pub fn partial_len(&self) -> usize {
        self.split_ranges.last().map_or(0, |range| range.end)
    }

    /// Plans anew for these sequences, whose rows follow one another. Allocates only beyond what any plan before needed.
    pub fn set(&mut self, shape: &Shape, sequences: &[Sequence], rows: &[QueryRow], threads: usize) {
        self.clear();
        let block_rows = (MAX_QUERIES / shape.group()).max(1);
        let blocks: usize = sequences.iter().map(|sequence| sequence.rows.div_ceil(block_rows)).sum();
        let few = blocks * shape.kv_heads < 4 * threads;
        for kv_head in 0..shape.kv_heads {
            for sequence in sequences {
                let end = sequence.first_row + sequence.rows;
                for first_row in (sequence.first_row..end).step_by(block_rows) {
                    let block = &rows[first_row..end.min(first_row + block_rows)];
                    let pages = visible_pages(shape, block);
                    let item = Item { seq: sequence.seq, kv_head, first_row, rows: block.len(), pages };
                    let start = (kv_head * rows.len() + first_row) * shape.group_width();
                    let output = start..start + block.len() * shape.group_width();
                    if few && pages.chunks().count() > 1 {
                        self.push_split(shape, item, output);
                    } else {
                        self.whole.push(item);
                        self.whole_ranges.push(output);
                    }
                }
            }
        }
    }

    fn push_split(&mut self, shape: &Shape, item: Item, output: Range<usize>) {
        let first = self.partial_len();
        let state_len = item.rows * shape.group() * state::partial_len(shape);
        let mut chunks = 0;
        for pages in item.pages.chunks() {
            let start = first + chunks * state_len;
            self.split.push(Item { pages, ..item });
            self.split_ranges.push(start..start + state_len);
            chunks += 1;
        }
        self.folds.push(Fold { first, chunks });
        self.fold_ranges.push(output);
    }

    fn clear(&mut self) {
        self.whole.clear();
        self.whole_ranges.clear();
        self.split.clear();
        self.split_ranges.clear();
        self.folds.clear();
        self.fold_ranges.clear();
    }
}

/// The pages that any of the rows sees.
pub(super) fn visible_pages(shape: &Shape, rows: &[QueryRow]) -> Span {
    let first = rows.iter().map(|row| shape.first_visible(row.position as usize)).min().unwrap_or(0);
    let last = rows.iter().map(|row| row.position as usize).max().unwrap_or(0);
    Span { first: first / PAGE_TOKENS, end: last / PAGE_TOKENS + 1 }
}

impl Span {
    /// The span in pieces that each lie within one chunk.
    pub fn chunks(self) -> impl Iterator<Item = Span> {
        (self.first / CHUNK_PAGES..self.end.div_ceil(CHUNK_PAGES)).map(move |chunk| Span {
            first: self.first.max(chunk * CHUNK_PAGES),
            end: self.end.min((chunk + 1) * CHUNK_PAGES),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { heads: 8, kv_heads: 2, head_dim: 64, scale: 1.0, window: None, soft_cap: None };

    fn rows(positions: Range<u32>) -> Vec<QueryRow> {
        positions.clone().map(|position| QueryRow { row: position - positions.start, position }).collect()
    }

    #[test]
    fn chunks_of_a_span_lie_between_absolute_boundaries() {
        let pieces: Vec<Span> = Span { first: 5, end: 18 }.chunks().collect();
        assert_eq!(pieces, [Span { first: 5, end: 8 }, Span { first: 8, end: 16 }, Span { first: 16, end: 18 }]);
    }

    #[test]
    fn single_row_at_depth_is_split_and_many_rows_are_not() {
        let mut plan = Plan::default();
        let one = [Sequence { seq: 0, first_row: 0, rows: 1 }];
        plan.set(&SHAPE, &one, &rows(5000..5001), 2);
        assert_eq!((plan.whole.len(), plan.split.len(), plan.folds.len()), (0, 2 * 10, 2));
        assert_eq!(plan.partial_len(), 20 * 4 * (64 + 2));
        let many = [Sequence { seq: 0, first_row: 0, rows: 300 }];
        plan.set(&SHAPE, &many, &rows(5000..5300), 2);
        assert_eq!((plan.whole.len(), plan.split.len(), plan.folds.len()), (2 * 10, 0, 0));
    }

    #[test]
    fn window_hides_pages() {
        let shape = Shape { window: Some(100), ..SHAPE };
        assert_eq!(visible_pages(&shape, &rows(1000..1001)), Span { first: 14, end: 16 });
        assert_eq!(visible_pages(&shape, &rows(50..51)), Span { first: 0, end: 1 });
    }

    #[test]
    fn outputs_cover_every_row_and_head_once() {
        let mut plan = Plan::default();
        let sequences = [Sequence { seq: 0, first_row: 0, rows: 1 }, Sequence { seq: 1, first_row: 1, rows: 70 }];
        let mut all = rows(600..601);
        all.extend(rows(0..70));
        plan.set(&SHAPE, &sequences, &all, 16);
        let mut ranges: Vec<_> = plan.whole_ranges.iter().chain(&plan.fold_ranges).cloned().collect();
        ranges.sort_by_key(|range| range.start);
        let mut end = 0;
        for range in ranges {
            assert_eq!(range.start, end);
            end = range.end;
        }
        assert_eq!(end, 2 * 71 * 4 * 64);
    }
}
