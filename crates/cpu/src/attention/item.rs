//! One item: some rows of one sequence for one key head, through some pages.

use super::plan::visible_pages;
use super::tile;
use super::{Scratch, Softmax, Task, plain};
use crate::simd::{Kernel, Simd};

/// A row that attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryRow {
    /// Its place in [`super::Queries`].
    pub row: u32,
    /// Its position in the sequence.
    pub position: u32,
}

/// Pages `[first, end)` of a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First page.
    pub first: usize,
    /// One after the last.
    pub end: usize,
}

/// What an item writes.
#[derive(Debug)]
pub enum Output<'a> {
    /// Finished rows: `[rows][group][padded_dim]`.
    Rows(&'a mut [f32]),
    /// The state after the item's pages, which lie in one chunk.
    Partial(&'a mut [f32]),
}

/// Runs a [`Task`].
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) task: Task<'a>,
    pub(super) scratch: &'a mut Scratch,
    pub(super) output: Output<'a>,
}

impl Task<'_> {
    /// Computes the item.
    pub fn run(self, isa: crate::Isa, scratch: &mut Scratch, output: Output<'_>) {
        isa.dispatch(Run { task: self, scratch, output });
    }
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { task, scratch, output } = self;
        match (task.softmax, output) {
            (Softmax::Plain, Output::Rows(out)) => plain::attend(s, &task, scratch, out),
            (_, output) => tiled(s, &task, scratch, output),
        }
    }
}

#[inline(always)]
fn tiled<S: Simd>(s: S, task: &Task<'_>, scratch: &mut Scratch, output: Output<'_>) {
    let dim = task.shape.padded_dim();
    let queries = task.rows.len() * task.shape.group();
    if S::REGISTERS >= 32 {
        // Each page asks for the next; for the first, perhaps nobody has.
        tile::ask_for(task, task.pages.first);
    }
    scratch.tiles.pack(task);
    scratch.state.reset(queries, dim);
    // With many registers pages are asked for beyond the item's own, too: the next item is most likely the sequence's next
    // chunk. With few that was slower.
    let end = if S::REGISTERS < 32 { task.pages.end } else { visible_pages(&task.shape, task.rows).end };
    let mut first = true;
    for chunk in task.pages.chunks() {
        if !std::mem::take(&mut first) {
            scratch.state.start_chunk(queries, dim);
        }
        for page in chunk.first..chunk.end {
            let next = Some(page + 1).filter(|&next| next < end);
            tile::page(s, task, page, next, scratch);
        }
        if let Output::Rows(_) = output {
            scratch.state.fold_chunk(s, dim);
        }
    }
    match output {
        Output::Rows(out) => scratch.state.finish(s, dim, out),
        Output::Partial(out) => scratch.state.write_partials(s, dim, out),
    }
}

impl Task<'_> {
    /// The values of a query.
    #[inline(always)]
    pub(super) fn query(&self, query: usize) -> &[f32] {
        let group = self.shape.group();
        let dim = self.shape.padded_dim();
        let head = self.kv_head * group + query % group;
        let row = self.rows[query / group].row as usize;
        let start = (head * self.queries.rows + row) * dim;
        &self.queries.values[start..start + dim]
    }
}
