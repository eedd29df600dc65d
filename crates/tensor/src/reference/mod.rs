//! The executable specification: every stage of [`Backend`] in plain loops.
//!
//! [`Reference`] says what the right answer is; every other backend is compared with it (see [`crate::conformance`]).
//! Weights are dequantized to f32 when they are prepared, values between stages are f32, sums are f64. It is *not* fast
//! and must never become so: nothing here is tiled, fused, parallel or clever.
//!
//! Read the stages in [`Backend`]'s order in this file; `kv.rs` holds the paged cache, `math.rs` the small formulas.

mod kv;
mod math;

use crate::backend::{
    Attend, AttnOut, Backend, BackendError, Batch, Candidate, Dims, Embed, Footprint, KvSpec, LayerDims, Logits,
    MatrixShape, Mlp, Norm, Qkv, Role, SeqRows, TopK,
};
use crate::format::TensorView;

use kv::KvPages;
use math::{activate, add_scaled, dot, log_sum_exp, rms_norm, rotate, soft_cap, softmax};

/// How errors name this backend.
const DEVICE: &str = "reference";

/// The reference backend. One instance serves one model, like every backend.
#[derive(Debug)]
pub struct Reference {
    dims: Dims,
    kv: KvPages,
    step: Step,
    /// Hidden state, `[rows][dim]`.
    hidden: Vec<f32>,
    /// Queries of the current layer, `[rows][heads * head_dim]`.
    queries: Vec<f32>,
    /// Attention output of the current layer, `[rows][heads * head_dim]`.
    attended: Vec<f32>,
    /// `[logit rows][vocab]`.
    logits: Vec<f32>,
}

/// A weight matrix, dequantized: `[rows][cols]`.
#[derive(Debug)]
pub struct Matrix {
    cols: usize,
    values: Vec<f32>,
}

/// The batch of the current step, owned.
#[derive(Debug, Default)]
struct Step {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    seqs: Vec<SeqRows>,
    groups: usize,
    tables: Vec<u32>,
    table_stride: usize,
    logit_rows: Vec<u32>,
}

impl Step {
    /// The page table of a sequence in a KV group.
    fn table(&self, seq: usize, group: usize) -> &[u32] {
        &self.tables[(seq * self.groups + group) * self.table_stride..][..self.table_stride]
    }
}

impl Reference {
    /// A backend without network; [`Backend::configure`] gives it one.
    pub fn new() -> Reference {
        Reference {
            dims: Dims {
                dim: 0,
                vocab: 0,
                layers: Vec::new(),
                ropes: Vec::new(),
                max_rows: 0,
                max_seqs: 0,
                max_logit_rows: 0,
                max_context: 0,
            },
            kv: KvPages::default(),
            step: Step::default(),
            hidden: Vec::new(),
            queries: Vec::new(),
            attended: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// Adds `update` (`[dim]`, after its optional norm) to the hidden state of a row.
    fn add_to_hidden(&mut self, row: usize, update: &[f32], post_norm: Option<&Norm<Vec<f32>>>) {
        let normed;
        let update = match post_norm {
            Some(norm) => {
                normed = rms_norm(update, norm);
                &normed
            }
            None => update,
        };
        for (x, u) in hidden_row(&mut self.hidden, self.dims.dim, row).iter_mut().zip(update) {
            *x += u;
        }
    }
}

impl Default for Reference {
    fn default() -> Self {
        Reference::new()
    }
}

impl Backend for Reference {
    type Matrix = Matrix;
    type Vector = Vec<f32>;

    fn describe(&self) -> String {
        "reference: plain loops, f32".into()
    }

    fn footprint(&self, dims: &Dims, matrices: &[MatrixShape]) -> Result<Footprint, BackendError> {
        let values = |matrix: &MatrixShape| matrix.parts.iter().map(|(_, rows)| rows * matrix.cols).sum::<usize>();
        let widest = dims.layers.iter().map(|layer| layer.ffn.max(layer.heads * layer.head_dim)).max().unwrap_or(0);
        let scratch_values = dims.max_rows * (2 * dims.dim + 2 * widest) + dims.max_logit_rows * dims.vocab;
        Ok(Footprint {
            weight_bytes: 4 * matrices.iter().map(values).sum::<usize>() as u64,
            scratch_bytes: 4 * scratch_values as u64,
        })
    }

    fn configure(&mut self, dims: &Dims) -> Result<(), BackendError> {
        self.dims = dims.clone();
        Ok(())
    }

    fn prepare_matrix(&mut self, _role: Role, parts: &[TensorView<'_>]) -> Result<Matrix, BackendError> {
        let cols = parts.first().map_or(0, |part| part.cols);
        let mut values = vec![0.0; parts.iter().map(|part| part.rows).sum::<usize>() * cols];
        let mut rows = values.chunks_exact_mut(cols.max(1));
        for part in parts {
            for (row, out) in (0..part.rows).zip(&mut rows) {
                part.dequantize_row(row, out);
            }
        }
        Ok(Matrix { cols, values })
    }

    fn prepare_vector(&mut self, values: &[f32]) -> Result<Vec<f32>, BackendError> {
        Ok(values.to_vec())
    }

    fn allocate_kv(&mut self, spec: &KvSpec) -> Result<(), BackendError> {
        self.kv = KvPages::allocate(spec, &self.dims.layers)?;
        Ok(())
    }

    fn copy_page(&mut self, group: usize, from: u32, to: u32) -> Result<(), BackendError> {
        self.kv.copy_page(group, from, to);
        Ok(())
    }

    fn begin_step(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        self.step = Step {
            tokens: batch.tokens.to_vec(),
            positions: batch.positions.to_vec(),
            seqs: batch.seqs.to_vec(),
            groups: self.kv.groups(),
            tables: batch.tables.to_vec(),
            table_stride: batch.table_stride,
            logit_rows: batch.logit_rows.to_vec(),
        };
        Ok(())
    }

    fn embed(&mut self, args: &Embed<'_, Self>) {
        self.hidden.clear();
        for &token in &self.step.tokens {
            self.hidden.extend(args.table.row(token as usize).iter().map(|e| args.scale * e));
        }
    }

    fn qkv(&mut self, args: &Qkv<'_, Self>) {
        let LayerDims { heads, kv_heads, head_dim, .. } = self.dims.layers[args.layer];
        let rope = args.rope.map(|index| &self.dims.ropes[index]);
        self.queries.clear();
        for (seq, rows) in self.step.seqs.iter().enumerate() {
            let table = self.step.table(seq, self.kv.group(args.layer));
            for row in rows.first_row..rows.first_row + rows.rows {
                let position = self.step.positions[row];
                let x = &self.hidden[row * self.dims.dim..][..self.dims.dim];
                let mut qkv = args.weight.multiply(&rms_norm(x, args.norm), args.bias);
                let (q, kv) = qkv.split_at_mut(heads * head_dim);
                let (k, v) = kv.split_at_mut(kv_heads * head_dim);
                for (part, norm) in [(&mut *q, args.q_norm), (&mut *k, args.k_norm)] {
                    for head in part.chunks_exact_mut(head_dim) {
                        if let Some(norm) = norm {
                            head.copy_from_slice(&rms_norm(head, norm));
                        }
                        if let Some(rope) = rope {
                            rotate(head, position, rope);
                        }
                    }
                }
                self.queries.extend_from_slice(q);
                self.kv.store(args.layer, table, position as usize, k, v);
            }
        }
    }

    fn attend(&mut self, args: &Attend) {
        let LayerDims { heads, kv_heads, head_dim, .. } = self.dims.layers[args.layer];
        let mut attended = vec![0.0; self.step.tokens.len() * heads * head_dim];
        for (seq, rows) in self.step.seqs.iter().enumerate() {
            let table = self.step.table(seq, self.kv.group(args.layer));
            for row in rows.first_row..rows.first_row + rows.rows {
                let end = self.step.positions[row] as usize + 1;
                let start = args.window.map_or(0, |window| end.saturating_sub(window));
                for head in 0..heads {
                    let kv_head = head / (heads / kv_heads);
                    let at = (row * heads + head) * head_dim;
                    let q = &self.queries[at..at + head_dim];
                    let mut weights: Vec<f32> = (start..end)
                        .map(|position| {
                            let k = self.kv.key(args.layer, table, position, kv_head);
                            soft_cap(args.scale * dot(q, k), args.soft_cap)
                        })
                        .collect();
                    softmax(&mut weights);
                    let mut sums = vec![0.0f64; head_dim];
                    for (position, &weight) in (start..end).zip(&weights) {
                        add_scaled(&mut sums, weight, self.kv.value(args.layer, table, position, kv_head));
                    }
                    for (out, sum) in attended[at..at + head_dim].iter_mut().zip(sums) {
                        *out = sum as f32;
                    }
                }
            }
        }
        self.attended = attended;
    }

    fn attn_out(&mut self, args: &AttnOut<'_, Self>) {
        let LayerDims { heads, head_dim, .. } = self.dims.layers[args.layer];
        for row in 0..self.step.tokens.len() {
            let o = &self.attended[row * heads * head_dim..][..heads * head_dim];
            let update = args.weight.multiply(o, args.bias);
            self.add_to_hidden(row, &update, args.post_norm);
        }
    }

    fn mlp(&mut self, args: &Mlp<'_, Self>) {
        let ffn = self.dims.layers[args.layer].ffn;
        for row in 0..self.step.tokens.len() {
            let normed = rms_norm(hidden_row(&mut self.hidden, self.dims.dim, row), args.norm);
            let gate_up = args.gate_up.multiply(&normed, args.gate_up_bias);
            let (gate, up) = gate_up.split_at(ffn);
            let gated: Vec<f32> = gate.iter().zip(up).map(|(&g, &u)| activate(g, args.activation) * u).collect();
            let update = args.down.multiply(&gated, args.down_bias);
            self.add_to_hidden(row, &update, args.post_norm);
        }
    }

    fn logits(&mut self, args: &Logits<'_, Self>) {
        self.logits.clear();
        for &row in &self.step.logit_rows {
            let normed = rms_norm(hidden_row(&mut self.hidden, self.dims.dim, row as usize), args.norm);
            let logits = args.weight.multiply(&normed, None);
            self.logits.extend(logits.into_iter().map(|logit| soft_cap(logit, args.soft_cap)));
        }
    }

    fn finish_step(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError> {
        out.clear();
        for logits in self.logits.chunks_exact(self.dims.vocab) {
            let mut candidates: Vec<Candidate> =
                logits.iter().zip(0..).map(|(&logit, token)| Candidate { token, logit }).collect();
            // The sort is stable, so equal logits stay in the order of their ids.
            candidates.sort_by(|a, b| b.logit.total_cmp(&a.logit));
            candidates.truncate(k);
            out.push(TopK { candidates, log_sum_exp: log_sum_exp(logits) });
        }
        Ok(())
    }

    fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError> {
        Ok(&self.logits[index * self.dims.vocab..][..self.dims.vocab])
    }
}

impl Matrix {
    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }

    /// W x + b.
    fn multiply(&self, x: &[f32], bias: Option<&Vec<f32>>) -> Vec<f32> {
        let mut y: Vec<f32> = self.values.chunks_exact(self.cols).map(|row| dot(row, x)).collect();
        if let Some(bias) = bias {
            for (y, b) in y.iter_mut().zip(bias) {
                *y += b;
            }
        }
        y
    }
}

fn hidden_row(hidden: &mut [f32], dim: usize, row: usize) -> &mut [f32] {
    &mut hidden[row * dim..(row + 1) * dim]
}
