//! Qwen 3: Llama's shape with norms on query and key heads, a head size of its own, and no biases as a rule.

use tensor::RopeStyle;

use super::qwen2;
use crate::config::DecoderConfig;
use crate::error::ModelError;
use crate::source::{Defaults, Gguf, Hf, RopeQuery};
use crate::weights::Part;

pub(super) const NAME: &str = "qwen3";

pub(super) fn from_gguf(source: &Gguf<'_>) -> Result<DecoderConfig, ModelError> {
    let sizes = source.sizes()?;
    let rope = source.rope(RopeStyle::Halves, sizes.head_dim)?.rope()?;
    let mut config = sizes.decoder(NAME, rope);
    for layer in &mut config.layers {
        layer.qk_norm = true;
        layer.qkv_bias = source.first_layer_has(Part::Query, "bias");
        layer.out_bias = source.first_layer_has(Part::AttnOut, "bias");
    }
    Ok(config)
}

pub(super) fn from_hf(source: &Hf<'_>) -> Result<DecoderConfig, ModelError> {
    let sizes = source.sizes(&Defaults { head_dim: Some(128), ..Defaults::default() })?;
    let windows = qwen2::windows(source, sizes.heads.len())?;
    let rope = source.rope(RopeQuery::ONLY, sizes.head_dim, sizes.context_len)?.rope()?;
    let bias = source.bool("attention_bias")?.unwrap_or(false);
    let mut config = sizes.decoder(NAME, rope);
    config.activation = source.activation(config.activation)?;
    for (layer, window) in config.layers.iter_mut().zip(windows) {
        layer.window = window;
        layer.qk_norm = true;
        layer.qkv_bias = bias;
        layer.out_bias = bias;
    }
    Ok(config)
}
