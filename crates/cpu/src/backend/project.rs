//! Projections back to the width of the hidden state: the attention's output, the MLP's down.

use tensor::{AttnOut, LayerDims, Norm, Role};

use super::inputs::{Ready, RowSource, Source, ThreadScratch};
use super::post_norm::Update;
use super::rows::Rows;
use super::{CpuBackend, Vector};
use crate::isa::Isa;
use crate::pack::PackedMatrix;
use crate::pool::{Chunks, Pool, RegionPanic};
use crate::simd::lanes::LANES;
use crate::simd::{Kernel, Simd};

/// Rows up to which memory, not the processor, sets the pace.
const FEW_ROWS: usize = 8;

/// Bytes of products that few rows have at a time: they stay in the first-level cache.
const RUN_BYTES: usize = 16 << 10;

/// Panels of an item of many rows, at most: they stay in the second-level cache while rows go by.
const ITEM_PANELS: usize = 8;

/// Items a thread that are aimed at for many rows: so many even out unequal cores.
const ITEMS_PER_THREAD: usize = 8;

/// How the columns of a region are cut into items.
pub(super) struct Cut {
    /// Blocks of columns in an item.
    pub(super) blocks_per_item: usize,
    /// Items that a thread computes in one go, at most.
    pub(super) most_items: usize,
}

impl Cut {
    /// For so many blocks of columns, of `panels` panels of sixteen rows each, and so many rows of activations.
    pub(super) fn of(blocks: usize, panels: usize, rows: usize, threads: usize) -> Cut {
        if rows <= FEW_ROWS {
            // Whatever comes between two runs leaves memory idle, so runs are long, and short at the end.
            return Cut { blocks_per_item: 1, most_items: run_items(panels * LANES, rows) };
        }
        let item_panels = (blocks * panels / (threads * ITEMS_PER_THREAD)).clamp(1, ITEM_PANELS);
        Cut { blocks_per_item: item_panels.div_ceil(panels), most_items: 1 }
    }

    /// Products that a thread has at a time, at most.
    pub(super) fn products(blocks: usize, panels: usize, rows: usize, threads: usize) -> usize {
        let Cut { blocks_per_item, most_items } = Cut::of(blocks, panels, rows, threads);
        blocks.min(blocks_per_item * most_items) * panels * LANES * rows
    }
}

/// Items that a thread computes in one go, at most, where each has so many columns.
pub(super) fn run_items(columns: usize, rows: usize) -> usize {
    if rows > FEW_ROWS { 1 } else { (RUN_BYTES / (4 * columns * rows)).max(1) }
}

impl CpuBackend {
    pub(super) fn project_attention(&mut self, args: &AttnOut<'_, CpuBackend>) {
        if self.is_idle() {
            return;
        }
        let LayerDims { heads, kv_heads, head_dim, .. } = self.dims.layers[args.layer];
        let rows = self.step.rows();
        let values = &self.attention.outputs.values()[..heads * head_dim.next_multiple_of(LANES) * rows];
        let rows = RowSource::Heads { values, rows, kv_heads, head_dim };
        let source = Source { rows, norm: None, width: heads * head_dim, forms: args.weight.forms() };
        let projection = Projection { weight: args.weight, bias: args.bias, post_norm: args.post_norm };
        if let Some(importance) = &mut self.importance {
            importance.add(args.layer, Role::AttnOut, &source, self.isa);
        }
        let outcome = self.inputs.prepare(&source, &self.pool, &mut self.threads).and_then(|ready| {
            projection.add(self.isa, &ready, &mut self.hidden, &mut self.update, &self.pool, &mut self.threads)
        });
        self.note(outcome);
    }

    /// x += post_norm(W_down h + b), with h in `gated`.
    pub(super) fn project_down(&mut self, layer: usize, projection: &Projection<'_>) {
        let width = self.dims.layers[layer].ffn;
        let source =
            Source { rows: RowSource::Blocks(&self.gated), norm: None, width, forms: projection.weight.forms() };
        if let Some(importance) = &mut self.importance {
            importance.add(layer, Role::Down, &source, self.isa);
        }
        let outcome = self.inputs.prepare(&source, &self.pool, &mut self.threads).and_then(|ready| {
            projection.add(self.isa, &ready, &mut self.hidden, &mut self.update, &self.pool, &mut self.threads)
        });
        self.note(outcome);
    }
}

/// A projection that is added to the hidden state.
pub(super) struct Projection<'a> {
    pub(super) weight: &'a PackedMatrix,
    pub(super) bias: Option<&'a Vector>,
    pub(super) post_norm: Option<&'a Norm<Vector>>,
}

impl Projection<'_> {
    fn add(
        &self,
        isa: Isa,
        ready: &Ready<'_>,
        hidden: &mut Rows,
        update: &mut Update,
        pool: &Pool,
        threads: &mut [ThreadScratch],
    ) -> Result<(), RegionPanic> {
        let Some(norm) = self.post_norm else {
            return self.region(isa, ready, hidden, pool, threads, Then::Add);
        };
        update.rows.reset(ready.rows(), norm.weight.width);
        self.region(isa, ready, &mut update.rows, pool, threads, Then::Set)?;
        update.add_normed(isa, norm, hidden, pool, threads)
    }

    /// One region: blocks of columns of `target` are added to, or set.
    fn region(
        &self,
        isa: Isa,
        ready: &Ready<'_>,
        target: &mut Rows,
        pool: &Pool,
        threads: &mut [ThreadScratch],
        then: Then,
    ) -> Result<(), RegionPanic> {
        let (rows, block_len, blocks) = (target.rows(), target.block_len(), target.blocks());
        let panel_rows = self.weight.panel_rows();
        let Cut { blocks_per_item, most_items } = Cut::of(blocks, 1, rows, pool.threads());
        let parts = Chunks::new(target.values_mut(), blocks_per_item * block_len);
        pool.for_each_run(threads, parts, most_items, |thread, items, part| {
            let first_block = items.start * blocks_per_item;
            let first_panel = first_block * LANES / panel_rows;
            let panels = (part.len() / block_len * LANES).div_ceil(panel_rows);
            let panels = first_panel..self.weight.panels().min(first_panel + panels);
            let (activations, rest) = ready.on(thread);
            let products = rest.products.room(panels.len() * rows * panel_rows);
            self.weight.multiply(panels, activations, products);
            let bias = self.bias.map(|bias| &bias.values[first_block * LANES..]);
            isa.dispatch(Finish { products, panel_rows, rows, block_len, bias, part, then });
        })
    }
}

/// What products do to their target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Add,
    Set,
}

struct Finish<'a> {
    /// `[panels][rows][panel_rows]`
    products: &'a [f32],
    panel_rows: usize,
    rows: usize,
    block_len: usize,
    /// From the item's first column on, padded to whole blocks.
    bias: Option<&'a [f32]>,
    /// Blocks of the target.
    part: &'a mut [f32],
    then: Then,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let no_bias = [0.0; LANES];
        for (block, target) in self.part.chunks_exact_mut(self.block_len).enumerate() {
            let bias = self.bias.map_or(&no_bias, |bias| &bias.as_chunks::<LANES>().0[block]);
            let bias = s.load(bias);
            for (row, target) in target.as_chunks_mut::<LANES>().0[..self.rows].iter_mut().enumerate() {
                let mut x = s.add(product(s, self.products, self.panel_rows, self.rows, block, row), bias);
                if self.then == Then::Add {
                    x = s.add(s.load(target), x);
                }
                s.store(x, target);
            }
        }
    }
}

/// Sixteen columns of the products of some panels (`[panels][rows][panel_rows]`), zero where there is no panel.
#[inline(always)]
pub(super) fn product<S: Simd>(
    s: S,
    products: &[f32],
    panel_rows: usize,
    rows: usize,
    block: usize,
    row: usize,
) -> S::F {
    if panel_rows == LANES {
        return s.load(&products.as_chunks::<LANES>().0[block * rows + row]);
    }
    let low = block * 2 * rows + row;
    halves(s, products, low, low + rows)
}

/// Sixteen columns of which panels of 8 rows hold the halves. Zero where there is no panel.
#[inline(always)]
pub(super) fn halves<S: Simd>(s: S, products: &[f32], low: usize, high: usize) -> S::F {
    let panels = products.as_chunks::<{ LANES / 2 }>().0;
    let half = |index: usize| panels.get(index).unwrap_or(&[0.0; LANES / 2]);
    s.load_halves(half(low), half(high))
}
