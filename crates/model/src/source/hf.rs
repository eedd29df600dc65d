//! What `config.json` says in the same words for every architecture, in the old style (`rope_theta` and `rope_scaling`
//! at the top) and the new one (`rope_parameters`, by layer type where they differ).

use checkpoint::{Checkpoint, HfConfig};
use serde_json::Value;
use tensor::{Activation, Format, RopeStyle};

use super::{Sizes, head_dim, layer_count};
use crate::error::ModelError;
use crate::rope::{RopeScaling, RopeSpec};
use crate::weights::{Naming, Part, Place};

/// What may stand before `embed_tokens`, and before `lm_head` beside it: plain decoders, models with vision in the new
/// layout and in the old one.
const ROOTS: [(&str, &str); 3] =
    [("model.", ""), ("model.language_model.", ""), ("language_model.model.", "language_model.")];

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Epsilon of the norms where a file gives none.
const DEFAULT_EPS: f32 = 1e-6;

/// A Hugging Face description.
pub(crate) struct Hf<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a HfConfig,
}

/// What an architecture takes for entries that a file leaves out; `None` where it must be given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) vocab: Option<usize>,
    pub(crate) heads: Option<usize>,
    pub(crate) kv_heads: Option<usize>,
    pub(crate) head_dim: Option<usize>,
    pub(crate) context_len: Option<usize>,
    pub(crate) tied: bool,
    /// Whether attention and MLP have norms after them; not an entry, but part of the tensor names.
    pub(crate) post_norms: bool,
}

/// Which rotary embedding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeQuery {
    /// Key in `rope_parameters` where layers differ.
    pub(crate) layer_type: &'static str,
    /// Key of the base in the old style.
    pub(crate) theta_key: &'static str,
    /// Base where none is given.
    pub(crate) default_theta: f32,
    /// Whether the old style's `rope_scaling` holds for it.
    pub(crate) scaled: bool,
}

impl RopeQuery {
    /// The one of models whose layers are all alike.
    pub(crate) const ONLY: RopeQuery =
        RopeQuery { layer_type: FULL, theta_key: "rope_theta", default_theta: 10_000.0, scaled: true };
}

impl<'a> Hf<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, config: &'a HfConfig) -> Hf<'a> {
        Hf { checkpoint, config }
    }

    pub(crate) fn sizes(&self, defaults: &Defaults) -> Result<Sizes, ModelError> {
        if let Some(quantized) = self.config.get("quantization_config") {
            let method = quantized.get("quant_method").unwrap_or(quantized);
            return Err(ModelError::unsupported("quantization_config", method, "none, or a GGUF file"));
        }
        let dim = self.required_size("hidden_size", None)?;
        let layers = layer_count(self.required_size("num_hidden_layers", None)?)?;
        let heads = self.required_size("num_attention_heads", defaults.heads)?;
        let kv_heads = self.size("num_key_value_heads")?.or(defaults.kv_heads).unwrap_or(heads);
        let head_dim = head_dim(self.size("head_dim")?.or(defaults.head_dim), dim, heads)?;
        let ffn = self.required_size("intermediate_size", None)?;
        Ok(Sizes {
            dim,
            vocab: self.required_size("vocab_size", defaults.vocab)?,
            context_len: self.required_size("max_position_embeddings", defaults.context_len)?,
            heads: vec![heads; layers],
            kv_heads: vec![kv_heads; layers],
            head_dim,
            ffn: vec![ffn; layers],
            norm_eps: self.f32("rms_norm_eps")?.unwrap_or(DEFAULT_EPS),
            tied: self.bool("tie_word_embeddings")?.unwrap_or(defaults.tied),
            bos_token: self.config.u32("bos_token_id")?,
            eos_tokens: self.eos_tokens()?,
            naming: self.naming(defaults.post_norms)?,
        })
    }

    /// A rotary embedding; `context_len` is what scalings take for the original context where none is given.
    pub(crate) fn rope(&self, query: RopeQuery, head_dim: usize, context_len: usize) -> Result<RopeSpec, ModelError> {
        let params = self.rope_params(query)?;
        let theta = match params.f32("rope_theta")? {
            Some(theta) => theta,
            None => self.f32(query.theta_key)?.unwrap_or(query.default_theta),
        };
        let part = match params.f32("partial_rotary_factor")? {
            Some(part) => part,
            None => self.f32("partial_rotary_factor")?.unwrap_or(1.0),
        };
        if !(part > 0.0 && part <= 1.0) {
            return Err(ModelError::out_of_range("partial_rotary_factor", part, "in (0, 1]"));
        }
        Ok(RopeSpec {
            theta,
            rotary_dim: (head_dim as f64 * f64::from(part)) as usize,
            style: RopeStyle::Halves,
            scaling: self.rope_scaling(&params, context_len)?,
            divisors: None,
        })
    }

    /// The window of each layer: by `layer_types` where they are given, else by `slides`.
    pub(crate) fn windows(
        &self,
        layers: usize,
        window: Option<usize>,
        slides: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<usize>>, ModelError> {
        let Some(types) = self.config.strings("layer_types")? else {
            return Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect());
        };
        if types.len() != layers {
            return Err(ModelError::out_of_range("length of layer_types", types.len(), format!("{layers}")));
        }
        let window_of = |kind: &str| match (kind, window) {
            (FULL, _) => Ok(None),
            (SLIDING, Some(window)) => Ok(Some(window)),
            (SLIDING, None) => Err(ModelError::missing_key("sliding_window")),
            _ => Err(ModelError::unsupported("layer type", format!("{kind:?}"), format!("{FULL}, {SLIDING}"))),
        };
        types.into_iter().map(window_of).collect()
    }

    /// `hidden_activation` or `hidden_act`.
    pub(crate) fn activation(&self, default: Activation) -> Result<Activation, ModelError> {
        let name = match self.config.str("hidden_activation")? {
            Some(name) => Some(name),
            None => self.config.str("hidden_act")?,
        };
        match name {
            None => Ok(default),
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            Some(other) => Err(ModelError::unsupported("hidden_act", format!("{other:?}"), "silu, gelu_pytorch_tanh")),
        }
    }

    /// The format of the embedding table.
    pub(crate) fn embedding_format(&self, naming: &Naming) -> Option<Format> {
        let name = naming.name(Place { part: Part::Embedding, layer: None }, "weight");
        self.checkpoint.tensor(&name).map(|tensor| tensor.format)
    }

    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        Ok(self.config.u32(key)?.map(|size| size as usize))
    }

    pub(crate) fn f32(&self, key: &str) -> Result<Option<f32>, ModelError> {
        Ok(self.config.f32(key)?)
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        Ok(self.config.bool(key)?)
    }

    /// The language model's own `model_type`, or the whole model's.
    pub(crate) fn model_type(&self) -> Result<Option<&str>, ModelError> {
        Ok(self.config.str("model_type")?)
    }

    fn required_size(&self, key: &str, default: Option<usize>) -> Result<usize, ModelError> {
        self.size(key)?.or(default).ok_or_else(|| ModelError::missing_key(key))
    }

    /// One id or an array of them.
    fn eos_tokens(&self) -> Result<Vec<u32>, ModelError> {
        let key = "eos_token_id";
        let Some(value) = self.config.get(key) else { return Ok(Vec::new()) };
        let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let checked = ids.iter().map(|value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| ModelError::out_of_range(key, value, "a token id, or an array of them"))
        });
        checked.collect()
    }

    fn naming(&self, post_norms: bool) -> Result<Naming, ModelError> {
        let naming = |(root, head_root): (&str, &str)| Naming::HuggingFace {
            root: root.into(),
            head_root: head_root.into(),
            post_norms,
        };
        let embedding = Place { part: Part::Embedding, layer: None };
        let mut candidates = ROOTS.into_iter().map(naming);
        let found = candidates.find(|naming| self.checkpoint.tensor(&naming.name(embedding, "weight")).is_some());
        found.ok_or_else(|| ModelError::missing_key("tensor model.embed_tokens.weight"))
    }

    /// `rope_parameters`, as newer configurations have it, or `rope_scaling`. Where both are there they must agree: readers
    /// differ in which of them they prefer.
    fn rope_params(&self, query: RopeQuery) -> Result<RopeParams<'a>, ModelError> {
        let [all, scaling] = [self.object("rope_parameters")?, self.object("rope_scaling")?];
        let Some(all) = all else {
            return Ok(RopeParams(scaling.filter(|_| query.scaled)));
        };
        let mut entries = scaling.and_then(Value::as_object).into_iter().flatten();
        if let Some((key, value)) = entries.find(|(key, value)| all.get(key) != Some(value)) {
            let wanted = "the same as in rope_parameters, or only one of the two";
            return Err(ModelError::out_of_range(format!("{key} of rope_scaling"), value, wanted));
        }
        let nested = all.get(FULL).is_some() || all.get(SLIDING).is_some();
        let params = if nested { all.get(query.layer_type) } else { Some(all) };
        match params {
            Some(params) if !params.is_object() => {
                Err(ModelError::out_of_range(format!("rope_parameters of {}", query.layer_type), params, "an object"))
            }
            params => Ok(RopeParams(params)),
        }
    }

    /// An entry that is an object; `None` without it.
    fn object(&self, key: &str) -> Result<Option<&'a Value>, ModelError> {
        match self.config.get(key).filter(|value| !value.is_null()) {
            Some(value) if !value.is_object() => Err(ModelError::out_of_range(key, value, "an object")),
            value => Ok(value),
        }
    }

    fn rope_scaling(&self, params: &RopeParams<'_>, context_len: usize) -> Result<RopeScaling, ModelError> {
        let original_context = match self.size("original_max_position_embeddings")? {
            Some(context) => context,
            None => params.size("original_max_position_embeddings")?.unwrap_or(context_len),
        };
        let kind = match params.str("rope_type")? {
            Some(kind) => kind,
            None => params.str("type")?.unwrap_or("default"),
        };
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: params.required_f32("factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: params.required_f32("factor")?,
                low_freq_factor: params.required_f32("low_freq_factor")?,
                high_freq_factor: params.required_f32("high_freq_factor")?,
                original_context,
            }),
            "yarn" => params.yarn(original_context, context_len),
            other => Err(ModelError::unsupported("rope_type", format!("{other:?}"), "default, linear, llama3, yarn")),
        }
    }
}

/// One object of rope parameters, perhaps absent.
struct RopeParams<'a>(Option<&'a Value>);

impl<'a> RopeParams<'a> {
    fn yarn(&self, original_context: usize, context_len: usize) -> Result<RopeScaling, ModelError> {
        let factor = self.f32("factor")?.unwrap_or(context_len as f32 / original_context as f32);
        let usual = |mscale| RopeScaling::yarn_attention_factor(factor, mscale);
        let nonzero = |key| Ok::<_, ModelError>(self.f32(key)?.filter(|&value| value != 0.0));
        let attention_factor = match (self.f32("attention_factor")?, nonzero("mscale")?, nonzero("mscale_all_dim")?) {
            (Some(given), _, _) => given,
            (None, Some(mscale), Some(all_dim)) => usual(mscale) / usual(all_dim),
            _ => usual(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast: nonzero("beta_fast")?.unwrap_or(32.0),
            beta_slow: nonzero("beta_slow")?.unwrap_or(1.0),
            attention_factor,
            truncate: self.bool("truncate")?.unwrap_or(true),
        })
    }

    fn required_f32(&self, key: &str) -> Result<f32, ModelError> {
        self.f32(key)?.ok_or_else(|| ModelError::missing_key(format!("rope parameter {key}")))
    }

    fn f32(&self, key: &str) -> Result<Option<f32>, ModelError> {
        self.typed(key, "a number", |value| value.as_f64().map(|number| number as f32))
    }

    fn size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.typed(key, "an integer in [0, 2^32)", |value| {
            value.as_u64()?.try_into().ok().map(|size: u32| size as usize)
        })
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "a bool", Value::as_bool)
    }

    fn str(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(key, "a string", Value::as_str)
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        match self.0.and_then(|params| params.get(key)).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => match convert(value) {
                Some(converted) => Ok(Some(converted)),
                None => Err(ModelError::out_of_range(format!("rope parameter {key}"), value, wanted)),
            },
        }
    }
}
