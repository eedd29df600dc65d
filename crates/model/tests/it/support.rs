//! Where test data lies, and decoders over it.

use std::path::{Path, PathBuf};

use checkpoint::Checkpoint;
use model::{Decoder, DecoderConfig, LoadOptions, ModelError, Session, Wanted};
use serde_json::Value;
use tensor::{Backend, Format, Reference};

use crate::real::found;

/// Tiny random models with Hugging Face's logits, whose architectures we know.
pub(crate) const TINY: [&str; 6] = ["llama", "llama3-rope", "mistral-window", "qwen2", "qwen3", "gemma3"];

/// A folder of the shared test data, or `None` with a visible line.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("FRONTIER_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
    found(root.join("data").join(name))
}

/// A tiny model's oracle.
pub(crate) struct Tiny {
    pub(crate) name: &'static str,
    pub(crate) dir: PathBuf,
    pub(crate) input_ids: Vec<u32>,
    /// `[position][vocab]`.
    pub(crate) logits: Vec<Vec<f32>>,
    pub(crate) greedy_prompt_len: usize,
    pub(crate) greedy: Vec<u32>,
}

/// All tiny models, or none with a visible line.
pub(crate) fn tiny_models() -> Vec<Tiny> {
    TINY.iter().filter_map(|name| Some(Tiny::read(name, shared("tiny")?.join(name)))).collect()
}

impl Tiny {
    fn read(name: &'static str, dir: PathBuf) -> Tiny {
        let text = std::fs::read_to_string(dir.join("expected.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let ids = |value: &Value| -> Vec<u32> {
            value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let row = |row: &Value| row.as_array().unwrap().iter().map(|logit| logit.as_f64().unwrap() as f32).collect();
        Tiny {
            name,
            input_ids: ids(&json["input_ids"]),
            logits: json["logits"].as_array().unwrap().iter().map(row).collect(),
            greedy_prompt_len: json["greedy_prompt_len"].as_u64().unwrap() as usize,
            greedy: ids(&json["greedy"]),
            dir,
        }
    }

    /// The model as it came.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint::open(&self.dir).unwrap()
    }
}

pub(crate) fn decoder(checkpoint: &Checkpoint) -> Result<Decoder<Reference>, ModelError> {
    let config = DecoderConfig::from_checkpoint(checkpoint)?;
    let options = LoadOptions { max_rows: 64, max_seqs: 4, max_logit_rows: 64, max_context: Some(192) };
    Decoder::load(checkpoint, config, Reference::new(), &options, &mut |_| {})
}

/// The logits of every token, computed in steps of `chunk` tokens: `[position][vocab]`.
pub(crate) fn logits<B: Backend>(decoder: &mut Decoder<B>, tokens: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let mut session = Session::new(decoder, Format::F32, tokens.len()).unwrap();
    let mut rows = Vec::new();
    for tokens in tokens.chunks(chunk) {
        session.extend(tokens, Wanted::All, &mut |_, logits| rows.push(logits.to_vec())).unwrap();
    }
    rows
}

/// The `count` most likely tokens, one after another.
pub(crate) fn greedy<B: Backend>(decoder: &mut Decoder<B>, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut session = Session::new(decoder, Format::F32, prompt.len() + count).unwrap();
    let mut tokens = Vec::new();
    let mut next = 0;
    session.extend(prompt, Wanted::Last, &mut |_, logits| next = argmax(logits)).unwrap();
    for _ in 0..count {
        tokens.push(next);
        session.extend(&tokens[tokens.len() - 1..], Wanted::Last, &mut |_, logits| next = argmax(logits)).unwrap();
    }
    tokens
}

/// Writes a Hugging Face directory whose tensors hold small numbers, and opens it.
pub(crate) fn write_model(dir: &Path, config: &Value, tensors: &[(&str, Vec<usize>)]) -> Checkpoint {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape) in tensors {
        let start = data.len();
        for i in 0..shape.iter().product::<usize>() {
            data.extend((((i * 7 + start) % 13) as f32 / 13.0 - 0.4).to_le_bytes());
        }
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert((*name).into(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    std::fs::write(dir.join("model.safetensors"), file).unwrap();
    std::fs::write(dir.join("config.json"), serde_json::to_vec(config).unwrap()).unwrap();
    Checkpoint::open(dir).unwrap()
}

/// The greatest logit's token; the first of equals.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, token| if logits[token] > logits[best] { token } else { best }) as u32
}
