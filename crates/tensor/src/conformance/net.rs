//! A small network as plain data: what a case varies.

use crate::backend::{Activation, Dims, KvGroup, KvSpec, LayerDims, PAGE_TOKENS, Rope, RopeStyle};
use crate::{Format, NO_PAGE};

/// Most rows in a step of any case.
pub const MAX_ROWS: usize = 256;
/// Most sequences in a step of any case.
pub const MAX_SEQS: usize = 4;
/// Most tokens in a sequence of any case.
pub const MAX_CONTEXT: usize = 256;
/// Entries of a page table.
pub const TABLE_STRIDE: usize = MAX_CONTEXT / PAGE_TOKENS;
/// Pages in the pool of each KV group: a full sequence each, and as many again to shuffle into.
pub const POOL_PAGES: usize = 2 * MAX_SEQS * TABLE_STRIDE;
/// Token ids of the cases are below this; no network has a smaller vocabulary.
pub const MIN_VOCAB: usize = 64;

const _: () = assert!((POOL_PAGES as u32) < NO_PAGE);

/// What a weight matrix holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Random values in this format.
    Random(Format),
    /// Zeros, F32: the stage adds nothing.
    Zero,
    /// Ones on the diagonal, F32: the stage's input is its output.
    Identity,
}

/// The output head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The embedding table.
    Tied,
    /// A matrix of its own.
    Own(Fill),
}

/// Rotary embedding of all layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeNet {
    /// Which dimensions make a pair.
    pub style: RopeStyle,
    /// Dimensions that turn, even.
    pub rotary_dim: usize,
    /// Factor on sine and cosine.
    pub magnitude: f32,
}

/// A small random network. All layers are alike but for their window.
#[derive(Clone, Debug, PartialEq)]
pub struct Net {
    /// Width of the hidden state.
    pub dim: usize,
    /// Rows of embedding and head.
    pub vocab: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub ffn: usize,
    /// One entry a layer: its sliding window. Layers with and without window are separate KV groups.
    pub windows: Vec<Option<usize>>,
    /// Rotary embedding.
    pub rope: Option<RopeNet>,
    /// Embedding table.
    pub embed: Fill,
    /// Query projection.
    pub q: Fill,
    /// Key projection.
    pub k: Fill,
    /// Value projection.
    pub v: Fill,
    /// Output projection of the attention.
    pub attn_out: Fill,
    /// Gate projection.
    pub gate: Fill,
    /// Up projection.
    pub up: Fill,
    /// Down projection.
    pub down: Fill,
    /// Output head.
    pub head: Head,
    /// Factor on the embedding.
    pub embed_scale: f32,
    /// Bias of q, k, v.
    pub qkv_bias: bool,
    /// Bias of the attention's output projection.
    pub out_bias: bool,
    /// Bias of gate, up and down.
    pub mlp_bias: bool,
    /// Norms of query and key heads.
    pub qk_norm: bool,
    /// Norms after attention and MLP.
    pub post_norm: bool,
    /// Of the gate.
    pub activation: Activation,
    /// Soft cap of attention scores.
    pub attn_soft_cap: Option<f32>,
    /// Soft cap of logits.
    pub logit_soft_cap: Option<f32>,
    /// Storage of keys.
    pub key_format: Format,
    /// Storage of values.
    pub value_format: Format,
}

/// All F32, one layer, no extras, and a head that shows the normed hidden state.
impl Default for Net {
    fn default() -> Self {
        let f32s = Fill::Random(Format::F32);
        Net {
            dim: 64,
            vocab: 64,
            heads: 2,
            kv_heads: 1,
            head_dim: 32,
            ffn: 96,
            windows: vec![None],
            rope: Some(RopeNet { style: RopeStyle::Halves, rotary_dim: 32, magnitude: 1.0 }),
            embed: f32s,
            q: f32s,
            k: f32s,
            v: f32s,
            attn_out: f32s,
            gate: f32s,
            up: f32s,
            down: f32s,
            head: Head::Own(Fill::Identity),
            embed_scale: SMALL_EMBEDDING,
            qkv_bias: false,
            out_bias: false,
            mlp_bias: false,
            qk_norm: false,
            post_norm: false,
            activation: Activation::Silu,
            attn_soft_cap: None,
            logit_soft_cap: None,
            key_format: Format::F32,
            value_format: Format::F32,
        }
    }
}

/// Scale of the embedding in most cases: small beside what a stage adds to it, so that the stage's errors show; and
/// small enough (mean square 4e-4 beside [`EPS`]) that a wrong epsilon shows.
const SMALL_EMBEDDING: f32 = 0.02;

/// Epsilon of every norm.
pub const EPS: f32 = 1e-5;

impl Net {
    /// Without the attention's contribution.
    pub fn mute_attention(self) -> Net {
        Net { attn_out: Fill::Zero, ..self }
    }

    /// Without the MLP's contribution.
    pub fn mute_mlp(self) -> Net {
        Net { down: Fill::Zero, ..self }
    }

    /// All weight matrices random in one format, and a head of its own.
    pub fn all_weights(self, format: Format) -> Net {
        let fill = Fill::Random(format);
        Net {
            embed: fill,
            q: fill,
            k: fill,
            v: fill,
            attn_out: fill,
            gate: fill,
            up: fill,
            down: fill,
            head: Head::Own(fill),
            ..self
        }
    }

    /// Every random matrix of the network.
    pub fn fills(&self) -> impl Iterator<Item = Fill> {
        let head = match self.head {
            Head::Tied => self.embed,
            Head::Own(fill) => fill,
        };
        [self.embed, self.q, self.k, self.v, self.attn_out, self.gate, self.up, self.down, head].into_iter()
    }

    /// What a backend is configured with.
    pub fn dims(&self) -> Dims {
        let layer = LayerDims { heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim, ffn: self.ffn };
        Dims {
            dim: self.dim,
            vocab: self.vocab,
            layers: vec![layer; self.windows.len()],
            ropes: self.rope.iter().map(RopeNet::rope).collect(),
            max_rows: MAX_ROWS,
            max_seqs: MAX_SEQS,
            max_logit_rows: MAX_ROWS,
            max_context: MAX_CONTEXT,
        }
    }

    /// Layers by group: those without window, then those with one; a group without layers is left out.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let layers = 0..self.windows.len();
        let (full, windowed): (Vec<usize>, Vec<usize>) = layers.partition(|&layer| self.windows[layer].is_none());
        [full, windowed].into_iter().filter(|group| !group.is_empty()).collect()
    }

    /// The KV cache of every case.
    pub fn kv_spec(&self) -> KvSpec {
        KvSpec {
            key_format: self.key_format,
            value_format: self.value_format,
            groups: self.groups().into_iter().map(|layers| KvGroup { layers, pages: POOL_PAGES }).collect(),
        }
    }
}

impl RopeNet {
    fn rope(&self) -> Rope {
        /// An ordinary base.
        const THETA: f32 = 10_000.0;
        let inv_freq = (0..self.rotary_dim / 2).map(|i| THETA.powf(-2.0 * i as f32 / self.rotary_dim as f32)).collect();
        Rope { inv_freq, magnitude: self.magnitude, style: self.style }
    }
}
