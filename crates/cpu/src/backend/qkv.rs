//! q, k, v: projections of the normed hidden state; whoever finishes a head norms it, turns it and stores it.

use tensor::{LayerDims, Norm, Qkv, Role, RopeStyle};

use super::inputs::{RowSource, Source};
use super::{CpuBackend, Vector};
use crate::kv::{KeyLayout, Slot, ValueLayout};
use crate::ops::norm::rms_norm;
use crate::ops::rope::Angles;
use crate::pool::{Chunks, Either, Then};
use crate::simd::lanes::LANES;
use crate::simd::{Kernel, Simd};

/// Which of a layer's projections to compute.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    Queries,
    KeysAndValues,
}

impl CpuBackend {
    pub(super) fn project_qkv(&mut self, args: &Qkv<'_, CpuBackend>) {
        if args.layer + 1 < self.dims.layers.len() || !self.step.has_other_rows() {
            return self.project_heads(args, Wanted::All);
        }
        self.project_heads(args, Wanted::KeysAndValues);
        self.keep_logit_rows();
        self.project_heads(args, Wanted::Queries);
    }

    fn project_heads(&mut self, args: &Qkv<'_, CpuBackend>, wanted: Wanted) {
        if self.is_idle() {
            return;
        }
        let LayerDims { heads, kv_heads, head_dim, .. } = self.dims.layers[args.layer];
        let padded_dim = head_dim.next_multiple_of(LANES);
        let rows = self.hidden.rows();
        let panel_rows = args.weight.panel_rows();
        // Heads in an item: as many as make whole panels.
        let item_heads = panel_rows / greatest_common_divisor(panel_rows, head_dim);
        let part_panels = |heads: usize| (heads * head_dim).div_ceil(panel_rows);

        let kv = self.kv.layer_mut(args.layer);
        let (group, key_layout, value_layout) = (kv.group(), kv.key_layout(), kv.value_layout());
        let (key_slab, value_slab) = (kv.key_slab_bytes(), kv.value_slab_bytes());
        let slots = self.step.slots(group);
        let rope = args.rope.map(|index| (&self.step.angles[index], self.dims.ropes[index].style));
        let source = Source {
            rows: RowSource::Blocks(&self.hidden),
            norm: Some(args.norm),
            width: self.dims.dim,
            forms: args.weight.forms(),
        };
        if let Some(importance) = self.importance.as_mut().filter(|_| wanted != Wanted::Queries) {
            importance.add(args.layer, Role::Qkv, &source, self.isa);
        }
        let ready = match self.inputs.prepare(&source, &self.pool, &mut self.threads) {
            Ok(ready) => ready,
            Err(panic) => return self.note(Err(panic)),
        };
        let isa = self.isa;
        let query_items = heads.div_ceil(item_heads);
        let kv_items = kv_heads.div_ceil(item_heads);
        // Of what is not wanted there are no items.
        let (item_queries, item_slabs, first_item) = match wanted {
            Wanted::All => (item_heads, item_heads, 0),
            Wanted::Queries => (item_heads, 0, 0),
            Wanted::KeysAndValues => (0, item_heads, query_items),
        };
        let queries = self.queries.room(heads * rows * padded_dim);
        let parts = Then(Chunks::new(queries, item_queries * rows * padded_dim), kv.slabs_mut(item_slabs));
        let outcome = self.pool.for_each_part(&mut self.threads, parts, |thread, item, part| {
            let item = first_item + item;
            // Which of q, k, v; its first panel and first row; the first head of the item in it.
            let (first_panel, first_row, part_heads, index) = if item < query_items {
                (0, 0, heads, item)
            } else if item < query_items + kv_items {
                (part_panels(heads), heads * head_dim, kv_heads, item - query_items)
            } else {
                let first_panel = part_panels(heads) + part_panels(kv_heads);
                (first_panel, (heads + kv_heads) * head_dim, kv_heads, item - query_items - kv_items)
            };
            let first_head = index * item_heads;
            let count = item_heads.min(part_heads - first_head);
            let panel = first_panel + first_head * head_dim / panel_rows;
            let panels = panel..panel + (count * head_dim).div_ceil(panel_rows);
            let (activations, rest) = ready.on(thread);
            let products = rest.products.room(panels.len() * rows * panel_rows);
            args.weight.multiply(panels, activations, products);
            let bias_start = first_row + first_head * head_dim;
            let target = match part {
                Either::First(queries) => Target::Queries(queries),
                Either::Second(Either::First(slabs)) => {
                    Target::Keys { slabs: Slabs { bytes: slabs, slab_bytes: key_slab, slots }, layout: key_layout }
                }
                Either::Second(Either::Second(slabs)) => Target::Values {
                    slabs: Slabs { bytes: slabs, slab_bytes: value_slab, slots },
                    layout: value_layout,
                },
            };
            let is_value = matches!(target, Target::Values { .. });
            isa.dispatch(FinishHeads {
                products,
                panel_rows,
                rows,
                heads: count,
                head_dim,
                bias: args.bias.map(|bias| &bias.values[bias_start..bias_start + count * head_dim]),
                norm: if item < query_items { args.q_norm } else { args.k_norm }.filter(|_| !is_value),
                rope: rope.filter(|_| !is_value),
                target,
                head: rest.row,
            });
        });
        self.note(outcome);
    }
}

/// What becomes of the products of some heads.
struct FinishHeads<'a> {
    /// `[panels][rows][panel_rows]`
    products: &'a [f32],
    panel_rows: usize,
    rows: usize,
    heads: usize,
    head_dim: usize,
    /// Of these heads.
    bias: Option<&'a [f32]>,
    norm: Option<&'a Norm<Vector>>,
    rope: Option<(&'a Angles, RopeStyle)>,
    target: Target<'a>,
    /// Scratch for one head, padded.
    head: &'a mut Vec<f32>,
}

enum Target<'a> {
    /// `[heads][rows][padded_dim]`
    Queries(&'a mut [f32]),
    Keys {
        slabs: Slabs<'a>,
        layout: KeyLayout,
    },
    Values {
        slabs: Slabs<'a>,
        layout: ValueLayout,
    },
}

/// The slabs of these heads, and where each row's entry goes.
struct Slabs<'a> {
    bytes: &'a mut [u8],
    slab_bytes: usize,
    slots: &'a [Slot],
}

impl Slabs<'_> {
    /// The page that a row's entry goes to, and the token in it.
    fn page(&mut self, head: usize, row: usize, page_bytes: usize) -> (&mut [u8], usize) {
        let Slot { page, token } = self.slots[row];
        let slab = &mut self.bytes[head * self.slab_bytes..(head + 1) * self.slab_bytes];
        (&mut slab[page as usize * page_bytes..][..page_bytes], token as usize)
    }
}

impl Kernel for FinishHeads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let dim = self.head_dim;
        self.head.clear();
        self.head.resize(dim.next_multiple_of(LANES), 0.0);
        for head in 0..self.heads {
            for row in 0..self.rows {
                self.gather(head, row);
                if let Some(bias) = self.bias {
                    for (x, bias) in self.head.iter_mut().zip(&bias[head * dim..(head + 1) * dim]) {
                        *x += bias;
                    }
                }
                if let Some(norm) = self.norm {
                    rms_norm(s, self.head, &norm.weight.values, dim, norm.eps);
                }
                if let Some((angles, style)) = self.rope {
                    angles.rotate(style, row, self.head);
                }
                match &mut self.target {
                    Target::Queries(queries) => {
                        let padded_dim = self.head.len();
                        let start = (head * self.rows + row) * padded_dim;
                        queries[start..start + padded_dim].copy_from_slice(self.head);
                    }
                    Target::Keys { slabs, layout } => {
                        let (page, token) = slabs.page(head, row, layout.page_bytes());
                        layout.append(page, token, self.head);
                    }
                    Target::Values { slabs, layout } => {
                        let (page, token) = slabs.page(head, row, layout.page_bytes());
                        layout.append(page, token, self.head);
                    }
                }
            }
        }
    }
}

impl FinishHeads<'_> {
    /// Collects one head of one row from its panels.
    #[inline(always)]
    fn gather(&mut self, head: usize, row: usize) {
        match self.panel_rows {
            8 if self.head_dim.is_multiple_of(8) => return self.gather_panels::<8>(head, row),
            16 if self.head_dim.is_multiple_of(16) => return self.gather_panels::<16>(head, row),
            _ => {}
        }
        let (first, panel_rows) = (head * self.head_dim, self.panel_rows);
        let mut done = 0;
        while done < self.head_dim {
            let (panel, lane) = ((first + done) / panel_rows, (first + done) % panel_rows);
            let len = (panel_rows - lane).min(self.head_dim - done);
            let start = (panel * self.rows + row) * panel_rows + lane;
            self.head[done..done + len].copy_from_slice(&self.products[start..start + len]);
            done += len;
        }
    }

    /// The same where a head is whole panels of `R` rows.
    #[inline(always)]
    fn gather_panels<const R: usize>(&mut self, head: usize, row: usize) {
        let panels = self.products.as_chunks::<R>().0.chunks_exact(self.rows).skip(head * self.head_dim / R);
        for (out, panel) in self.head[..self.head_dim].as_chunks_mut::<R>().0.iter_mut().zip(panels) {
            *out = panel[row];
        }
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
