//! A decoder as plain data: everything that the forward pass must know, and nothing about files or devices.

use checkpoint::{Checkpoint, limits};
use tensor::{Activation, Dims, LayerDims, Rope};

use crate::arch;
use crate::error::ModelError;
use crate::weights::Naming;

/// A decoder: token embedding, layers of attention and gated MLP, output head.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// GGUF's name for the architecture, e.g. `llama`.
    pub architecture: &'static str,
    /// Width of the hidden state.
    pub dim: usize,
    /// Rows of embedding and head.
    pub vocab: usize,
    /// Most tokens in a sequence, as trained.
    pub context_len: usize,
    /// First layer first.
    pub layers: Vec<LayerConfig>,
    /// The rotary embeddings that layers refer to.
    pub ropes: Vec<Rope>,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// Added to every norm weight at load: 1 where a file stores weights around zero.
    pub norm_offset: f32,
    /// Factor on the embedding.
    pub embed_scale: f32,
    /// Activation of the MLP's gate.
    pub activation: Activation,
    /// Logits become `cap * tanh(logit / cap)`.
    pub logit_soft_cap: Option<f32>,
    /// Whether the embedding table is the output head.
    pub tied: bool,
    /// Begin-of-sequence token, if the description gives one.
    pub bos_token: Option<u32>,
    /// End-of-sequence tokens of the description.
    pub eos_tokens: Vec<u32>,
    /// How the tensors are called.
    pub naming: Naming,
}

/// One layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerConfig {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub ffn: usize,
    /// Index into [`DecoderConfig::ropes`].
    pub rope: Option<usize>,
    /// A token sees itself and the `window - 1` tokens before it; all before it when `None`.
    pub window: Option<usize>,
    /// Factor on attention scores.
    pub attn_scale: f32,
    /// Soft cap on attention scores.
    pub attn_soft_cap: Option<f32>,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub out_bias: bool,
    /// Whether gate, up and down have a bias.
    pub mlp_bias: bool,
    /// Whether query and key heads are normed.
    pub qk_norm: bool,
    /// Whether attention and MLP are normed again before they are added to the hidden state.
    pub post_norms: bool,
}

impl DecoderConfig {
    /// Reads the description of a model.
    ///
    /// # Errors
    /// An architecture that is not known, an entry that is missing or of the wrong type, a size out of range.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<DecoderConfig, ModelError> {
        let config = arch::read(checkpoint)?;
        config.validate()?;
        Ok(config)
    }

    /// Most tokens in a sequence, as trained.
    pub fn context_len(&self) -> usize {
        self.context_len
    }

    /// Rows of embedding and head.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// The sizes that a backend is configured with, for steps of the given sizes.
    pub(crate) fn dims(&self, max_rows: usize, max_seqs: usize, max_logit_rows: usize, max_context: usize) -> Dims {
        let layer =
            |l: &LayerConfig| LayerDims { heads: l.heads, kv_heads: l.kv_heads, head_dim: l.head_dim, ffn: l.ffn };
        Dims {
            dim: self.dim,
            vocab: self.vocab,
            layers: self.layers.iter().map(layer).collect(),
            ropes: self.ropes.clone(),
            max_rows,
            max_seqs,
            max_logit_rows,
            max_context,
        }
    }

    /// Everything that later code relies on.
    fn validate(&self) -> Result<(), ModelError> {
        in_range("number of layers", self.layers.len(), limits::LAYERS)?;
        in_range("width of the hidden state", self.dim, limits::WIDTH)?;
        in_range("size of the vocabulary", self.vocab, limits::VOCABULARY)?;
        in_range("context length", self.context_len, limits::CONTEXT)?;
        finite("epsilon of the norms", self.norm_eps, 0.0..=1.0)?;
        finite("scale of the embedding", self.embed_scale, f32::MIN_POSITIVE..=f32::MAX)?;
        soft_cap("soft cap of the logits", self.logit_soft_cap)?;
        for (index, layer) in self.layers.iter().enumerate() {
            layer.validate().map_err(|fault| in_layer(index, fault))?;
        }
        for token in self.eos_tokens.iter().chain(&self.bos_token) {
            if *token as usize >= self.vocab {
                return Err(ModelError::out_of_range("special token", token, format!("below {}", self.vocab)));
            }
        }
        Ok(())
    }
}

impl LayerConfig {
    fn validate(&self) -> Result<(), ModelError> {
        in_range("number of heads", self.heads, limits::HEADS)?;
        in_range("number of KV heads", self.kv_heads, self.heads as u64)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            let wanted = format!("a multiple of the number of KV heads, {}", self.kv_heads);
            return Err(ModelError::out_of_range("number of heads", self.heads, wanted));
        }
        check_head_dim(self.head_dim)?;
        in_range("width of the MLP", self.ffn, limits::MLP_WIDTH)?;
        if let Some(window) = self.window {
            in_range("sliding window", window, limits::CONTEXT)?;
        }
        finite("scale of attention scores", self.attn_scale, f32::MIN_POSITIVE..=f32::MAX)?;
        soft_cap("soft cap of attention scores", self.attn_soft_cap)
    }
}

/// Checked before ropes are made, which have an entry for each pair of dimensions.
pub(crate) fn check_head_dim(head_dim: usize) -> Result<(), ModelError> {
    in_range("head size", head_dim, limits::HEAD_DIM)?;
    if !head_dim.is_multiple_of(2) {
        return Err(ModelError::out_of_range("head size", head_dim, "even"));
    }
    Ok(())
}

/// A size in `[1, max]`.
pub(crate) fn in_range(what: &str, value: usize, max: u64) -> Result<(), ModelError> {
    if (1..=max).contains(&(value as u64)) {
        return Ok(());
    }
    Err(ModelError::out_of_range(what, value, format!("in [1, {max}]")))
}

fn finite(what: &str, value: f32, range: std::ops::RangeInclusive<f32>) -> Result<(), ModelError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(ModelError::out_of_range(what, value, format!("in [{:e}, {:e}]", range.start(), range.end())))
}

fn soft_cap(what: &str, cap: Option<f32>) -> Result<(), ModelError> {
    cap.map_or(Ok(()), |cap| finite(what, cap, f32::MIN_POSITIVE..=f32::MAX))
}

fn in_layer(index: usize, fault: ModelError) -> ModelError {
    match fault {
        ModelError::OutOfRange { what, value, wanted } => {
            ModelError::OutOfRange { what: format!("layer {index}: {what}"), value, wanted }
        }
        other => other,
    }
}
