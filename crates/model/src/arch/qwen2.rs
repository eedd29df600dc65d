//! Qwen 2 and 2.5: Llama's shape with biases on q, k and v, and a sliding window in the upper layers of some models.

use tensor::RopeStyle;

use crate::config::DecoderConfig;
use crate::error::ModelError;
use crate::source::{Defaults, Gguf, Hf, RopeQuery};
use crate::weights::Part;

pub(super) const NAME: &str = "qwen2";

/// First layer with a window where a description with windows does not say.
const DEFAULT_MAX_WINDOW_LAYERS: usize = 28;

pub(super) fn from_gguf(source: &Gguf<'_>) -> Result<DecoderConfig, ModelError> {
    let sizes = source.sizes()?;
    let rope = source.rope(RopeStyle::Halves, sizes.head_dim)?.rope()?;
    let mut config = sizes.decoder(NAME, rope);
    for layer in &mut config.layers {
        layer.qkv_bias = source.first_layer_has(Part::Query, "bias");
    }
    Ok(config)
}

pub(super) fn from_hf(source: &Hf<'_>) -> Result<DecoderConfig, ModelError> {
    let sizes = source.sizes(&Defaults::default())?;
    let windows = windows(source, sizes.heads.len())?;
    let rope = source.rope(RopeQuery::ONLY, sizes.head_dim, sizes.context_len)?.rope()?;
    let mut config = sizes.decoder(NAME, rope);
    config.activation = source.activation(config.activation)?;
    for (layer, window) in config.layers.iter_mut().zip(windows) {
        layer.window = window;
        layer.qkv_bias = true;
    }
    Ok(config)
}

/// Qwen's windows: only when `use_sliding_window` says so, and then from layer `max_window_layers` on.
pub(super) fn windows(source: &Hf<'_>, layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let used = source.bool("use_sliding_window")?.unwrap_or(false);
    let window = source.size("sliding_window")?.filter(|_| used);
    let first = source.size("max_window_layers")?.unwrap_or(DEFAULT_MAX_WINDOW_LAYERS);
    source.windows(layers, window, |layer| layer >= first)
}
