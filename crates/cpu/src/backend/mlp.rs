//! The gated MLP: gate and up in turns, so that whoever finishes a pair of panels applies the activation at once.

use tensor::{Activation, Mlp, Role};

use super::CpuBackend;
use super::inputs::{RowSource, Source};
use super::project::{Cut, Projection, halves, product};
use crate::ops::glu::gated;
use crate::pool::{Chunks, RegionPanic};
use crate::simd::lanes::LANES;
use crate::simd::{Kernel, Simd};

impl CpuBackend {
    pub(super) fn project_mlp(&mut self, args: &Mlp<'_, CpuBackend>) {
        if self.is_idle() {
            return;
        }
        let outcome = self.gate_up(args);
        self.note(outcome);
        if self.failure.is_none() {
            let projection = Projection { weight: args.down, bias: args.down_bias, post_norm: args.post_norm };
            self.project_down(args.layer, &projection);
        }
    }

    fn gate_up(&mut self, args: &Mlp<'_, CpuBackend>) -> Result<(), RegionPanic> {
        let ffn = self.dims.layers[args.layer].ffn;
        let source = Source {
            rows: RowSource::Blocks(&self.hidden),
            norm: Some(args.norm),
            width: self.dims.dim,
            forms: args.gate_up.forms(),
        };
        if let Some(importance) = &mut self.importance {
            importance.add(args.layer, Role::GateUp, &source, self.isa);
        }
        let ready = self.inputs.prepare(&source, &self.pool, &mut self.threads)?;
        let (isa, rows) = (self.isa, ready.rows());
        self.gated.reset(rows, ffn);
        let block_len = self.gated.block_len();
        // A gate panel and an up panel for each `panel_rows` columns.
        let panel_rows = args.gate_up.panel_rows();
        let Cut { blocks_per_item, most_items } = Cut::of(self.gated.blocks(), 2, rows, self.pool.threads());
        let parts = Chunks::new(self.gated.values_mut(), blocks_per_item * block_len);
        self.pool.for_each_run(&mut self.threads, parts, most_items, |thread, items, part| {
            let first_block = items.start * blocks_per_item;
            let first_panel = first_block * 2 * LANES / panel_rows;
            let panels = part.len() / block_len * 2 * LANES / panel_rows;
            let panels = first_panel..args.gate_up.panels().min(first_panel + panels);
            let (activations, rest) = ready.on(thread);
            let products = rest.products.room(panels.len() * rows * panel_rows);
            args.gate_up.multiply(panels, activations, products);
            isa.dispatch(Gate {
                products,
                panel_rows,
                rows,
                block_len,
                first_column: first_block * LANES,
                ffn,
                bias: args.gate_up_bias.map(|bias| &bias.values[..2 * ffn]),
                activation: args.activation,
                part,
            });
        })
    }
}

/// act(gate + bias) * (up + bias) for some blocks of columns.
struct Gate<'a> {
    /// `[panels][rows][panel_rows]`, gate and up panels in turns.
    products: &'a [f32],
    panel_rows: usize,
    rows: usize,
    block_len: usize,
    first_column: usize,
    ffn: usize,
    /// Of all gates, then of all ups.
    bias: Option<&'a [f32]>,
    activation: Activation,
    part: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (block, target) in self.part.chunks_exact_mut(self.block_len).enumerate() {
            let first_column = self.first_column + block * LANES;
            let bias = |start: usize| {
                let mut lanes = [0.0; LANES];
                let len = LANES.min(self.ffn.saturating_sub(first_column));
                if let Some(bias) = self.bias {
                    lanes[..len].copy_from_slice(&bias[start + first_column..start + first_column + len]);
                }
                s.load(&lanes)
            };
            let (gate_bias, up_bias) = (bias(0), bias(self.ffn));
            for (row, target) in target.as_chunks_mut::<LANES>().0[..self.rows].iter_mut().enumerate() {
                let (gate, up) = pair(s, self.products, self.panel_rows, self.rows, block, row);
                let x = gated(s, self.activation, s.add(gate, gate_bias), s.add(up, up_bias));
                s.store(x, target);
            }
        }
    }
}

/// Sixteen gates and ups.
#[inline(always)]
fn pair<S: Simd>(s: S, products: &[f32], panel_rows: usize, rows: usize, block: usize, row: usize) -> (S::F, S::F) {
    if panel_rows == LANES {
        let gate = product(s, products, panel_rows, rows, 2 * block, row);
        return (gate, product(s, products, panel_rows, rows, 2 * block + 1, row));
    }
    // Narrow panels: g0, u0, g1, u1 make the gates g0 g1 and the ups u0 u1.
    let first = block * 4 * rows + row;
    (halves(s, products, first, first + 2 * rows), halves(s, products, first + rows, first + 3 * rows))
}
