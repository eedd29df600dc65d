//! Attention of a layer: its plan, its items, and the folding of what was split.

use tensor::Attend;

use super::CpuBackend;
use super::inputs::Floats;
use crate::attention::{Merge, Output, Plan, Queries, Shape, Softmax, Task};
use crate::pool::{Cuts, Either, RegionPanic, Then};

/// What attention needs besides the pages.
#[derive(Debug, Default)]
pub(super) struct Attention {
    /// Plans for the rows that are left; layers of one shape share one.
    plans: Vec<Planned>,
    /// How many of them are in use.
    in_use: usize,
    partials: Floats,
    /// `[kv_heads][rows][group_width]`
    pub(super) outputs: Floats,
}

#[derive(Debug)]
struct Planned {
    shape: Shape,
    plan: Plan,
}

impl Attention {
    /// From now on there are other rows.
    pub(super) fn forget_plans(&mut self) {
        self.in_use = 0;
    }

    /// Floats that it has room for.
    pub(super) fn floats(&self) -> usize {
        self.partials.capacity() + self.outputs.capacity()
    }

    /// The place of the plan for layers of this shape.
    fn plan(&mut self, shape: Shape, step: &super::step::Step, threads: usize) -> usize {
        if let Some(found) = self.plans[..self.in_use].iter().position(|planned| planned.shape == shape) {
            return found;
        }
        if self.in_use == self.plans.len() {
            self.plans.push(Planned { shape, plan: Plan::default() });
        }
        let planned = &mut self.plans[self.in_use];
        planned.shape = shape;
        planned.plan.set(&shape, &step.sequences, &step.query_rows, threads);
        self.in_use += 1;
        self.in_use - 1
    }
}

impl CpuBackend {
    pub(super) fn attend_rows(&mut self, args: &Attend) {
        if self.is_idle() {
            return;
        }
        let outcome = self.run_attention(args);
        self.note(outcome);
    }

    fn run_attention(&mut self, args: &Attend) -> Result<(), RegionPanic> {
        let layer = self.dims.layers[args.layer];
        let shape = Shape {
            heads: layer.heads,
            kv_heads: layer.kv_heads,
            head_dim: layer.head_dim,
            scale: args.scale,
            window: args.window,
            soft_cap: args.soft_cap,
        };
        let (isa, softmax, step, pool) = (self.isa, self.softmax, &self.step, &self.pool);
        // The plain softmax needs all scores of a row in one place: nothing is split for it.
        let spread = if softmax == Softmax::Plain { 0 } else { pool.threads() };
        let planned = self.attention.plan(shape, step, spread);
        let Attention { plans, partials, outputs, .. } = &mut self.attention;
        let plan = &plans[planned].plan;
        let outputs = outputs.room(shape.kv_heads * step.rows() * shape.group_width());
        let partials = partials.room(plan.partial_len());
        let kv = self.kv.layer(args.layer);
        let queries = Queries { values: self.queries.values(), rows: step.rows() };
        let parts = Then(Cuts::new(partials, &plan.split_ranges), Cuts::new(outputs, &plan.whole_ranges));
        pool.for_each_part(&mut self.threads, parts, |thread, index, part| {
            let (item, output) = match part {
                Either::First(partial) => (plan.split[index], Output::Partial(partial)),
                Either::Second(rows) => (plan.whole[index - plan.split.len()], Output::Rows(rows)),
            };
            let task = Task {
                shape,
                kv,
                table: step.table(item.seq, kv.group()),
                kv_head: item.kv_head,
                rows: &step.query_rows[item.first_row..item.first_row + item.rows],
                queries,
                pages: item.pages,
                softmax,
            };
            task.run(isa, &mut thread.attention, output);
        })?;
        if plan.folds.is_empty() {
            return Ok(());
        }
        let partials = &partials[..];
        let parts = Cuts::new(outputs, &plan.fold_ranges);
        pool.for_each_part(&mut self.threads, parts, |_, index, out| {
            let fold = plan.folds[index];
            let chunk_len = out.len() / shape.padded_dim() * (shape.padded_dim() + 2);
            let partials = &partials[fold.first..fold.first + fold.chunks * chunk_len];
            isa.dispatch(Merge { partials, chunks: fold.chunks, padded_dim: shape.padded_dim(), out });
        })
    }
}
