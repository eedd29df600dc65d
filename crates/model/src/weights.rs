//! Tensor names of both worlds, and tensors checked against the description.

use std::cell::RefCell;
use std::collections::HashSet;

use checkpoint::{Checkpoint, Tensor};
use tensor::TensorView;

use crate::config::DecoderConfig;
use crate::error::ModelError;

/// Hidden dimensions, heads and so on are the same everywhere; names are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `blk.0.attn_q.weight`.
    Gguf,
    /// `model.layers.0.self_attn.q_proj.weight`.
    HuggingFace {
        /// What stands before `layers`: `model.`, or longer for models with vision.
        root: String,
        /// What stands before `lm_head`.
        head_root: String,
        /// Whether attention and MLP have norms after them, which moves the names of the norms.
        post_norms: bool,
    },
}

/// A tensor's place in a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Part {
    Embedding,
    FinalNorm,
    Head,
    AttnNorm,
    Query,
    Key,
    Value,
    QueryNorm,
    KeyNorm,
    AttnOut,
    AttnPostNorm,
    MlpNorm,
    Gate,
    Up,
    Down,
    MlpPostNorm,
}

/// Part; its name in GGUF; in Hugging Face; in Hugging Face with norms after attention and MLP.
const NAMES: [(Part, &str, &str, &str); 16] = [
    (Part::Embedding, "token_embd", "embed_tokens", "embed_tokens"),
    (Part::FinalNorm, "output_norm", "norm", "norm"),
    (Part::Head, "output", "lm_head", "lm_head"),
    (Part::AttnNorm, "attn_norm", "input_layernorm", "input_layernorm"),
    (Part::Query, "attn_q", "self_attn.q_proj", "self_attn.q_proj"),
    (Part::Key, "attn_k", "self_attn.k_proj", "self_attn.k_proj"),
    (Part::Value, "attn_v", "self_attn.v_proj", "self_attn.v_proj"),
    (Part::QueryNorm, "attn_q_norm", "self_attn.q_norm", "self_attn.q_norm"),
    (Part::KeyNorm, "attn_k_norm", "self_attn.k_norm", "self_attn.k_norm"),
    (Part::AttnOut, "attn_output", "self_attn.o_proj", "self_attn.o_proj"),
    (Part::AttnPostNorm, "post_attention_norm", "", "post_attention_layernorm"),
    (Part::MlpNorm, "ffn_norm", "post_attention_layernorm", "pre_feedforward_layernorm"),
    (Part::Gate, "ffn_gate", "mlp.gate_proj", "mlp.gate_proj"),
    (Part::Up, "ffn_up", "mlp.up_proj", "mlp.up_proj"),
    (Part::Down, "ffn_down", "mlp.down_proj", "mlp.down_proj"),
    (Part::MlpPostNorm, "post_ffw_norm", "", "post_feedforward_layernorm"),
];

/// Tensors in layers that need not be used: what old converters wrote and every reader computes itself.
const IGNORED_SUFFIXES: [&str; 2] = ["rotary_emb.inv_freq", "attn_rot_embd.weight"];

/// Part and kind (`weight` or `bias`) of a tensor; the layer where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which tensor.
    pub part: Part,
    /// Which layer; `None` for embedding, final norm and head.
    pub layer: Option<usize>,
}

impl Naming {
    /// The full name of a tensor; `kind` is `weight` or `bias`.
    pub fn name(&self, place: Place, kind: &str) -> String {
        let row = NAMES.iter().find(|row| row.0 == place.part).expect("every part is in the table");
        match (self, place.layer) {
            (Naming::Gguf, None) => format!("{}.{kind}", row.1),
            (Naming::Gguf, Some(layer)) => format!("blk.{layer}.{}.{kind}", row.1),
            (Naming::HuggingFace { head_root, .. }, None) if place.part == Part::Head => {
                format!("{head_root}{}.{kind}", row.2)
            }
            (Naming::HuggingFace { root, post_norms, .. }, layer) => {
                let layer = layer.map_or(String::new(), |layer| format!("layers.{layer}."));
                let part = if *post_norms { row.3 } else { row.2 };
                format!("{root}{layer}{part}.{kind}")
            }
        }
    }

    /// What the names of all layers' tensors begin with.
    fn layer_prefix(&self) -> String {
        match self {
            Naming::Gguf => "blk.".into(),
            Naming::HuggingFace { root, .. } => format!("{root}layers."),
        }
    }
}

/// The tensors of a model, each checked against the shape that the description asks for.
pub(crate) struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a DecoderConfig,
    used: RefCell<HashSet<&'a str>>,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, config: &'a DecoderConfig) -> Weights<'a> {
        Weights { checkpoint, config, used: RefCell::default() }
    }

    /// A weight matrix.
    pub(crate) fn matrix(&self, place: Place, rows: usize, cols: usize) -> Result<TensorView<'a>, ModelError> {
        Ok(self.tensor(place, "weight", &[rows, cols])?.matrix()?)
    }

    /// The weight of a norm, with the architecture's offset.
    pub(crate) fn norm(&self, place: Place, len: usize) -> Result<Vec<f32>, ModelError> {
        let mut values = self.vector(place, "weight", len)?;
        values.iter_mut().for_each(|value| *value += self.config.norm_offset);
        Ok(values)
    }

    /// A bias.
    pub(crate) fn bias(&self, place: Place, len: usize) -> Result<Vec<f32>, ModelError> {
        self.vector(place, "bias", len)
    }

    /// The tensor has been used and will not be again.
    pub(crate) fn release(&self, place: Place) {
        self.checkpoint.release(&self.config.naming.name(place, "weight"));
    }

    /// Bytes of all tensors.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.checkpoint.tensors().map(|tensor| tensor.data.len() as u64).sum()
    }

    /// Fails when a layer holds a tensor that has not been used, or the head a bias.
    pub(crate) fn check_all_used(&self) -> Result<(), ModelError> {
        let (used, prefix) = (self.used.borrow(), self.config.naming.layer_prefix());
        let head_bias = self.config.naming.name(Place { part: Part::Head, layer: None }, "bias");
        for Tensor { name, .. } in self.checkpoint.tensors() {
            if used.contains(name) || IGNORED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
                continue;
            }
            if name.starts_with(&prefix) || name == head_bias {
                return Err(ModelError::UnexpectedTensor { name: name.into(), architecture: self.config.architecture });
            }
            tracing::debug!(tensor = name, "not used");
        }
        Ok(())
    }

    fn vector(&self, place: Place, kind: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let row = self.tensor(place, kind, &[len])?.matrix()?;
        let mut values = vec![0.0; len];
        row.dequantize_row(0, &mut values);
        Ok(values)
    }

    fn tensor(&self, place: Place, kind: &str, wanted: &[usize]) -> Result<Tensor<'a>, ModelError> {
        let name = self.config.naming.name(place, kind);
        let Some(tensor) = self.checkpoint.tensor(&name) else {
            return Err(ModelError::MissingTensor { name, wanted: wanted.into() });
        };
        if tensor.shape != wanted {
            return Err(ModelError::WrongShape { name, found: tensor.shape.into(), wanted: wanted.into() });
        }
        self.used.borrow_mut().insert(tensor.name);
        Ok(tensor)
    }
}
