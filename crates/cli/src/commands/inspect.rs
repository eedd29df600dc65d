//! `frontier inspect FILE`: what a model file holds, without loading it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use checkpoint::{Checkpoint, Description};
use model::DecoderConfig;
use serde::Serialize;
use tokenizer::{ChatTemplate, Tokenizer};

use crate::hub;
use crate::load;
use crate::memory::kv_bytes;
use crate::output::{human_bytes, print_json, print_text};
use crate::settings::Settings;

/// Show what a model file holds
#[derive(clap::Args, Debug)]
pub(crate) struct Inspect {
    /// Path or name of a model
    pub(super) model: String,
    /// Context length for which memory is predicted; the model's own when not given
    #[arg(long, value_name = "TOKENS")]
    tokens: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything that is printed.
#[derive(Debug, Serialize)]
struct Report {
    path: PathBuf,
    kind: &'static str,
    architecture: Option<String>,
    parameters: u64,
    tensors: usize,
    weight_bytes: u64,
    /// By format name.
    formats: BTreeMap<&'static str, FormatSum>,
    /// `None` with the reason in `network_error` where this program cannot run the network.
    network: Option<Network>,
    network_error: Option<String>,
    tokenizer: Option<Vocabulary>,
    tokenizer_error: Option<String>,
    chat_template: bool,
    chat_template_error: Option<String>,
    memory: Option<Memory>,
}

#[derive(Debug, Default, Serialize)]
struct FormatSum {
    tensors: usize,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Network {
    layers: usize,
    width: usize,
    vocabulary: usize,
    context: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Layers that see a sliding window only.
    window_layers: usize,
    tied_embeddings: bool,
}

#[derive(Debug, Serialize)]
struct Vocabulary {
    tokens: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    end_of_generation: Vec<u32>,
}

/// Predicted bytes for one request of `context` tokens.
#[derive(Debug, Serialize)]
struct Memory {
    context: usize,
    weight_bytes: u64,
    kv_bytes: u64,
    total_bytes: u64,
}

impl Inspect {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let path = hub::resolve(Some(&self.model), settings)?.path;
        let report = self.report(path, settings)?;
        if self.json { print_json(&report) } else { print_text(&report.text()) }
    }

    fn report(&self, path: PathBuf, settings: &Settings) -> Result<Report> {
        let checkpoint = load::open_path(&path)?;
        let mut formats: BTreeMap<&'static str, FormatSum> = BTreeMap::new();
        let (mut parameters, mut weight_bytes) = (0, 0);
        for tensor in checkpoint.tensors() {
            let sum = formats.entry(tensor.format.name()).or_default();
            sum.tensors += 1;
            sum.bytes += tensor.data.len() as u64;
            weight_bytes += tensor.data.len() as u64;
            parameters += tensor.value_count() as u64;
        }
        let config = DecoderConfig::from_checkpoint(&checkpoint);
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint);
        let template = match &tokenizer {
            Ok(tokenizer) => ChatTemplate::from_checkpoint(&checkpoint, tokenizer),
            Err(_) => Ok(None),
        };
        let memory = config.as_ref().ok().and_then(|config| {
            let context = self.tokens.unwrap_or(config.context_len());
            let kv_bytes = kv_bytes(config, context, load::kv_formats(settings))?;
            Some(Memory { context, weight_bytes, kv_bytes, total_bytes: weight_bytes + kv_bytes })
        });
        let (kind, architecture) = describe(&checkpoint);
        Ok(Report {
            kind,
            architecture,
            parameters,
            tensors: checkpoint.tensors().len(),
            weight_bytes,
            formats,
            network: config.as_ref().ok().map(network),
            network_error: config.err().map(|error| error.to_string()),
            tokenizer: tokenizer.as_ref().ok().map(vocabulary),
            tokenizer_error: tokenizer.err().map(|error| error.to_string()),
            chat_template: matches!(template, Ok(Some(_))),
            chat_template_error: template.err().map(|error| error.to_string()),
            memory,
            path,
        })
    }
}

fn describe(checkpoint: &Checkpoint) -> (&'static str, Option<String>) {
    match checkpoint.description() {
        Description::Gguf(metadata) => ("GGUF", metadata.str("general.architecture").ok().flatten().map(str::to_owned)),
        Description::HuggingFace(config) => ("safetensors", config.str("model_type").ok().flatten().map(str::to_owned)),
    }
}

fn network(config: &DecoderConfig) -> Network {
    let first = config.layers.first();
    let of_first = |read: fn(&model::LayerConfig) -> usize| first.map(read).unwrap_or_default();
    Network {
        layers: config.layers.len(),
        width: config.dim,
        vocabulary: config.vocab(),
        context: config.context_len(),
        heads: of_first(|layer| layer.heads),
        kv_heads: of_first(|layer| layer.kv_heads),
        head_dim: of_first(|layer| layer.head_dim),
        window_layers: config.layers.iter().filter(|layer| layer.window.is_some()).count(),
        tied_embeddings: config.tied,
    }
}

fn vocabulary(tokenizer: &Tokenizer) -> Vocabulary {
    Vocabulary {
        tokens: tokenizer.vocab_len(),
        bos: tokenizer.bos(),
        eos: tokenizer.eos(),
        end_of_generation: tokenizer.end_of_generation().to_vec(),
    }
}

impl Report {
    fn text(&self) -> String {
        let mut lines: Vec<(&str, String)> = vec![
            ("file", self.path.display().to_string()),
            ("kind", self.kind.to_owned()),
            ("architecture", self.architecture.clone().unwrap_or_else(|| "not told".to_owned())),
            ("parameters", format!("{:.1} M in {} tensors", self.parameters as f64 / 1e6, self.tensors)),
            ("weights", human_bytes(self.weight_bytes)),
        ];
        for (name, sum) in &self.formats {
            lines.push(("", format!("{name:8} {:>4} tensors  {:>9}", sum.tensors, human_bytes(sum.bytes))));
        }
        match (&self.network, &self.network_error) {
            (Some(network), _) => {
                let Network { layers, width, vocabulary, context, heads, kv_heads, head_dim, .. } = network;
                lines.push(("layers", format!("{layers} of width {width}, {} with a window", network.window_layers)));
                lines.push(("heads", format!("{heads} for queries, {kv_heads} for keys and values, {head_dim} wide")));
                lines.push(("vocabulary", vocabulary.to_string()));
                lines.push(("context", format!("{context} tokens")));
            }
            (None, error) => lines.push(("network", format!("cannot run: {}", error.as_deref().unwrap_or_default()))),
        }
        lines.push((
            "tokenizer",
            match (&self.tokenizer, &self.tokenizer_error) {
                (Some(tokenizer), _) => {
                    format!("{} tokens, ends at {:?}", tokenizer.tokens, tokenizer.end_of_generation)
                }
                (None, error) => format!("none: {}", error.as_deref().unwrap_or_default()),
            },
        ));
        lines.push((
            "template",
            match (self.chat_template, &self.chat_template_error) {
                (true, _) => "yes".to_owned(),
                (false, Some(error)) => format!("unusable: {error}"),
                (false, None) => "none".to_owned(),
            },
        ));
        if let Some(memory) = &self.memory {
            let [weights, kv, total] = [memory.weight_bytes, memory.kv_bytes, memory.total_bytes].map(human_bytes);
            lines.push(("memory", format!("{weights} weights + {kv} KV at {} tokens = {total}", memory.context)));
        }
        lines.iter().map(|(name, value)| format!("{name:13} {value}\n")).collect()
    }
}
