//! Networks of well-known shapes with random weights: speed can be judged before a download, and without a file.
//!
//! Values are valid in their formats and of a usual size, but they mean nothing; tensors of one format share their
//! bytes, so that a model takes memory only where a backend prepares it. There is no tokenizer.

use checkpoint::gguf::TensorHeader;
use checkpoint::{Checkpoint, Metadata};
use tensor::conformance::random_values;
use tensor::{Format, ModelFacts, Recipe, TensorKind, TensorPlace};

use crate::error::ModelError;
use crate::weights::{Naming, Part, Place};

/// Tokens in every synthetic vocabulary: that of SmolLM2.
const VOCAB: usize = 49_152;

/// Most tokens in a sequence.
const CONTEXT: usize = 32_768;

/// Root mean square of the weights.
const RMS: f32 = 0.02;

/// Values that are really random; they repeat after that.
const RANDOM_VALUES: usize = 1 << 20;

/// The sizes of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Shape {
    pub name: &'static str,
    pub layers: usize,
    pub dim: usize,
    pub ffn: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// The formats of a network's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// A mix, e.g. `q4_k_m`.
    Recipe(Recipe),
    /// One format for all, e.g. `iq4_nl`.
    Format(Format),
}

impl Shape {
    /// Every shape.
    pub const ALL: [Shape; 5] = [
        Shape { name: "llama-160m", layers: 12, dim: 768, ffn: 2048, heads: 12, kv_heads: 4, head_dim: 64 },
        Shape { name: "llama-1b", layers: 16, dim: 2048, ffn: 8192, heads: 32, kv_heads: 8, head_dim: 64 },
        Shape { name: "llama-3b", layers: 28, dim: 3072, ffn: 8192, heads: 24, kv_heads: 8, head_dim: 128 },
        Shape { name: "mistral-7b", layers: 32, dim: 4096, ffn: 14_336, heads: 32, kv_heads: 8, head_dim: 128 },
        // As many layers as that, and hardly any work in them: what a step costs beside its work.
        Shape { name: "narrow", layers: 32, dim: 256, ffn: 512, heads: 4, kv_heads: 2, head_dim: 64 },
    ];

    /// The shape of this name.
    pub fn from_name(name: &str) -> Option<Shape> {
        Shape::ALL.into_iter().find(|shape| shape.name == name)
    }

    /// Bytes of all weights, before any are made.
    pub fn weight_bytes(&self, quant: Quant) -> u64 {
        let bytes = |tensor: &TensorHeader| {
            let (cols, outer) = tensor.shape.split_last().expect("every tensor has a shape");
            let row_bytes = tensor.format.row_bytes(*cols).expect("whole blocks were chosen");
            row_bytes as u64 * outer.iter().product::<usize>() as u64
        };
        self.tensors(quant).iter().map(bytes).sum()
    }

    /// The network as a checkpoint in memory.
    ///
    /// # Errors
    /// Too little memory.
    pub fn checkpoint(&self, quant: Quant) -> Result<Checkpoint, ModelError> {
        let name = format!("{} {}", self.name, quant.name());
        Ok(Checkpoint::in_memory(&name, self.metadata(), &self.tensors(quant), &mut fill)?)
    }

    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::default();
        metadata.insert("general.architecture", "llama");
        metadata.insert("general.name", self.name);
        for (key, value) in [
            ("context_length", CONTEXT),
            ("embedding_length", self.dim),
            ("block_count", self.layers),
            ("feed_forward_length", self.ffn),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
        ] {
            metadata.insert(format!("llama.{key}"), value as u32);
        }
        metadata.insert("llama.rope.freq_base", 1e6f32);
        metadata.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        metadata
    }

    fn tensors(&self, quant: Quant) -> Vec<TensorHeader> {
        let (q_len, kv_len) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut tensors = vec![
            self.matrix(quant, Part::Embedding, None, VOCAB, self.dim),
            self.norm(Part::FinalNorm, None),
            self.matrix(quant, Part::Head, None, VOCAB, self.dim),
        ];
        for layer in (0..self.layers).map(Some) {
            tensors.extend([
                self.norm(Part::AttnNorm, layer),
                self.matrix(quant, Part::Query, layer, q_len, self.dim),
                self.matrix(quant, Part::Key, layer, kv_len, self.dim),
                self.matrix(quant, Part::Value, layer, kv_len, self.dim),
                self.matrix(quant, Part::AttnOut, layer, self.dim, q_len),
                self.norm(Part::MlpNorm, layer),
                self.matrix(quant, Part::Gate, layer, self.ffn, self.dim),
                self.matrix(quant, Part::Up, layer, self.ffn, self.dim),
                self.matrix(quant, Part::Down, layer, self.dim, self.ffn),
            ]);
        }
        tensors
    }

    fn matrix(&self, quant: Quant, part: Part, layer: Option<usize>, rows: usize, cols: usize) -> TensorHeader {
        let name = Naming::Gguf.name(Place { part, layer }, "weight");
        let format = match quant {
            Quant::Recipe(recipe) => {
                let (kind, layer) = TensorKind::from_gguf_name(&name).expect("matrices of layers have a kind");
                recipe.format(TensorPlace { kind, layer, cols }, &self.facts())
            }
            Quant::Format(format) => format,
        };
        TensorHeader { name, shape: vec![rows, cols], format }
    }

    fn norm(&self, part: Part, layer: Option<usize>) -> TensorHeader {
        let name = Naming::Gguf.name(Place { part, layer }, "weight");
        TensorHeader { name, shape: vec![self.dim], format: Format::F32 }
    }

    fn facts(&self) -> ModelFacts {
        let Shape { layers, heads, kv_heads, .. } = *self;
        ModelFacts { layers, heads, kv_heads, experts: 0, tied_embedding: false, importance: false }
    }
}

impl Quant {
    /// Every name, mixes first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let recipes = Recipe::ALL.map(Recipe::name);
        recipes.into_iter().chain(Format::ALL.map(Format::name).into_iter().filter(move |name| !recipes.contains(name)))
    }

    /// The mix or format of this name, in any case.
    pub fn from_name(name: &str) -> Option<Quant> {
        Recipe::from_name(name).map(Quant::Recipe).or_else(|| Format::from_name(name).map(Quant::Format))
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Quant::Recipe(recipe) => recipe.name(),
            Quant::Format(format) => format.name(),
        }
    }
}

/// Random values, the same ones over and over.
fn fill(format: Format, bytes: &mut [u8]) {
    let some = random_values(format, RANDOM_VALUES, RMS, 1);
    for piece in bytes.chunks_mut(some.len()) {
        piece.copy_from_slice(&some[..piece.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DecoderConfig;

    #[test]
    fn every_shape_is_a_valid_network_of_its_size() {
        let quant = Quant::from_name("Q4_K_M").expect("a mix");
        for (shape, megabytes) in Shape::ALL.into_iter().zip([95.0, 700.0, 1_870.0, 4_350.0, 28.8]) {
            let bytes = shape.weight_bytes(quant) as f64;
            assert!((bytes / 1e6 / megabytes - 1.0).abs() < 0.1, "{}: {bytes} bytes", shape.name);
        }
        let shape = Shape::from_name("llama-160m").expect("a shape");
        let checkpoint = shape.checkpoint(quant).expect("whole blocks");
        let config = DecoderConfig::from_checkpoint(&checkpoint).expect("a description");
        assert_eq!((config.layers.len(), config.dim, config.vocab, config.tied), (12, 768, VOCAB, false));
        let bytes: u64 = checkpoint.tensors().map(|tensor| tensor.data.len() as u64).sum();
        assert_eq!(bytes, shape.weight_bytes(quant));
    }

    #[test]
    fn names_of_quants_are_read_back() {
        for name in Quant::names() {
            assert_eq!(Quant::from_name(name).map(Quant::name), Some(name));
        }
        assert_eq!(Quant::from_name("q9_k"), None);
    }
}
