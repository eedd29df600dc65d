//! The stages of a forward pass on a CPU.
//!
//! A stage is one or two parallel regions, about five a layer (the last layer's first stage may be two of them):
//!
//! 1. norm and quantize, then panels of q, k, v; whoever finishes a head turns it and puts it where attention reads it
//!    (`qkv`);
//! 2. attention (`attend`), with a small second region where a row was split over threads;
//! 3. the output projection, added to the hidden state (`project`), normed first where the network does so (`post_norm`);
//! 4. norm and quantize, then panels of gate and up in turns; whoever finishes a pair applies the activation (`mlp`);
//! 5. the down projection, added to the hidden state (`project`), likewise.
//!
//! A few rows are quantized by every thread for itself, which is cheaper than telling the others; many rows are
//! divided first, in a region of their own. Between stages rows live in [`rows::Rows`], sixteen columns at a time, so
//! that each item of a region writes one contiguous piece.
//!
//! In the last layer all rows have keys and values; only those whose logits are wanted have queries, and go on.
//!
//! Memory is taken when the model is configured and grows with the largest step so far; a steady state allocates
//! nothing.

mod attend;
mod embed;
mod footprint;
mod importance;
mod inputs;
mod logits;
mod mlp;
mod post_norm;
mod project;
mod qkv;
mod rows;
mod step;

use std::sync::Arc;

use tensor::{
    Attend, AttnOut, Backend, BackendError, Batch, Dims, Embed, Footprint, KvSpec, Logits, MatrixShape, Mlp, Qkv, Role,
    TensorView, TopK,
};

use crate::attention::Softmax;
use crate::isa::Isa;
use crate::kv::{KvCache, KvError};
use crate::memory::OutOfMemory;
use crate::pack::{PackError, PackedMatrix, Stacking};
use crate::pool::{Pool, RegionPanic};
use crate::simd::lanes::LANES;

use attend::Attention;
pub use importance::{ColumnSquares, Importance};
use inputs::{Floats, Inputs, ThreadScratch};
use logits::HeadOutput;
use post_norm::Update;
use rows::Rows;
use step::Step;

/// How errors name this backend.
const DEVICE: &str = "CPU";

/// The CPU backend: packed weights, paged KV, one pool of threads.
#[derive(Debug)]
pub struct CpuBackend {
    pool: Arc<Pool>,
    isa: Isa,
    softmax: Softmax,
    dims: Dims,
    kv: KvCache,
    step: Step,
    /// Embeddings of the step's tokens, row by row.
    table_rows: Vec<f32>,
    /// Hidden state: `dim` columns.
    hidden: Rows,
    update: Update,
    /// Output of the gated half of the MLP: `ffn` columns.
    gated: Rows,
    /// Queries of the current layer: see [`crate::attention::Queries`].
    queries: Floats,
    attention: Attention,
    inputs: Inputs,
    threads: Vec<ThreadScratch>,
    head: HeadOutput,
    /// What matrices are multiplied with, while somebody wants to know.
    importance: Option<Importance>,
    /// Most bytes of scratch that are kept from step to step.
    pool_bytes: usize,
    /// Who is told of bytes of matrices that have been packed.
    packed: fn(&[u8]),
    /// The first panic of the step: later stages do nothing.
    failure: Option<RegionPanic>,
    leader: Option<std::thread::ThreadId>,
}

/// A vector of f32, padded with zeros to a multiple of [`LANES`].
#[derive(Debug)]
pub struct Vector {
    values: Vec<f32>,
    width: usize,
}

impl CpuBackend {
    /// A backend with the best instruction set of this machine.
    pub fn new(pool: Arc<Pool>) -> CpuBackend {
        CpuBackend::with_isa(pool, Isa::detect())
    }

    /// A backend with a given instruction set.
    ///
    /// # Panics
    /// When the machine does not have it.
    pub fn with_isa(pool: Arc<Pool>, isa: Isa) -> CpuBackend {
        assert!(isa.is_available(), "{isa} on a machine without it");
        let threads = (0..pool.threads()).map(|_| ThreadScratch::new(isa)).collect();
        CpuBackend {
            pool,
            isa,
            softmax: Softmax::default(),
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
            kv: KvCache::default(),
            step: Step::default(),
            table_rows: Vec::new(),
            hidden: Rows::default(),
            update: Update::default(),
            gated: Rows::default(),
            queries: Floats::default(),
            attention: Attention::default(),
            inputs: Inputs::new(isa),
            threads,
            head: HeadOutput::default(),
            importance: None,
            pool_bytes: usize::MAX,
            packed: |_| {},
            failure: None,
            leader: None,
        }
    }

    /// The threads that compute.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The instruction set whose kernels run.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Chooses how attention computes its softmax.
    #[must_use]
    pub fn with_softmax(mut self, softmax: Softmax) -> CpuBackend {
        self.softmax = softmax;
        self
    }

    /// Keeps at most so many bytes of scratch from one step to the next: a step that finds more gives all of it back and
    /// begins with none. 0 takes memory anew for each step.
    #[must_use]
    pub fn with_pool_bytes(mut self, bytes: usize) -> CpuBackend {
        self.pool_bytes = bytes;
        self
    }

    /// Tells `packed` of bytes that matrices were made from, as soon as nobody is likely to look at them again: where they
    /// are a mapped file's, their memory can be given back while the rest is packed.
    #[must_use]
    pub fn with_packed(mut self, packed: fn(&[u8])) -> CpuBackend {
        self.packed = packed;
        self
    }

    /// Bytes of scratch that are kept at the moment.
    pub fn scratch_bytes(&self) -> usize {
        let floats = self.table_rows.capacity() + self.queries.capacity() + self.attention.floats();
        let rows = self.hidden.floats() + self.update.floats() + self.gated.floats() + self.head.floats();
        let threads: usize = self.threads.iter().map(ThreadScratch::floats).sum();
        4 * (floats + rows + threads + self.inputs.floats())
    }

    /// From now on sums up what matrices are multiplied with.
    pub fn start_importance(&mut self) {
        self.importance = Some(Importance::default());
    }

    /// What has been summed up since [`CpuBackend::start_importance`].
    pub fn take_importance(&mut self) -> Option<Importance> {
        self.importance.take()
    }

    /// Notes a panic of a region. The results of the step are lost.
    fn note(&mut self, outcome: Result<(), RegionPanic>) {
        if let Err(panic) = outcome {
            self.failure.get_or_insert(panic);
        }
    }

    /// Drops the rows whose logits nobody wants.
    fn keep_logit_rows(&mut self) {
        if self.step.has_other_rows() {
            self.hidden.keep(&self.step.logit_rows);
            self.step.keep_logit_rows();
            self.attention.forget_plans();
        }
    }

    /// Whether a stage has nothing to do: the step has failed, or no row of it is needed any more.
    fn is_idle(&self) -> bool {
        self.failure.is_some() || self.step.rows() == 0
    }
}

impl Backend for CpuBackend {
    type Matrix = PackedMatrix;
    type Vector = Vector;

    fn describe(&self) -> String {
        format!("{DEVICE}: {}, {} threads", self.isa, self.pool.threads())
    }

    fn footprint(&self, dims: &Dims, matrices: &[MatrixShape]) -> Result<Footprint, BackendError> {
        Ok(self.predict(dims, matrices))
    }

    fn configure(&mut self, dims: &Dims) -> Result<(), BackendError> {
        for (index, layer) in dims.layers.iter().enumerate() {
            if layer.kv_heads == 0 || !layer.heads.is_multiple_of(layer.kv_heads) || layer.head_dim == 0 {
                return Err(unsupported(
                    format!("layer {index} with {} heads on {} KV heads", layer.heads, layer.kv_heads),
                    "heads are a multiple of KV heads".into(),
                ));
            }
        }
        self.dims = dims.clone();
        self.step.configure(dims);
        Ok(())
    }

    fn prepare_matrix(&mut self, role: Role, parts: &[TensorView<'_>]) -> Result<PackedMatrix, BackendError> {
        let stacking = match role {
            Role::GateUp => Stacking::Interleaved,
            Role::Embedding | Role::Qkv | Role::AttnOut | Role::Down | Role::Head | Role::TiedHead => {
                Stacking::Concatenated
            }
        };
        PackedMatrix::pack_and_tell(parts, stacking, self.isa, &self.pool, &self.packed).map_err(pack_error)
    }

    fn prepare_vector(&mut self, values: &[f32]) -> Result<Vector, BackendError> {
        let width = values.len();
        let mut values = values.to_vec();
        values.resize(width.next_multiple_of(LANES), 0.0);
        Ok(Vector { values, width })
    }

    fn allocate_kv(&mut self, spec: &KvSpec) -> Result<(), BackendError> {
        // The old pages first: there may not be room for both.
        self.kv = KvCache::default();
        self.kv = KvCache::allocate(spec, &self.dims.layers, self.pool.arena()).map_err(kv_error)?;
        Ok(())
    }

    fn copy_page(&mut self, group: usize, from: u32, to: u32) -> Result<(), BackendError> {
        self.kv.copy_page(group, from, to);
        Ok(())
    }

    fn begin_step(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        let leader = std::thread::current().id();
        if self.leader != Some(leader) {
            self.leader = Some(leader);
            self.pool.pin_leader();
        }
        self.failure = None;
        if self.scratch_bytes() > self.pool_bytes {
            self.trim();
        }
        self.step.begin(batch, &self.dims, self.kv.groups());
        self.attention.forget_plans();
        Ok(())
    }

    fn embed(&mut self, args: &Embed<'_, Self>) {
        self.embed_rows(args);
    }

    fn qkv(&mut self, args: &Qkv<'_, Self>) {
        self.project_qkv(args);
    }

    fn attend(&mut self, args: &Attend) {
        self.attend_rows(args);
    }

    fn attn_out(&mut self, args: &AttnOut<'_, Self>) {
        self.project_attention(args);
    }

    fn mlp(&mut self, args: &Mlp<'_, Self>) {
        self.project_mlp(args);
    }

    fn logits(&mut self, args: &Logits<'_, Self>) {
        self.keep_logit_rows();
        self.project_logits(args);
    }

    fn finish_step(&mut self) -> Result<(), BackendError> {
        match self.failure.take() {
            None => Ok(()),
            Some(panic) => Err(device_error(&panic)),
        }
    }

    fn trim(&mut self) {
        let CpuBackend { table_rows, hidden, update, gated, queries, attention, inputs, threads, head, .. } = self;
        (*table_rows, *queries) = (Vec::new(), Floats::default());
        (*hidden, *update, *gated) = (Rows::default(), Update::default(), Rows::default());
        (*attention, *head) = (Attention::default(), HeadOutput::default());
        *inputs = Inputs::new(self.isa);
        threads.iter_mut().for_each(|thread| *thread = ThreadScratch::new(self.isa));
        crate::memory::release_freed();
    }

    fn release_pages(&mut self, group: usize, pages: &[u32]) {
        self.kv.release_pages(group, pages);
    }

    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError> {
        self.choose_candidates(k, out).map_err(|panic| device_error(&panic))
    }

    fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError> {
        Ok(self.head.row(index, self.dims.vocab))
    }
}

fn pack_error(error: PackError) -> BackendError {
    match error {
        PackError::Memory(error) => out_of_memory("weights", &error),
        PackError::Shape { .. } => unsupported(error.to_string(), "parts of equal columns".into()),
        PackError::Panic(error) => device_error(&error),
    }
}

fn device_error(panic: &RegionPanic) -> BackendError {
    BackendError::Device { device: DEVICE.into(), message: panic.to_string() }
}

fn kv_error(error: KvError) -> BackendError {
    match error {
        KvError::Memory(error) => out_of_memory("KV cache", &error),
        error => unsupported(
            error.to_string(),
            "f32, f16, bf16, and for heads of a multiple of 32 values q8_0 and q4_0".into(),
        ),
    }
}

fn out_of_memory(what: &str, error: &OutOfMemory) -> BackendError {
    BackendError::OutOfMemory {
        device: DEVICE.into(),
        what: what.into(),
        wanted_bytes: error.wanted_bytes,
        available_bytes: error.available_bytes,
    }
}

fn unsupported(what: String, limit: String) -> BackendError {
    BackendError::Unsupported { device: DEVICE.into(), what, limit }
}

#[cfg(test)]
mod tests;
