//! Gemma 3 (text): norms before and after attention and MLP and on query and key heads, GELU, an embedding scaled by
//! sqrt(dim), and five layers with a sliding window and a rope of their own for each layer with full attention.
//!
//! Hugging Face stores norm weights around zero (the network multiplies by 1 + w); GGUF files have the 1 in them.

use tensor::{Activation, Format, RopeStyle};

use crate::config::DecoderConfig;
use crate::error::ModelError;
use crate::rope::{RopeScaling, RopeSpec};
use crate::source::{Defaults, Gguf, Hf, RopeQuery};

pub(super) const NAME: &str = "gemma3";

/// Every layer with this many layers up to it has full attention.
const DEFAULT_PATTERN: usize = 6;
/// Base of the rope of layers with a window.
const DEFAULT_LOCAL_THETA: f32 = 10_000.0;
/// The 27B model divides scores by sqrt(dim / heads) instead of sqrt(head size); GGUF tells it by its depth alone.
const LAYERS_OF_27B: usize = 62;

/// Entries that the files of the larger models leave out.
const DEFAULTS: Defaults = Defaults {
    vocab: Some(262_208),
    heads: Some(8),
    kv_heads: Some(4),
    head_dim: Some(256),
    context_len: Some(131_072),
    tied: true,
    post_norms: true,
};
const DEFAULT_QUERY_PRE_ATTN_SCALAR: f32 = 256.0;
const DEFAULT_WINDOW: usize = 4096;

pub(super) fn from_gguf(source: &Gguf<'_>) -> Result<DecoderConfig, ModelError> {
    let sizes = source.sizes()?;
    let layers = sizes.heads.len();
    let window = source.size("attention.sliding_window")?.filter(|&window| window > 0);
    let pattern_key = "attention.sliding_window_pattern";
    let slides = match source.bools_per_layer(pattern_key, layers)? {
        Some(slides) => slides,
        None => by_pattern(layers, source.size(pattern_key)?.unwrap_or(DEFAULT_PATTERN)),
    };
    let windows = slides.into_iter().map(|slides| window.filter(|_| slides)).collect();
    let global = source.rope(RopeStyle::Halves, sizes.head_dim)?;
    let local = RopeSpec {
        theta: source.f32("rope.freq_base_swa")?.unwrap_or(DEFAULT_LOCAL_THETA),
        scaling: RopeScaling::None,
        divisors: None,
        ..global.clone()
    };
    let query_scalar = if layers == LAYERS_OF_27B { sizes.dim / sizes.heads[0].max(1) } else { sizes.head_dim };
    let mut config = sizes.decoder(NAME, global.rope()?);
    config.ropes.push(local.rope()?);
    config.activation = Activation::GeluTanh;
    config.embed_scale = (config.dim as f32).sqrt();
    config.logit_soft_cap = source.f32("final_logit_softcapping")?.filter(|&cap| cap != 0.0);
    let attn_soft_cap = source.f32("attn_logit_softcapping")?.filter(|&cap| cap != 0.0);
    Ok(shape(config, windows, query_scalar as f32, attn_soft_cap))
}

pub(super) fn from_hf(source: &Hf<'_>) -> Result<DecoderConfig, ModelError> {
    if source.bool("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(ModelError::unsupported("use_bidirectional_attention", true, "false"));
    }
    let sizes = source.sizes(&DEFAULTS)?;
    let layers = sizes.heads.len();
    let window = source.size("sliding_window")?.unwrap_or(DEFAULT_WINDOW);
    let slides = by_pattern(layers, source.size("sliding_window_pattern")?.unwrap_or(DEFAULT_PATTERN));
    let windows = source.windows(layers, Some(window), |layer| slides[layer])?;
    let global = RopeQuery { default_theta: 1_000_000.0, ..RopeQuery::ONLY };
    let local = RopeQuery {
        layer_type: "sliding_attention",
        theta_key: "rope_local_base_freq",
        default_theta: DEFAULT_LOCAL_THETA,
        scaled: false,
    };
    let rope = |query| source.rope(query, sizes.head_dim, sizes.context_len)?.rope();
    let (global, local) = (rope(global)?, rope(local)?);
    let embedding_format = source.embedding_format(&sizes.naming);
    let mut config = sizes.decoder(NAME, global);
    config.ropes.push(local);
    config.activation = source.activation(Activation::GeluTanh)?;
    config.norm_offset = 1.0;
    config.embed_scale = rounded((config.dim as f32).sqrt(), embedding_format);
    config.logit_soft_cap = source.f32("final_logit_softcapping")?;
    let attn_soft_cap = source.f32("attn_logit_softcapping")?;
    let query_scalar = source.f32("query_pre_attn_scalar")?.unwrap_or(DEFAULT_QUERY_PRE_ATTN_SCALAR);
    Ok(shape(config, windows, query_scalar, attn_soft_cap))
}

/// What both worlds have in common.
fn shape(
    mut config: DecoderConfig,
    windows: Vec<Option<usize>>,
    query_scalar: f32,
    attn_soft_cap: Option<f32>,
) -> DecoderConfig {
    for (layer, window) in config.layers.iter_mut().zip(windows) {
        layer.window = window;
        layer.rope = Some(if window.is_some() { 1 } else { 0 });
        layer.attn_scale = 1.0 / query_scalar.sqrt();
        layer.attn_soft_cap = attn_soft_cap;
        layer.qk_norm = true;
        layer.post_norms = true;
    }
    config
}

/// Which layers slide: all but every `pattern`-th.
fn by_pattern(layers: usize, pattern: usize) -> Vec<bool> {
    (1..=layers).map(|layer| pattern != 0 && !layer.is_multiple_of(pattern)).collect()
}

/// The reference implementation keeps the scale in the type of the embedding table, and so rounds it.
fn rounded(scale: f32, format: Option<Format>) -> f32 {
    match format {
        Some(Format::BF16) => half::bf16::from_f32(scale).to_f32(),
        Some(Format::F16) => half::f16::from_f32(scale).to_f32(),
        _ => scale,
    }
}
