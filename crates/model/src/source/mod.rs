//! Descriptions as files have them: what every architecture reads in the same way, from either world.
//!
//! [`Gguf`] and [`Hf`] answer with [`Sizes`] and [`RopeSpec`](crate::RopeSpec)s; `arch/<name>.rs` adds what is peculiar.

mod gguf;
mod hf;

use checkpoint::limits;
use tensor::{Activation, Rope};

use crate::config::{DecoderConfig, LayerConfig, check_head_dim, in_range};
use crate::error::ModelError;
use crate::weights::Naming;

pub(crate) use gguf::Gguf;
pub(crate) use hf::{Defaults, Hf, RopeQuery};

/// What every decoder's description says.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) dim: usize,
    pub(crate) vocab: usize,
    pub(crate) context_len: usize,
    /// One entry a layer.
    pub(crate) heads: Vec<usize>,
    /// One entry a layer.
    pub(crate) kv_heads: Vec<usize>,
    pub(crate) head_dim: usize,
    /// One entry a layer.
    pub(crate) ffn: Vec<usize>,
    pub(crate) norm_eps: f32,
    pub(crate) tied: bool,
    pub(crate) bos_token: Option<u32>,
    pub(crate) eos_tokens: Vec<u32>,
    pub(crate) naming: Naming,
}

impl Sizes {
    /// A decoder without peculiarities: SiLU, one rope, full attention, no biases, no extra norms.
    pub(crate) fn decoder(self, architecture: &'static str, rope: Rope) -> DecoderConfig {
        let layer = |index: usize| LayerConfig {
            heads: self.heads[index],
            kv_heads: self.kv_heads[index],
            head_dim: self.head_dim,
            ffn: self.ffn[index],
            rope: Some(0),
            window: None,
            attn_scale: 1.0 / (self.head_dim as f32).sqrt(),
            attn_soft_cap: None,
            qkv_bias: false,
            out_bias: false,
            mlp_bias: false,
            qk_norm: false,
            post_norms: false,
        };
        DecoderConfig {
            architecture,
            dim: self.dim,
            vocab: self.vocab,
            context_len: self.context_len,
            layers: (0..self.heads.len()).map(layer).collect(),
            ropes: vec![rope],
            norm_eps: self.norm_eps,
            norm_offset: 0.0,
            embed_scale: 1.0,
            activation: Activation::Silu,
            logit_soft_cap: None,
            tied: self.tied,
            bos_token: self.bos_token,
            eos_tokens: self.eos_tokens,
            naming: self.naming,
        }
    }
}

/// A number of layers that is safe to allocate for.
fn layer_count(count: usize) -> Result<usize, ModelError> {
    in_range("number of layers", count, limits::LAYERS)?;
    Ok(count)
}

/// The head size of a description, or what the width divided by the number of heads is where it gives none.
fn head_dim(given: Option<usize>, dim: usize, heads: usize) -> Result<usize, ModelError> {
    let head_dim = match given {
        Some(given) => given,
        None if heads > 0 && dim.is_multiple_of(heads) => dim / heads,
        None => {
            let wanted = format!("a divisor of the width of the hidden state, {dim}, where no head size is given");
            return Err(ModelError::out_of_range("number of heads", heads, wanted));
        }
    };
    check_head_dim(head_dim)?;
    Ok(head_dim)
}
