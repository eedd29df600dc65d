//! What GGUF metadata says in the same words for every architecture.

use checkpoint::{Checkpoint, Metadata, Value};
use tensor::RopeStyle;

use super::{Sizes, head_dim, layer_count};
use crate::error::ModelError;
use crate::rope::{RopeScaling, RopeSpec};
use crate::weights::{Naming, Part, Place};

/// Base of the rotary embedding where a file gives none.
const DEFAULT_THETA: f32 = 10_000.0;

/// A tensor of numbers by which frequencies are divided.
const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// A GGUF description. Keys are given without the architecture's name in front.
pub(crate) struct Gguf<'a> {
    checkpoint: &'a Checkpoint,
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl<'a> Gguf<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, metadata: &'a Metadata, architecture: &'a str) -> Gguf<'a> {
        Gguf { checkpoint, metadata, architecture }
    }

    pub(crate) fn sizes(&self) -> Result<Sizes, ModelError> {
        let dim = self.required_size("embedding_length")?;
        let layers = layer_count(self.required_size("block_count")?)?;
        let heads = self.per_layer("attention.head_count", layers)?;
        let heads = heads.ok_or_else(|| self.missing("attention.head_count"))?;
        let kv_heads = self.per_layer("attention.head_count_kv", layers)?.unwrap_or_else(|| heads.clone());
        let ffn = self.per_layer("feed_forward_length", layers)?;
        let naming = Naming::Gguf;
        Ok(Sizes {
            dim,
            vocab: self.vocab(&naming)?,
            context_len: self.required_size("context_length")?,
            head_dim: self.head_dim(dim, &heads)?,
            heads,
            kv_heads,
            ffn: ffn.ok_or_else(|| self.missing("feed_forward_length"))?,
            norm_eps: self
                .f32("attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| self.missing("attention.layer_norm_rms_epsilon"))?,
            tied: !self.has_tensor(&naming.name(Place { part: Part::Head, layer: None }, "weight")),
            bos_token: self.metadata.u32("tokenizer.ggml.bos_token_id")?,
            eos_tokens: self.metadata.u32("tokenizer.ggml.eos_token_id")?.into_iter().collect(),
            naming,
        })
    }

    /// The rotary embedding of full-attention layers.
    pub(crate) fn rope(&self, style: RopeStyle, head_dim: usize) -> Result<RopeSpec, ModelError> {
        let rotary_dim = self.size("rope.dimension_count")?.unwrap_or(head_dim);
        if rotary_dim > head_dim {
            let wanted = format!("at most the head size, {head_dim}");
            return Err(ModelError::out_of_range(self.key("rope.dimension_count"), rotary_dim, wanted));
        }
        Ok(RopeSpec {
            theta: self.f32("rope.freq_base")?.unwrap_or(DEFAULT_THETA),
            rotary_dim,
            style,
            scaling: self.rope_scaling()?,
            divisors: self.rope_divisors(rotary_dim / 2)?,
        })
    }

    /// Whether a tensor of the first layer exists.
    pub(crate) fn first_layer_has(&self, part: Part, kind: &str) -> bool {
        self.has_tensor(&Naming::Gguf.name(Place { part, layer: Some(0) }, kind))
    }

    /// Fails on mixtures of experts, which share the names of their architectures.
    pub(crate) fn check_dense(&self) -> Result<(), ModelError> {
        match self.size("expert_count")?.unwrap_or(0) {
            0 => Ok(()),
            experts => Err(ModelError::unsupported(self.key("expert_count"), experts, "0")),
        }
    }

    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        Ok(self.metadata.u32(&self.key(key))?.map(|size| size as usize))
    }

    pub(crate) fn f32(&self, key: &str) -> Result<Option<f32>, ModelError> {
        Ok(self.metadata.f32(&self.key(key))?)
    }

    /// An array of truth values, one a layer. `None` also when the key holds something else.
    pub(crate) fn bools_per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        let key = self.key(key);
        if !matches!(self.metadata.get(&key), Some(Value::Array(_))) {
            return Ok(None);
        }
        let bools = self.metadata.bools(&key)?.unwrap_or_default().to_vec();
        if bools.len() < layers {
            return Err(ModelError::out_of_range(
                format!("length of {key}"),
                bools.len(),
                format!("at least {layers}"),
            ));
        }
        Ok(Some(bools))
    }

    fn required_size(&self, key: &str) -> Result<usize, ModelError> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    /// One number for all layers, or an array with one for each.
    fn per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>, ModelError> {
        let full_key = self.key(key);
        if !matches!(self.metadata.get(&full_key), Some(Value::Array(_))) {
            return Ok(self.size(key)?.map(|size| vec![size; layers]));
        }
        let sizes = self.metadata.u32s(&full_key)?.unwrap_or_default();
        if sizes.len() < layers {
            let wanted = format!("at least {layers}, one for each layer");
            return Err(ModelError::out_of_range(format!("length of {full_key}"), sizes.len(), wanted));
        }
        Ok(Some(sizes[..layers].iter().map(|&size| size as usize).collect()))
    }

    /// The embedding has a row for each token.
    fn vocab(&self, naming: &Naming) -> Result<usize, ModelError> {
        let name = naming.name(Place { part: Part::Embedding, layer: None }, "weight");
        match self.checkpoint.tensor(&name) {
            Some(tensor) => Ok(tensor.shape[0]),
            None => Err(ModelError::missing_key(format!("tensor {name}"))),
        }
    }

    fn head_dim(&self, dim: usize, heads: &[usize]) -> Result<usize, ModelError> {
        let head_dim = head_dim(self.size("attention.key_length")?, dim, heads[0])?;
        match self.size("attention.value_length")? {
            Some(value) if value != head_dim => Err(ModelError::unsupported(
                self.key("attention.value_length"),
                value,
                format!("{head_dim}, as for keys"),
            )),
            _ => Ok(head_dim),
        }
    }

    fn rope_scaling(&self) -> Result<RopeScaling, ModelError> {
        let factor = match self.f32("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.f32("rope.scale_linear")?,
        };
        // Converters write 0 or 1 for "not scaled".
        let factor = factor.filter(|&factor| factor != 0.0).unwrap_or(1.0);
        let key = self.key("rope.scaling.type");
        match self.metadata.str(&key)?.unwrap_or("linear") {
            "none" => Ok(RopeScaling::None),
            "linear" if factor == 1.0 => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor }),
            "yarn" => self.yarn(factor),
            other => Err(ModelError::unsupported(key, format!("{other:?}"), "none, linear, yarn")),
        }
    }

    /// YaRN as llama.cpp reads it. `yarn_log_multiplier` is DeepSeek's `mscale_all_dim`.
    fn yarn(&self, factor: f32) -> Result<RopeScaling, ModelError> {
        let original_context = match self.size("rope.scaling.original_context_length")? {
            Some(context) => context,
            None => self.required_size("context_length")?,
        };
        let mut attention_factor = RopeScaling::yarn_attention_factor(factor, 1.0);
        if let Some(mscale) = self.f32("rope.scaling.yarn_log_multiplier")?.filter(|&mscale| mscale != 0.0) {
            attention_factor /= RopeScaling::yarn_attention_factor(factor, mscale);
        }
        Ok(RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast: self.f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: self.f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            attention_factor: attention_factor * self.f32("rope.scaling.attn_factor")?.unwrap_or(1.0),
            truncate: true,
        })
    }

    fn rope_divisors(&self, pairs: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(tensor) = self.checkpoint.tensor(ROPE_DIVISORS) else { return Ok(None) };
        if tensor.shape != [pairs] {
            return Err(ModelError::WrongShape {
                name: ROPE_DIVISORS.into(),
                found: tensor.shape.into(),
                wanted: vec![pairs],
            });
        }
        let mut divisors = vec![0.0; pairs];
        tensor.matrix()?.dequantize_row(0, &mut divisors);
        Ok(Some(divisors))
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.checkpoint.tensor(name).is_some()
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn missing(&self, key: &str) -> ModelError {
        ModelError::missing_key(self.key(key))
    }
}
