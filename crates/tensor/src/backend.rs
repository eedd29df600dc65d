//! The seam: the stages of a decoder's forward pass, and what flows through them.
//!
//! A *step* computes a [`Batch`] of rows (tokens) that belong to several sequences, some in prefill, some in decode.
//! The decoder calls [`Backend::begin_step`], [`Backend::embed`], then for each layer [`Backend::qkv`],
//! [`Backend::attend`], [`Backend::attn_out`] and [`Backend::mlp`], then [`Backend::logits`]. The hidden state
//! between the stages is the backend's own; the caller never sees it.
//!
//! Stages are coarse on purpose: a library of small operations forces a barrier or a dispatch each and cannot be fused.
//! What differs between architectures is data in the argument structs. Stages do not fail one by one: a backend that
//! can fail at run time keeps the first error and reports it from [`Backend::finish_step`].

use crate::format::TensorView;

/// Tokens in a KV page. A page is the unit in which the cache is given out, shared and evicted.
pub const PAGE_TOKENS: usize = 64;

/// An entry of a page table that points nowhere: a page that a sliding window has given back.
pub const NO_PAGE: u32 = u32::MAX;

/// In place of a token id: the token of the greatest logit in the logit row of the same index of the step started just
/// before, whose results nobody has seen yet. Only for backends that say [`Backend::runs_ahead`], and then for all rows of a
/// step or none.
pub const LIKELIEST: u32 = u32::MAX;

/// How a network's numbers are computed on one kind of device. One instance serves one loaded model and owns its
/// scratch memory and KV pages.
///
/// **Batch invariance.** The result of a row depends on that row and its own history alone, to the last bit: not on the
/// rows beside it, nor on how the history was cut into steps.
pub trait Backend: Send {
    /// A matrix in the form that this backend multiplies with.
    type Matrix: Send + Sync;
    /// A vector of f32 (norm weights, biases) where this backend wants it.
    type Vector: Send + Sync;

    /// One line for people, e.g. `CPU: avx512-vnni, 2 threads`.
    fn describe(&self) -> String;

    /// Predicts what a network takes, before any of its weights is read and without taking anything.
    ///
    /// # Errors
    /// A format that no kernel multiplies.
    fn footprint(&self, dims: &Dims, matrices: &[MatrixShape]) -> Result<Footprint, BackendError>;

    /// Takes the sizes of the network. Called once, before anything else.
    fn configure(&mut self, dims: &Dims) -> Result<(), BackendError>;

    /// Prepares a weight matrix. `parts` are stacked by rows into one matrix (q, k, v; gate, up); they have equal
    /// columns and may have different formats.
    fn prepare_matrix(&mut self, role: Role, parts: &[TensorView<'_>]) -> Result<Self::Matrix, BackendError>;

    /// Prepares a vector of f32.
    fn prepare_vector(&mut self, values: &[f32]) -> Result<Self::Vector, BackendError>;

    /// Allocates the KV pages. All entries are zero at first.
    fn allocate_kv(&mut self, spec: &KvSpec) -> Result<(), BackendError>;

    /// Copies page `from` to page `to` in every layer of a group (copy-on-write).
    fn copy_page(&mut self, group: usize, from: u32, to: u32) -> Result<(), BackendError>;

    /// Starts a step. `batch` is valid by construction: rows and tables within the limits of [`Dims`] and [`KvSpec`].
    fn begin_step(&mut self, batch: &Batch<'_>) -> Result<(), BackendError>;

    /// x = scale * table\[token\] for each row.
    fn embed(&mut self, args: &Embed<'_, Self>);

    /// q, k, v = rope(qk_norm(W norm(x) + b)); k and v go to their KV pages.
    fn qkv(&mut self, args: &Qkv<'_, Self>);

    /// o = softmax(soft_cap(scale * q K^T) + mask) V over each row's own pages, causal, within the window.
    fn attend(&mut self, args: &Attend);

    /// x += post_norm(W o + b).
    fn attn_out(&mut self, args: &AttnOut<'_, Self>);

    /// x += post_norm(W_down (act(W_gate norm(x)) * W_up norm(x))).
    fn mlp(&mut self, args: &Mlp<'_, Self>);

    /// Logits of the batch's logit rows: soft_cap(W norm(x)).
    fn logits(&mut self, args: &Logits<'_, Self>);

    /// Ends the step: waits for the device and reports the first error of any stage.
    fn finish_step(&mut self) -> Result<(), BackendError>;

    /// Whether another step may be started now, of rows that are [`LIKELIEST`], beside the one whose results are still
    /// awaited.
    fn runs_ahead(&self) -> bool {
        false
    }

    /// [`Backend::finish_step`] in two parts: this one does not wait for the device. The device computes steps in the order
    /// in which they were started, and page copies between them in their order.
    fn start_step(&mut self) -> Result<(), BackendError> {
        self.finish_step()
    }

    /// Waits for the oldest step that was started: results are its from now on.
    fn await_step(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Waits until the device has done with all that was started, and forgets it.
    fn abandon_steps(&mut self) {}

    /// Gives back the scratch memory that it keeps from step to step; the next step takes what it needs anew. Results of
    /// the last step are lost.
    fn trim(&mut self) {}

    /// Gives back the memory of pages of a group, where that is possible. What they hold is lost; they may be written
    /// again at any time.
    fn release_pages(&mut self, _group: usize, _pages: &[u32]) {}

    /// The `k` greatest logits of each logit row of the step just finished, into `out` (one entry a logit row, reused).
    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError>;

    /// All logits of logit row `index` (its place in [`Batch::logit_rows`]) of the step just finished: `[vocab]`.
    fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError>;
}

/// What a matrix is for: a backend may lay it out accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `[vocab][dim]`, read by row.
    Embedding,
    /// q, k, v stacked: `[(heads + 2 * kv_heads) * head_dim][dim]`.
    Qkv,
    /// `[dim][heads * head_dim]`.
    AttnOut,
    /// gate, up stacked: `[2 * ffn][dim]`.
    GateUp,
    /// `[dim][ffn]`.
    Down,
    /// `[vocab][dim]`, multiplied.
    Head,
    /// `[vocab][dim]`, both read by row and multiplied: tied embeddings, held once.
    TiedHead,
}

/// A matrix to be prepared, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// What it is for.
    pub role: Role,
    /// Format and rows of each part.
    pub parts: Vec<(crate::Format, usize)>,
    /// Values in a row.
    pub cols: usize,
}

/// Bytes that a network takes on a backend, KV pages aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Prepared matrices.
    pub weight_bytes: u64,
    /// Scratch of the largest step that [`Dims`] allows.
    pub scratch_bytes: u64,
}

/// Sizes of a network and of a step, fixed when a model is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Dims {
    /// Width of the hidden state.
    pub dim: usize,
    /// Rows of the output head.
    pub vocab: usize,
    /// One entry a layer.
    pub layers: Vec<LayerDims>,
    /// The rotary embeddings that layers refer to by index ([`Qkv::rope`]).
    pub ropes: Vec<Rope>,
    /// Most rows in a step.
    pub max_rows: usize,
    /// Most sequences in a step.
    pub max_seqs: usize,
    /// Most logit rows in a step.
    pub max_logit_rows: usize,
    /// Most tokens in a sequence.
    pub max_context: usize,
}

/// Sizes of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerDims {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values in a head, for q, k and v.
    pub head_dim: usize,
    /// Width of the MLP.
    pub ffn: usize,
}

/// A rotary position embedding: dimension pair `i` of a head turns by `position * inv_freq[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// `[rotary_dim / 2]`, any scaling (linear, llama3, yarn) already in it. Head dimensions from `2 * inv_freq.len()`
    /// on are not turned.
    pub inv_freq: Vec<f32>,
    /// Factor on sine and cosine (yarn's attention factor), 1.0 otherwise.
    pub magnitude: f32,
    /// Which dimensions make a pair.
    pub style: RopeStyle,
}

/// Which dimensions of a head make a rotary pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// (0, 1), (2, 3), ...: the order of GGUF's `llama` architecture.
    Interleaved,
    /// (0, n), (1, n + 1), ... with n = rotary_dim / 2: Hugging Face's order.
    Halves,
}

/// The rows of one step.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[rows]`: token ids, or [`LIKELIEST`].
    pub tokens: &'a [u32],
    /// `[rows]`: position of each token in its sequence.
    pub positions: &'a [u32],
    /// The sequences, whose rows follow one another without gap.
    pub seqs: &'a [SeqRows],
    /// Page tables, `[seqs][groups][table_stride]`: entry `p` of a table is the page that holds positions
    /// `[p * PAGE_TOKENS, (p + 1) * PAGE_TOKENS)`, or [`NO_PAGE`].
    pub tables: &'a [u32],
    /// Entries from one page table to the next.
    pub table_stride: usize,
    /// Rows whose logits are wanted, ascending.
    pub logit_rows: &'a [u32],
}

/// One sequence's share of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqRows {
    /// First row of the sequence in the step.
    pub first_row: usize,
    /// Its rows: positions `[past, past + rows)`.
    pub rows: usize,
    /// Tokens whose KV entries were computed by earlier steps.
    pub past: usize,
}

/// The KV cache to allocate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvSpec {
    /// Storage of keys: F32, F16, BF16, Q8_0 or Q4_0.
    pub key_format: crate::Format,
    /// Storage of values.
    pub value_format: crate::Format,
    /// Layers that share page tables. Layer `l` is in exactly one group.
    pub groups: Vec<KvGroup>,
}

/// Layers whose pages are given out together (all full-attention layers, all sliding-window layers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvGroup {
    /// Layer indices.
    pub layers: Vec<usize>,
    /// Pages in the pool; a page holds [`PAGE_TOKENS`] tokens of every layer in the group.
    pub pages: usize,
}

/// A root-mean-square norm: `x / rms(x) * weight`. (Gemma's `1 + weight` is folded into the weight at load.)
#[derive(Debug)]
pub struct Norm<V> {
    /// `[width]`.
    pub weight: V,
    /// Added to the mean square.
    pub eps: f32,
}

/// Arguments of [`Backend::embed`].
#[derive(Debug)]
pub struct Embed<'a, B: Backend + ?Sized> {
    /// `[vocab][dim]`, prepared as [`Role::Embedding`] or [`Role::TiedHead`].
    pub table: &'a B::Matrix,
    /// 1.0, or sqrt(dim) for Gemma.
    pub scale: f32,
}

/// Arguments of [`Backend::qkv`].
#[derive(Debug)]
pub struct Qkv<'a, B: Backend + ?Sized> {
    /// Layer index: sizes, KV pages.
    pub layer: usize,
    /// Norm before the projections.
    pub norm: &'a Norm<B::Vector>,
    /// Prepared as [`Role::Qkv`].
    pub weight: &'a B::Matrix,
    /// Bias of q, k, v stacked.
    pub bias: Option<&'a B::Vector>,
    /// Norm over each query head, before the rotation.
    pub q_norm: Option<&'a Norm<B::Vector>>,
    /// Norm over each key head, before the rotation.
    pub k_norm: Option<&'a Norm<B::Vector>>,
    /// Index into [`Dims::ropes`]; `None` for layers without position embedding.
    pub rope: Option<usize>,
}

/// Arguments of [`Backend::attend`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    /// Layer index: sizes, KV pages.
    pub layer: usize,
    /// Factor on q k^T.
    pub scale: f32,
    /// A row at position p sees positions in `(p - window, p]`.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

/// Arguments of [`Backend::attn_out`].
#[derive(Debug)]
pub struct AttnOut<'a, B: Backend + ?Sized> {
    /// Layer index.
    pub layer: usize,
    /// Prepared as [`Role::AttnOut`].
    pub weight: &'a B::Matrix,
    /// Bias of the projection.
    pub bias: Option<&'a B::Vector>,
    /// Norm of the projection's result, before it is added to the hidden state (Gemma).
    pub post_norm: Option<&'a Norm<B::Vector>>,
}

/// Arguments of [`Backend::mlp`].
#[derive(Debug)]
pub struct Mlp<'a, B: Backend + ?Sized> {
    /// Layer index.
    pub layer: usize,
    /// Norm before the projections.
    pub norm: &'a Norm<B::Vector>,
    /// Prepared as [`Role::GateUp`].
    pub gate_up: &'a B::Matrix,
    /// Bias of gate and up stacked.
    pub gate_up_bias: Option<&'a B::Vector>,
    /// Prepared as [`Role::Down`].
    pub down: &'a B::Matrix,
    /// Bias of down.
    pub down_bias: Option<&'a B::Vector>,
    /// Applied to the gate.
    pub activation: Activation,
    /// Norm of the result, before it is added to the hidden state (Gemma).
    pub post_norm: Option<&'a Norm<B::Vector>>,
}

/// The gate's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
}

/// Arguments of [`Backend::logits`].
#[derive(Debug)]
pub struct Logits<'a, B: Backend + ?Sized> {
    /// Final norm.
    pub norm: &'a Norm<B::Vector>,
    /// Prepared as [`Role::Head`] or [`Role::TiedHead`].
    pub weight: &'a B::Matrix,
    /// Logits become `cap * tanh(logit / cap)`.
    pub soft_cap: Option<f32>,
}

/// The greatest logits of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopK {
    /// By logit, greatest first; equal logits by token id, least first.
    pub candidates: Vec<Candidate>,
    /// ln(sum(exp(logit))) over the whole row, so that `exp(logit - log_sum_exp)` is a probability.
    pub log_sum_exp: f32,
}

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Token id.
    pub token: u32,
    /// Its logit.
    pub logit: f32,
}

/// Why a backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The backend has no way to compute this.
    #[error("{device} cannot do {what}: {limit}")]
    Unsupported {
        /// The backend.
        device: String,
        /// What was asked for.
        what: String,
        /// What it can do.
        limit: String,
    },
    /// Memory could not be had.
    #[error("{device}: out of memory: {what} needs {wanted_bytes} bytes, {available_bytes} are available")]
    OutOfMemory {
        /// The backend.
        device: String,
        /// What was to be allocated.
        what: String,
        /// Size asked for.
        wanted_bytes: u64,
        /// Size there is, as far as known.
        available_bytes: u64,
    },
    /// The device is gone, and with it weights and KV pages: the backend must be built anew.
    #[error("{device} was lost: {message}")]
    Lost {
        /// The backend.
        device: String,
        /// What the driver said.
        message: String,
    },
    /// The device failed while it computed; the step's results are lost.
    #[error("{device}: {message}")]
    Device {
        /// The backend.
        device: String,
        /// What the driver or the worker said.
        message: String,
    },
}
