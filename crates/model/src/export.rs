//! A Hugging Face model as a GGUF file would hold it: what its metadata says of the network, and its tensors under their
//! other names, with what the two worlds store differently: the order of rows of q and k in `llama`, norms around zero.
//!
//! Vocabularies and chat templates are not the network's and not here.

use std::borrow::Cow;

use checkpoint::gguf::Metadata;
use checkpoint::{Checkpoint, Description};
use tensor::{Format, RopeStyle, TensorView};

use crate::config::DecoderConfig;
use crate::error::ModelError;
use crate::matrices::{MatrixSpec, PartSpec};
use crate::rope::{RopeScaling, RopeSpec};
use crate::source::{Hf, RopeQuery};
use crate::weights::{Naming, Part, Place, Weights};

/// Of the embedding's scale: the reference rounds it to bf16 where the embedding is stored so, readers of GGUF do not.
const SCALE_TOLERANCE: f32 = 1.0 / 256.0;
/// Of rotary frequencies: scaled ones go through a division and back.
const FREQUENCY_TOLERANCE: f32 = 1e-5;

/// A model whose GGUF file can be written.
pub struct Export<'a> {
    /// What the file says of the network.
    pub metadata: Metadata,
    /// Its tensors, the largest first.
    pub tensors: Vec<ExportTensor<'a>>,
}

/// A tensor of the file.
pub struct ExportTensor<'a> {
    /// Its name in GGUF.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub format: Format,
    values: Values<'a>,
}

enum Values<'a> {
    /// As in the source, of this name.
    Stored {
        view: TensorView<'a>,
        source: String,
    },
    /// Rows of heads of so many rows, to be put in the order that makes rotary pairs neighbours.
    Halves {
        view: TensorView<'a>,
        source: String,
        head_dim: usize,
    },
    Made(Vec<f32>),
}

impl<'a> Export<'a> {
    /// Reads headers, norms and biases.
    ///
    /// # Errors
    /// A GGUF file, a description that is not understood, and a network of which GGUF's metadata cannot tell all.
    pub fn of(checkpoint: &'a Checkpoint) -> Result<Export<'a>, ModelError> {
        let Description::HuggingFace(description) = checkpoint.description() else {
            return Err(ModelError::unsupported("source", "a GGUF file", "a directory of safetensors"));
        };
        let config = DecoderConfig::from_checkpoint(checkpoint)?;
        let hf = Hf::new(checkpoint, description);
        let mut export = Export { metadata: Metadata::default(), tensors: tensors(checkpoint, &config)? };
        describe(&config, &mut export.metadata)?;
        let head_dim = config.layers.first().map_or(0, |layer| layer.head_dim);
        let is_gemma = config.architecture == "gemma3";
        let default_theta = if is_gemma { 1_000_000.0 } else { RopeQuery::ONLY.default_theta };
        let query = RopeQuery { default_theta, ..RopeQuery::ONLY };
        export.describe_rope(&config, &hf.rope(query, head_dim, config.context_len)?)?;
        if is_gemma {
            let local = RopeQuery {
                layer_type: "sliding_attention",
                theta_key: "rope_local_base_freq",
                default_theta: 10_000.0,
                scaled: false,
            };
            let theta = hf.rope(local, head_dim, config.context_len)?.theta;
            export.metadata.insert("gemma3.rope.freq_base_swa", theta);
        }
        Ok(export)
    }

    /// Base and scaling of the rotary embedding.
    fn describe_rope(&mut self, config: &DecoderConfig, rope: &RopeSpec) -> Result<(), ModelError> {
        let arch = config.architecture;
        self.metadata.insert(format!("{arch}.rope.dimension_count"), rope.rotary_dim as u32);
        self.metadata.insert(format!("{arch}.rope.freq_base"), rope.theta);
        match &rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => {
                self.metadata.insert(format!("{arch}.rope.scaling.type"), "linear");
                self.metadata.insert(format!("{arch}.rope.scaling.factor"), *factor);
            }
            // Files carry what it comes to.
            RopeScaling::Llama3 { .. } if arch == "llama" => {
                let plain = RopeSpec { scaling: RopeScaling::None, ..rope.clone() }.rope()?;
                let scaled = rope.rope()?;
                let divisors = plain.inv_freq.iter().zip(&scaled.inv_freq).map(|(plain, scaled)| plain / scaled);
                self.tensors.push(ExportTensor::made("rope_freqs.weight".to_owned(), divisors.collect()));
            }
            other => {
                let found = format!("{other:?}").split(' ').next().unwrap_or_default().to_lowercase();
                let supported = "none and linear, for llama also llama3; others are served from the directory";
                return Err(ModelError::unsupported("rope scaling of a GGUF file", found, supported));
            }
        }
        Ok(())
    }
}

impl ExportTensor<'_> {
    fn made(name: String, values: Vec<f32>) -> Self {
        ExportTensor { name, shape: vec![values.len()], format: Format::F32, values: Values::Made(values) }
    }

    /// The values, in the file's order and the tensor's format.
    pub fn data(&self) -> Cow<'_, [u8]> {
        match &self.values {
            Values::Stored { view, .. } => Cow::Borrowed(view.data),
            Values::Halves { view, head_dim, .. } => Cow::Owned(pairs_together(view, *head_dim)),
            Values::Made(values) => Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        }
    }

    /// The tensor of the source whose pages it needs.
    pub fn source(&self) -> Option<&str> {
        match &self.values {
            Values::Stored { source, .. } | Values::Halves { source, .. } => Some(source),
            Values::Made(_) => None,
        }
    }
}

/// Rows of each head: `0, half, 1, half + 1, ...` of what they were.
fn pairs_together(view: &TensorView<'_>, head_dim: usize) -> Vec<u8> {
    let row_bytes = view.data.len() / view.rows;
    let row = |index: usize| &view.data[index * row_bytes..(index + 1) * row_bytes];
    in_pairs(view.rows, head_dim).flat_map(row).copied().collect()
}

/// Where each of `rows` rows comes from, in heads of `head_dim`.
fn in_pairs(rows: usize, head_dim: usize) -> impl Iterator<Item = usize> {
    (0..rows).map(move |to| {
        let (head, place) = (to / head_dim, to % head_dim);
        head * head_dim + place / 2 + place % 2 * (head_dim / 2)
    })
}

/// Every tensor.
fn tensors<'a>(checkpoint: &'a Checkpoint, config: &DecoderConfig) -> Result<Vec<ExportTensor<'a>>, ModelError> {
    // In GGUF files of llama rotary pairs are neighbours.
    let is_llama = config.architecture == "llama";
    let halves = |place: Place| is_llama && matches!(place.part, Part::Query | Part::Key);
    let weights = Weights::new(checkpoint, config);
    let mut found = Vec::new();
    for MatrixSpec { parts, cols, .. } in config.matrices() {
        for PartSpec { place, rows } in parts {
            weights.matrix(place, rows, cols)?;
            let (name, source) = (Naming::Gguf.name(place, "weight"), config.naming.name(place, "weight"));
            let view = checkpoint.tensor(&source).expect("it has the shape that was asked for").matrix()?;
            let values = match place.layer.map(|layer| config.layers[layer].head_dim).filter(|_| halves(place)) {
                Some(head_dim) => Values::Halves { view, source, head_dim },
                None => Values::Stored { view, source },
            };
            found.push(ExportTensor { name, shape: vec![rows, cols], format: view.format, values });
        }
    }
    let mut norm = |part, layer, len| {
        let place = Place { part, layer };
        found.push(ExportTensor::made(Naming::Gguf.name(place, "weight"), weights.norm(place, len)?));
        Ok::<_, ModelError>(())
    };
    norm(Part::FinalNorm, None, config.dim)?;
    for (index, layer) in config.layers.iter().enumerate() {
        let own: &[(Part, usize, bool)] = &[
            (Part::AttnNorm, config.dim, true),
            (Part::QueryNorm, layer.head_dim, layer.qk_norm),
            (Part::KeyNorm, layer.head_dim, layer.qk_norm),
            (Part::AttnPostNorm, config.dim, layer.post_norms),
            (Part::MlpNorm, config.dim, true),
            (Part::MlpPostNorm, config.dim, layer.post_norms),
        ];
        for &(part, len, _) in own.iter().filter(|(_, _, is_there)| *is_there) {
            norm(part, Some(index), len)?;
        }
    }
    for (index, layer) in config.layers.iter().enumerate() {
        let (queries, keys) = (layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim);
        let own: &[(Part, usize, bool)] = &[
            (Part::Query, queries, layer.qkv_bias),
            (Part::Key, keys, layer.qkv_bias),
            (Part::Value, keys, layer.qkv_bias),
            (Part::AttnOut, config.dim, layer.out_bias),
            (Part::Gate, layer.ffn, layer.mlp_bias),
            (Part::Up, layer.ffn, layer.mlp_bias),
            (Part::Down, config.dim, layer.mlp_bias),
        ];
        for &(part, len, _) in own.iter().filter(|(_, _, is_there)| *is_there) {
            let place = Place { part, layer: Some(index) };
            let mut values = weights.bias(place, len)?;
            if halves(place) {
                values = in_pairs(len, layer.head_dim).map(|from| values[from]).collect();
            }
            found.push(ExportTensor::made(Naming::Gguf.name(place, "bias"), values));
        }
    }
    weights.check_all_used()?;
    Ok(found)
}

/// What the metadata says of the network, but for its rotary embedding.
fn describe(config: &DecoderConfig, metadata: &mut Metadata) -> Result<(), ModelError> {
    let arch = config.architecture;
    let Some(first) = config.layers.first() else { return Err(ModelError::missing_key("num_hidden_layers")) };
    metadata.insert("general.architecture", arch);
    for (key, size) in [
        ("context_length", config.context_len),
        ("embedding_length", config.dim),
        ("block_count", config.layers.len()),
        ("feed_forward_length", first.ffn),
        ("attention.head_count", first.heads),
        ("attention.head_count_kv", first.kv_heads),
        ("attention.key_length", first.head_dim),
        ("attention.value_length", first.head_dim),
        ("vocab_size", config.vocab),
    ] {
        metadata.insert(format!("{arch}.{key}"), size as u32);
    }
    metadata.insert(format!("{arch}.attention.layer_norm_rms_epsilon"), config.norm_eps);
    let caps = [("final", config.logit_soft_cap), ("attn", first.attn_soft_cap)];
    for (what, cap) in caps.into_iter().filter_map(|(what, cap)| Some((what, cap?))) {
        metadata.insert(format!("{arch}.{what}_logit_softcapping"), cap);
    }
    let windows: Vec<Option<usize>> = config.layers.iter().map(|layer| layer.window).collect();
    let Some(window) = windows.iter().flatten().next() else { return Ok(()) };
    metadata.insert(format!("{arch}.attention.sliding_window"), *window as u32);
    let slides: Vec<bool> = windows.iter().map(Option::is_some).collect();
    match arch {
        "llama" if slides.iter().all(|slides| *slides) => Ok(()),
        // What every reader takes where nothing is said.
        "gemma3" if slides.iter().enumerate().all(|(layer, slides)| *slides != (layer + 1).is_multiple_of(6)) => Ok(()),
        "gemma3" => {
            metadata.insert("gemma3.attention.sliding_window_pattern", slides);
            Ok(())
        }
        _ => {
            let supported = "none, for llama in every layer; others are served from the directory";
            Err(ModelError::unsupported("sliding window of a GGUF file", window, supported))
        }
    }
}

impl DecoderConfig {
    /// Whether another description is of the same network: names, special tokens and the order of rotary pairs aside.
    pub fn is_network_of(&self, other: &DecoderConfig) -> bool {
        let plain = |config: &DecoderConfig| {
            let mut plain = config.clone();
            for rope in &mut plain.ropes {
                rope.style = RopeStyle::Halves;
                // Rounded on the way, and compared below.
                rope.inv_freq.clear();
            }
            DecoderConfig {
                norm_offset: 0.0,
                embed_scale: 0.0,
                bos_token: None,
                eos_tokens: Vec::new(),
                naming: Naming::Gguf,
                ..plain
            }
        };
        let near = |a: f32, b: f32, tolerance: f32| (a / b - 1.0).abs() <= tolerance;
        let frequencies = |config: &DecoderConfig| -> Vec<f32> {
            config.ropes.iter().flat_map(|rope| rope.inv_freq.clone()).collect()
        };
        let (ours, theirs) = (frequencies(self), frequencies(other));
        plain(self) == plain(other)
            && near(self.embed_scale, other.embed_scale, SCALE_TOLERANCE)
            && ours.len() == theirs.len()
            && ours.iter().zip(&theirs).all(|(a, b)| near(*a, *b, FREQUENCY_TOLERANCE))
    }
}
