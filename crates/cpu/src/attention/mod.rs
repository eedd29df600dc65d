//! Attention over KV pages: o = softmax(q K^T) V for each query head, without ever holding a row of scores.
//!
//! Queries that share a key head, of as many rows as there are, go through the pages together ([`item`]), a page (64
//! tokens) at a time with an online softmax ([`tile`]). Pages are grouped into *chunks* of [`CHUNK_PAGES`] at absolute
//! positions. Each chunk starts from nothing, and its state is folded into the row's result in ascending order
//! ([`state`]). So one thread may do all chunks of a row, or many threads one each ([`plan`]), and a row's result is the
//! same bits: in decode, in prefill of any chunk size, in any batch, on any number of threads. Masked tokens
//! contribute exact zeros, pages out of sight are skipped. What is no number stays none: a row that sees such a query, key or
//! value gives no number, and so may rows of the same item that do not see it, which belong to the same sequence.
//!
//! [`plain`] is the textbook softmax instead, with all scores of a row in memory.

mod entries;
mod item;
mod plain;
pub mod plan;
mod state;
mod tile;

#[cfg(test)]
mod tests;

pub use item::{Output, QueryRow, Span};
pub use plan::{Plan, Sequence};
pub use state::Merge;

use crate::kv::LayerKv;
use crate::simd::lanes::LANES;

/// Pages in a chunk: 512 tokens. Long enough that folding costs nothing, short enough to spread one sequence over
/// threads.
pub const CHUNK_PAGES: usize = 8;

/// How softmax is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Softmax {
    /// Online, tile by tile.
    #[default]
    Tiled,
    /// In two passes over a row of scores. For comparison; slower.
    Plain,
}

/// What a layer's attention is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Query heads.
    pub heads: usize,
    /// Key heads; divides `heads`.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// A row at position p sees `(p - window, p]`.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

impl Shape {
    /// Query heads that share a key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Head dimension in memory: padded with zeros.
    pub fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Values of the attention's output for one row and key head.
    pub fn group_width(&self) -> usize {
        self.group() * self.padded_dim()
    }

    /// First position that a row at `position` sees.
    pub fn first_visible(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Queries of a step: `[heads][rows][padded_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// The values.
    pub values: &'a [f32],
    /// Rows a head.
    pub rows: usize,
}

/// Memory of one thread for its items. Grows to what the largest item needs.
#[derive(Debug, Default)]
pub struct Scratch {
    tiles: tile::TileScratch,
    state: state::States,
    row: Vec<f32>,
    packed: Vec<u32>,
}

/// One item: some rows of one sequence, for one key head.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The layer.
    pub shape: Shape,
    /// Its pages.
    pub kv: &'a LayerKv,
    /// The sequence's page table for the layer's group.
    pub table: &'a [u32],
    /// The key head.
    pub kv_head: usize,
    /// The rows.
    pub rows: &'a [QueryRow],
    /// All queries of the step.
    pub queries: Queries<'a>,
    /// The pages to look at, as indices into `table`.
    pub pages: Span,
    /// How.
    pub softmax: Softmax,
}
