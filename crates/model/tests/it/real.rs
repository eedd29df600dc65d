//! The two real models and llama.cpp's choices along their prompts: what more than one test program needs.

use std::path::{Path, PathBuf};

use checkpoint::Checkpoint;
use model::{Decoder, DecoderConfig, LoadOptions, Session, Wanted};
use serde_json::Value;
use tensor::{Backend, Format};

/// A real model and the prompts that llama.cpp continued with it.
pub(crate) struct Real {
    model: &'static str,
    oracle: &'static str,
}

pub(crate) const SMOLLM2: Real = Real { model: "SmolLM2-135M-Instruct.Q4_1.gguf", oracle: "smollm2-135m-q4_1.json" };

pub(crate) const GEMMA3: Real = Real { model: "gemma-3-270m-q4_k_m.gguf", oracle: "gemma3-270m-q4_k_m.json" };

impl Real {
    /// The model's file, or `None` with a visible line.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        let dir = std::env::var_os("FRONTIER_MODELS").map(PathBuf::from).unwrap_or_else(|| {
            Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/frontier/test-models")
        });
        found(dir.join(self.model))
    }

    /// Token ids (`ids`), llama.cpp's choices (`greedy`) and its greatest logits (`top`) of each prompt.
    pub(crate) fn prompts(&self) -> Vec<Value> {
        let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(self.oracle);
        serde_json::from_slice(&std::fs::read(oracle).unwrap()).unwrap()
    }
}

/// The path if something is there, or `None` with a visible line.
pub(crate) fn found(path: PathBuf) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

/// A decoder with room for each of the prompts.
pub(crate) fn load<B: Backend>(path: &Path, backend: B) -> Decoder<B> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let config = DecoderConfig::from_checkpoint(&checkpoint).unwrap();
    let options = LoadOptions { max_context: Some(128), ..LoadOptions::default() };
    Decoder::load(&checkpoint, config, backend, &options, &mut |_| {}).unwrap()
}

/// Our logits after a prompt's last id and after each of llama.cpp's choices but the last: we follow its tokens.
pub(crate) fn logits_along<B: Backend>(decoder: &mut Decoder<B>, prompt: &Value, kv_format: Format) -> Vec<Vec<f32>> {
    let ids = |key: &str| -> Vec<u32> {
        prompt[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let (start, greedy) = (ids("ids"), ids("greedy"));
    let tokens: Vec<u32> = start.iter().chain(&greedy[..greedy.len() - 1]).copied().collect();
    let mut rows = Vec::new();
    let mut session = Session::new(decoder, kv_format, tokens.len()).unwrap();
    let wanted = Wanted::Range(start.len() - 1..tokens.len());
    session.extend(&tokens, wanted, &mut |_, logits| rows.push(logits.to_vec())).unwrap();
    assert_eq!(rows.len(), greedy.len());
    rows
}
