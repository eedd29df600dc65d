//! What matrices are multiplied with: rows, normed and brought into the forms that kernels read.

use crate::activation::{Activations, Forms, MAX_TILE_ROWS, TileMut};
use crate::attention;
use crate::isa::Isa;
use crate::ops::norm::RmsNorm;
use crate::ops::top_k::Best;
use crate::pool::{Chunks, Pool, RegionPanic};
use crate::simd::lanes::LANES;

use super::Vector;
use super::rows::Rows;

/// Memory of one thread.
#[derive(Debug)]
pub(super) struct ThreadScratch {
    /// Few rows, quantized by this thread for itself.
    own: Activations,
    own_is_ready: bool,
    /// One row, padded.
    pub(super) row: Vec<f32>,
    /// Of some panels.
    pub(super) products: Floats,
    pub(super) attention: attention::Scratch,
    /// Of each row of logits, the greatest ones of those that this thread computed.
    pub(super) best: Vec<Best>,
}

impl ThreadScratch {
    pub(super) fn new(isa: Isa) -> ThreadScratch {
        ThreadScratch {
            own: Activations::new(isa, Forms::NONE, 0, 0),
            own_is_ready: false,
            row: Vec::new(),
            products: Floats::default(),
            attention: attention::Scratch::default(),
            best: Vec::new(),
        }
    }

    /// Floats that it has room for; those of attention are few, and candidates take some 4 KiB a row of logits.
    pub(super) fn floats(&self) -> usize {
        self.own.words() + self.row.capacity() + self.products.capacity()
    }
}

/// Floats of which a step needs more or fewer.
#[derive(Debug, Default)]
pub(super) struct Floats {
    values: Vec<f32>,
}

impl Floats {
    /// How many it has room for.
    pub(super) fn capacity(&self) -> usize {
        self.values.capacity()
    }

    /// All that it has room for.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Room for so many, all of which are to be written. It is never made smaller: growing again would fill it with zeros.
    pub(super) fn room(&mut self, len: usize) -> &mut [f32] {
        if let Some(more) = len.checked_sub(self.values.len()) {
            // No more than that: `floats` counts it, and a network's footprint is told beforehand.
            self.values.reserve_exact(more);
            self.values.resize(len, 0.0);
        }
        &mut self.values[..len]
    }
}

/// Many rows, quantized by all threads together.
#[derive(Debug)]
pub(super) struct Inputs {
    isa: Isa,
    shared: Activations,
}

/// Where a matrix' input rows come from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) rows: RowSource<'a>,
    pub(super) norm: Option<&'a tensor::Norm<Vector>>,
    /// Columns.
    pub(super) width: usize,
    pub(super) forms: Forms,
}

/// Rows in one of their layouts.
#[derive(Clone, Copy)]
pub(super) enum RowSource<'a> {
    /// Blocks of columns.
    Blocks(&'a Rows),
    /// Outputs of attention: `[kv_heads][rows][group][padded_dim]`.
    Heads { values: &'a [f32], rows: usize, kv_heads: usize, head_dim: usize },
}

impl RowSource<'_> {
    pub(super) fn rows(&self) -> usize {
        match self {
            RowSource::Blocks(rows) => rows.rows(),
            RowSource::Heads { rows, .. } => *rows,
        }
    }

    /// Copies a row into `out`, which has room for it, padded.
    pub(super) fn gather(&self, row: usize, width: usize, out: &mut [f32]) {
        match *self {
            RowSource::Blocks(rows) => rows.gather(row, &mut out[..width.next_multiple_of(LANES)]),
            RowSource::Heads { values, rows, kv_heads, head_dim } => {
                let padded_dim = head_dim.next_multiple_of(LANES);
                let group_width = values.len() / (rows * kv_heads);
                let heads = values.chunks_exact(group_width).skip(row).step_by(rows).take(kv_heads);
                let heads = heads.flat_map(|group| group.chunks_exact(padded_dim));
                for (out, head) in out[..width].chunks_exact_mut(head_dim).zip(heads) {
                    out.copy_from_slice(&head[..head_dim]);
                }
            }
        }
    }
}

impl Source<'_> {
    fn fill_tile(&self, isa: Isa, tile: &mut TileMut<'_>, row_scratch: &mut Vec<f32>) {
        row_scratch.resize(self.width.next_multiple_of(LANES), 0.0);
        for (slot, row) in tile.rows().enumerate() {
            self.rows.gather(row, self.width, row_scratch);
            if let Some(norm) = self.norm {
                let weight = &norm.weight.values;
                isa.dispatch(RmsNorm { x: row_scratch, weight, width: self.width, eps: norm.eps });
            }
            tile.fill(slot, &row_scratch[..self.width]);
        }
    }
}

impl Inputs {
    pub(super) fn new(isa: Isa) -> Inputs {
        Inputs { isa, shared: Activations::new(isa, Forms::NONE, 0, 0) }
    }

    /// Words of 32 bits that it has room for.
    pub(super) fn floats(&self) -> usize {
        self.shared.words()
    }

    /// Makes the rows ready to be multiplied: now, by all threads, or later, by each thread for itself.
    pub(super) fn prepare<'a>(
        &'a mut self,
        source: &'a Source<'a>,
        pool: &Pool,
        threads: &mut [ThreadScratch],
    ) -> Result<Ready<'a>, RegionPanic> {
        let rows = source.rows.rows();
        if rows <= source.forms.tile_rows(self.isa).min(MAX_TILE_ROWS) {
            threads.iter_mut().for_each(|thread| thread.own_is_ready = false);
            return Ok(Ready { isa: self.isa, source, shared: None });
        }
        self.shared.reset(source.forms, rows, source.width);
        let (layout, words) = self.shared.words_mut();
        let isa = self.isa;
        pool.for_each_part(threads, Chunks::new(words, layout.tile_words()), |thread, index, words| {
            source.fill_tile(isa, &mut layout.tile(index, words), &mut thread.row);
        })?;
        Ok(Ready { isa, source, shared: Some(&self.shared) })
    }
}

/// Rows that are ready to be multiplied.
pub(super) struct Ready<'a> {
    isa: Isa,
    source: &'a Source<'a>,
    shared: Option<&'a Activations>,
}

impl<'a> Ready<'a> {
    pub(super) fn rows(&self) -> usize {
        self.source.rows.rows()
    }

    /// The rows for a thread, and the rest of its scratch.
    pub(super) fn on<'t>(&self, thread: &'t mut ThreadScratch) -> (&'t Activations, Rest<'t>)
    where
        'a: 't,
    {
        let ThreadScratch { own, own_is_ready, row, products, best, .. } = thread;
        if let Some(shared) = self.shared {
            return (shared, Rest { row, products, best });
        }
        if !std::mem::replace(own_is_ready, true) {
            own.reset(self.source.forms, self.rows(), self.source.width);
            let (layout, words) = own.words_mut();
            for (index, words) in words.chunks_mut(layout.tile_words().max(1)).enumerate() {
                self.source.fill_tile(self.isa, &mut layout.tile(index, words), row);
            }
        }
        (own, Rest { row, products, best })
    }
}

/// A thread's scratch but for its rows.
pub(super) struct Rest<'t> {
    pub(super) row: &'t mut Vec<f32>,
    pub(super) products: &'t mut Floats,
    pub(super) best: &'t mut [Best],
}
