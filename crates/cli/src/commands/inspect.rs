//! `frontier inspect FILE`: what a model file holds and what it will need, without loading it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use checkpoint::Summary;
use model::{DecoderConfig, LayerConfig};
use serde::Serialize;
use tokenizer::{ChatTemplate, Tokenizer};

use crate::hub;
use crate::load;
use crate::memory::KvChoice;
use crate::numbers::of_model;
use crate::output::{human_bytes, print_json, print_text};
use crate::settings::Settings;

/// What `--context` may be.
const CONTEXT: &str = "allowed are integers from 1 to the model's context";

/// Show what a model file holds and the memory that it will need
#[derive(clap::Args, Debug)]
pub(crate) struct Inspect {
    /// Path or name of a model
    pub(super) model: String,
    /// Context length for which memory is predicted; the model's own when not given
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true, value_parser = of_model::<usize>(CONTEXT))]
    context: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything that is printed.
#[derive(Debug, Serialize)]
struct Report {
    path: PathBuf,
    #[serde(flatten)]
    summary: Summary,
    /// `None`, with the reason in `network_error`, where this program cannot run the network.
    network: Option<Network>,
    network_error: Option<String>,
    /// `None`, with the reason in `tokenizer_error`, where text cannot be turned into tokens.
    special_tokens: Option<SpecialTokens>,
    tokenizer_error: Option<String>,
    chat_template_error: Option<String>,
    memory: Option<Memory>,
}

/// What the summary does not tell of a network that can be run.
#[derive(Debug, Serialize)]
struct Network {
    vocabulary: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Layers that see a sliding window only.
    window_layers: usize,
    tied_embeddings: bool,
}

#[derive(Debug, Serialize)]
struct SpecialTokens {
    bos: Option<u32>,
    eos: Option<u32>,
    end_of_generation: Vec<u32>,
}

/// Predicted bytes for one sequence of `context` tokens.
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
        let mut summary = Summary::of(&checkpoint)?;
        let config = DecoderConfig::from_checkpoint(&checkpoint);
        if let Ok(config) = &config {
            // An architecture knows what its files leave out.
            summary.layers = Some(config.layers.len());
            summary.width = Some(config.dim);
            summary.context_tokens = Some(config.context_len);
        }
        let memory = self.memory(&summary, config.as_ref().ok(), settings)?;
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint);
        let template = match &tokenizer {
            Ok(tokenizer) => ChatTemplate::from_checkpoint(&checkpoint, tokenizer).map(drop),
            Err(_) => Ok(()),
        };
        Ok(Report {
            path,
            summary,
            network: config.as_ref().ok().map(network),
            network_error: config.err().map(|error| error.to_string()),
            special_tokens: tokenizer.as_ref().ok().map(special_tokens),
            tokenizer_error: tokenizer.err().map(|error| error.to_string()),
            chat_template_error: template.err().map(|error| error.to_string()),
            memory,
        })
    }

    /// Memory at the wanted context; for a network that cannot be run by its description alone.
    fn memory(&self, summary: &Summary, config: Option<&DecoderConfig>, settings: &Settings) -> Result<Option<Memory>> {
        let Some(longest) = summary.context_tokens.filter(|_| summary.tensors > 0) else { return Ok(None) };
        let context = self.context.unwrap_or(longest);
        if !(1..=longest).contains(&context) {
            bail!("--context {context}: the model sees at most {longest} tokens; allowed: 1 to {longest}");
        }
        let kv_bytes = match config {
            Some(config) => KvChoice::from_settings(settings).sequence_bytes(config, context),
            None => summary.kv_bytes_per_token.map(|token_bytes| token_bytes * context as u64),
        };
        let weight_bytes = summary.size_bytes;
        Ok(kv_bytes.map(|kv_bytes| Memory { context, weight_bytes, kv_bytes, total_bytes: weight_bytes + kv_bytes }))
    }
}

fn network(config: &DecoderConfig) -> Network {
    let first = config.layers.first();
    let of_first = |read: fn(&LayerConfig) -> usize| first.map(read).unwrap_or_default();
    Network {
        vocabulary: config.vocab,
        heads: of_first(|layer| layer.heads),
        kv_heads: of_first(|layer| layer.kv_heads),
        head_dim: of_first(|layer| layer.head_dim),
        window_layers: config.layers.iter().filter(|layer| layer.window.is_some()).count(),
        tied_embeddings: config.tied,
    }
}

fn special_tokens(tokenizer: &Tokenizer) -> SpecialTokens {
    SpecialTokens {
        bos: tokenizer.bos(),
        eos: tokenizer.eos(),
        end_of_generation: tokenizer.end_of_generation().to_vec(),
    }
}

impl Report {
    fn text(&self) -> String {
        let summary = &self.summary;
        let mut lines: Vec<(&str, String)> = vec![
            ("file", self.path.display().to_string()),
            ("kind", summary.container.to_owned()),
            ("architecture", summary.architecture.clone().unwrap_or_else(|| NOT_TOLD.to_owned())),
            ("name", summary.name.clone().unwrap_or_else(|| NOT_TOLD.to_owned())),
            ("parameters", format!("{:.1} M in {} tensors", summary.parameters as f64 / 1e6, summary.tensors)),
            ("weights", human_bytes(summary.size_bytes)),
        ];
        for share in &summary.formats {
            let size = human_bytes(share.size_bytes);
            lines.push(("", format!("{:8} {:>4} tensors  {size:>9}", share.format, share.tensors)));
        }
        lines.push(("layers", told(summary.layers, "")));
        lines.push(("width", told(summary.width, "")));
        lines.push(("context", told(summary.context_tokens, " tokens")));
        lines.extend(self.network_lines());
        lines.push(("tokenizer", self.tokenizer_text()));
        lines.push(("template", self.template_text().to_owned()));
        lines.push(("memory", self.memory_text()));
        lines.iter().map(|(name, value)| format!("{name:13} {}\n", on_one_line(value))).collect()
    }

    fn network_lines(&self) -> Vec<(&'static str, String)> {
        let Some(network) = &self.network else {
            return vec![("network", format!("cannot be run: {}", self.network_error.as_deref().unwrap_or_default()))];
        };
        let Network { vocabulary, heads, kv_heads, head_dim, window_layers, tied_embeddings } = network;
        let head = if *tied_embeddings { "the embedding is the output head" } else { "with an output head" };
        let heads = format!("{heads} for queries, {kv_heads} for keys and values, {head_dim} wide");
        vec![
            ("heads", heads),
            ("window", format!("{window_layers} layers see a sliding window only")),
            ("vocabulary", format!("{vocabulary} rows, {head}")),
        ]
    }

    fn tokenizer_text(&self) -> String {
        match (&self.summary.tokenizer, &self.special_tokens, &self.tokenizer_error) {
            (Some(tokenizer), Some(special), _) => {
                let tokens = told(tokenizer.vocabulary_tokens, " tokens");
                format!("{}, {tokens}, an answer ends at {:?}", tokenizer.kind, special.end_of_generation)
            }
            (_, _, error) => format!("none: {}", error.as_deref().unwrap_or("the model brings none")),
        }
    }

    fn template_text(&self) -> &str {
        match (self.summary.chat_template, &self.chat_template_error) {
            (_, Some(error)) => error,
            (true, None) => "yes",
            (false, None) => "none",
        }
    }

    fn memory_text(&self) -> String {
        let Some(memory) = &self.memory else {
            return "not predictable: the file does not tell its sizes, or holds no weights".to_owned();
        };
        let [weights, kv, total] = [memory.weight_bytes, memory.kv_bytes, memory.total_bytes].map(human_bytes);
        let most = if self.network.is_some() { "" } else { "at most " };
        format!("{most}{total} at a context of {} tokens: {weights} of weights, {kv} of KV cache", memory.context)
    }
}

const NOT_TOLD: &str = "not told";

fn told(size: Option<usize>, unit: &str) -> String {
    size.map_or_else(|| NOT_TOLD.to_owned(), |size| format!("{size}{unit}"))
}

/// Texts from a file may hold anything, also what steers a terminal.
fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}
