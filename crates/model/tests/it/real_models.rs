//! Real models on the reference backend against llama.cpp: the tokens that it chooses, and its greatest logits.
//!
//! The oracle is llama.cpp computing in f32 throughout on the same weights (see `tests/data/README.md`). We follow its
//! tokens, so that one near tie does not hide the rest.

use std::path::{Path, PathBuf};

use checkpoint::Checkpoint;
use model::{Decoder, DecoderConfig, LoadOptions, Session, Wanted};
use serde_json::Value;
use tensor::{Format, Reference};

use crate::support::found;

/// Two f32 implementations of 30 layers, logits up to 35.
const LOGIT_TOLERANCE: f32 = 2e-3;

/// The same, where llama.cpp looks GELU up in a table of f16, which alone moves a logit by 3e-3 at the first token.
const LOGIT_TOLERANCE_GELU: f32 = 2e-2;

#[test]
fn smollm2_follows_llama_cpp() {
    check("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-q4_1.json", LOGIT_TOLERANCE);
}

#[test]
fn gemma3_follows_llama_cpp() {
    check("gemma-3-270m-q4_k_m.gguf", "gemma3-270m-q4_k_m.json", LOGIT_TOLERANCE_GELU);
}

fn check(model: &str, oracle: &str, tolerance: f32) {
    let Some(path) = real_model(model) else { return };
    let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(oracle);
    let prompts: Vec<Value> = serde_json::from_slice(&std::fs::read(oracle).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let config = DecoderConfig::from_checkpoint(&checkpoint).unwrap();
    let options = LoadOptions { max_context: Some(128), ..LoadOptions::default() };
    let mut decoder = Decoder::load(&checkpoint, config, Reference::new(), &options, &mut |_| {}).unwrap();
    drop(checkpoint);
    for prompt in &prompts {
        check_prompt(&mut decoder, prompt, tolerance);
    }
}

fn check_prompt(decoder: &mut Decoder<Reference>, prompt: &Value, tolerance: f32) {
    let ids = |key: &str| -> Vec<u32> {
        prompt[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let (start, greedy) = (ids("ids"), ids("greedy"));
    let tokens: Vec<u32> = start.iter().chain(&greedy[..greedy.len() - 1]).copied().collect();
    let mut rows = Vec::new();
    let mut session = Session::new(decoder, Format::F32, tokens.len()).unwrap();
    let wanted = Wanted::Range(start.len() - 1..tokens.len());
    session.extend(&tokens, wanted, &mut |_, logits| rows.push(logits.to_vec())).unwrap();
    assert_eq!(rows.len(), greedy.len());
    let mut worst = 0.0f32;
    for (step, ours) in rows.iter().enumerate() {
        let top: Vec<(usize, f32)> = prompt["top"][step].as_array().unwrap().iter().map(candidate).collect();
        let best = (0..ours.len()).fold(0, |best, token| if ours[token] > ours[best] { token } else { best });
        if best != top[0].0 {
            let gap = top.iter().find(|(token, _)| *token == best).map_or(f32::INFINITY, |(_, logit)| top[0].1 - logit);
            assert!(gap <= 2.0 * tolerance, "{}: step {step}: {best} instead of {top:?}", prompt["prompt"]);
        }
        worst = top.iter().map(|&(token, logit)| (ours[token] - logit).abs()).fold(worst, f32::max);
    }
    println!("{}: greatest difference of llama.cpp's greatest logits: {worst:.1e}", prompt["prompt"]);
    assert!(worst <= tolerance, "{}: {worst}", prompt["prompt"]);
}

fn candidate(pair: &Value) -> (usize, f32) {
    (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap() as f32)
}

/// A real model, or `None` with a visible line.
fn real_model(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("FRONTIER_MODELS").map(PathBuf::from).unwrap_or_else(|| {
        Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/frontier/test-models")
    });
    found(dir.join(name))
}
