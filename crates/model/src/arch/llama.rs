//! Llama 2 and 3, Mistral (with its sliding window), SmolLM2 and whatever else keeps to their shape: rotary attention
//! with grouped heads, SiLU-gated MLP, norms before each, optional biases.
//!
//! GGUF files of this architecture have the rows of q and k in an order that makes rotary pairs neighbours.

use tensor::RopeStyle;

use crate::config::DecoderConfig;
use crate::error::ModelError;
use crate::source::{Defaults, Gguf, Hf, RopeQuery};
use crate::weights::Part;

pub(super) const NAME: &str = "llama";

pub(super) fn from_gguf(source: &Gguf<'_>) -> Result<DecoderConfig, ModelError> {
    source.check_dense()?;
    let sizes = source.sizes()?;
    let rope = source.rope(RopeStyle::Interleaved, sizes.head_dim)?.rope()?;
    let window = source.size("attention.sliding_window")?.filter(|&window| window > 0);
    let mut config = sizes.decoder(NAME, rope);
    for layer in &mut config.layers {
        layer.window = window;
        layer.qkv_bias = source.first_layer_has(Part::Query, "bias");
        layer.out_bias = source.first_layer_has(Part::AttnOut, "bias");
        layer.mlp_bias = source.first_layer_has(Part::Gate, "bias");
    }
    Ok(config)
}

pub(super) fn from_hf(source: &Hf<'_>) -> Result<DecoderConfig, ModelError> {
    let sizes = source.sizes(&Defaults::default())?;
    let layers = sizes.heads.len();
    let rope = source.rope(RopeQuery::ONLY, sizes.head_dim, sizes.context_len)?.rope()?;
    // Llama's own class knows no window, whatever its file says.
    let is_mistral = source.model_type()? == Some("mistral");
    let window = source.size("sliding_window")?.filter(|_| is_mistral);
    let windows = source.windows(layers, window, |_| true)?;
    let (attention_bias, mlp_bias) = (source.bool("attention_bias")?, source.bool("mlp_bias")?);
    let mut config = sizes.decoder(NAME, rope);
    config.activation = source.activation(config.activation)?;
    for (layer, window) in config.layers.iter_mut().zip(windows) {
        layer.window = window;
        layer.qkv_bias = attention_bias.unwrap_or(false);
        layer.out_bias = attention_bias.unwrap_or(false);
        layer.mlp_bias = mlp_bias.unwrap_or(false);
    }
    Ok(config)
}
