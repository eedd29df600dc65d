//! Real models on the CPU's kernels against llama.cpp on the same weights: `tests/data/*.json`, made by
//! `scripts/testing/llama-cpp-oracle.py`, and those of crate `model`.
//!
//! On the files as they are both programs round activations to 8 bits, each in its own way. Written out as F32 by
//! `frontier quantize` here and by `llama-quantize` there, the same weights are multiplied without rounding by both:
//! what differs then would be wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::Checkpoint;
use cpu::{CpuBackend, Pool, PoolConfig};
use model::{Decoder, DecoderConfig, LoadOptions, PerplexityOptions, Session, Wanted, perplexity};
use serde_json::Value;
use tensor::Format;
use tokenizer::{ControlTokens, Tokenizer};

use crate::models::{gemma3, smollm2};

/// Where our choice differs, llama.cpp's first two logits are no further apart than this: the widest is 0.361
/// (docs/exactness.md). Rounding activations to 8 bits moves its own single logits by up to 1.3.
const ROUNDING_GAP: f64 = 0.4;

/// Of perplexities, where both programs round. llama.cpp's rounding alone moves Gemma's by 0.69 %.
const ROUNDED_PERPLEXITY: [(&str, f64); 2] = [("smollm2-135m-q4_1.json", 0.003), ("gemma3-270m-q4_k_m.json", 0.005)];

/// Tokens that may differ, of the 160 of a model: those that are tried here differ at 5 and at 6 (docs/exactness.md).
const MOST_DIFFERENT: usize = 8;

/// Of perplexities, where neither program rounds.
const EXACT_PERPLEXITY: f64 = 0.003;

/// Of llama.cpp's first two logits, where neither program rounds: closer than this they may change places.
const EXACT_GAP: f64 = 0.05;

#[test]
fn smollm2_predicts_as_llama_cpp() {
    check_file(smollm2(), "smollm2-135m-q4_1.json");
}

#[test]
fn gemma3_predicts_as_llama_cpp() {
    check_file(gemma3(), "gemma3-270m-q4_k_m.json");
}

#[test]
fn smollm2_predicts_as_llama_cpp_without_rounding() {
    check_f32(smollm2(), "smollm2-135m-q4_1.json");
}

#[test]
fn gemma3_predicts_as_llama_cpp_without_rounding() {
    check_f32(gemma3(), "gemma3-270m-q4_k_m.json");
}

fn check_file(model: Option<PathBuf>, name: &str) {
    let Some(path) = model else { return };
    let oracle = read("../cli", name);
    let (mut decoder, tokenizer) = load(&path, &oracle);
    let tolerance = ROUNDED_PERPLEXITY.into_iter().find(|(of, _)| *of == name).map(|(_, tolerance)| tolerance);
    check_rounded_perplexity(&mut decoder, &tokenizer, &oracle, tolerance.unwrap());
    let prompts = oracle["prompts"].as_array().unwrap();
    let check = |prompt| check_prompt(&mut decoder, &tokenizer, prompt, Format::F16, ROUNDING_GAP);
    let different: usize = prompts.iter().map(check).sum();
    assert!(different <= MOST_DIFFERENT, "{different} tokens differ from llama.cpp's");
}

fn check_f32(model: Option<PathBuf>, name: &str) {
    let Some(path) = model else { return };
    let dir = tempfile::tempdir().unwrap();
    let widened = dir.path().join("f32.gguf");
    let args = [Path::new("quantize"), &path, &widened, Path::new("--to"), Path::new("f32")];
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_frontier")).args(args).status().unwrap();
    assert!(status.success(), "{status}");
    let oracle = read("../cli", name);
    let (mut decoder, tokenizer) = load(&widened, &oracle);
    let got = perplexity_of_text(&mut decoder, &tokenizer, &oracle);
    let exact = oracle["exact_perplexity"].as_f64().unwrap();
    println!("perplexity {got:.4}; llama.cpp {exact:.4} ({:+.4} %)", 100.0 * (got / exact - 1.0));
    assert!((got / exact - 1.0).abs() <= EXACT_PERPLEXITY, "perplexity {got}, llama.cpp {exact}");
    for prompt in read("../model", name).as_array().unwrap() {
        check_prompt(&mut decoder, &tokenizer, prompt, Format::F32, EXACT_GAP);
    }
}

/// What llama.cpp computed, among the data of a crate's tests.
fn read(of: &str, name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(of).join("tests/data").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn load(path: &Path, oracle: &Value) -> (Decoder<CpuBackend>, Tokenizer) {
    let checkpoint = Checkpoint::open(path).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let context = oracle["window"].as_u64().unwrap() as usize;
    let config = DecoderConfig::from_checkpoint(&checkpoint).unwrap();
    let pool = Arc::new(Pool::new(&PoolConfig::default()).unwrap());
    let options = LoadOptions { max_rows: context, max_logit_rows: context, max_seqs: 1, max_context: Some(context) };
    let backend = CpuBackend::new(pool);
    (Decoder::load(&checkpoint, config, backend, &options, &mut |_| {}).unwrap(), tokenizer)
}

fn perplexity_of_text(decoder: &mut Decoder<CpuBackend>, tokenizer: &Tokenizer, oracle: &Value) -> f64 {
    let text = include_str!("../data/perplexity.txt");
    let tokens = tokenizer.encode_completion(text, ControlTokens::PlainText).unwrap();
    assert!(tokens.len() >= 2_000, "{} tokens", tokens.len());
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let context = oracle["window"].as_u64().unwrap() as usize;
    let options = PerplexityOptions { context, bos, kv_format: Format::F16 };
    perplexity(decoder, &tokens, &options, &mut |_| {}).unwrap().perplexity
}

/// Rounding activations loses a little; we may lose no more than llama.cpp does, measured from its exact result (the
/// same weights written out as F32).
fn check_rounded_perplexity(decoder: &mut Decoder<CpuBackend>, tokenizer: &Tokenizer, oracle: &Value, tolerance: f64) {
    let got = perplexity_of_text(decoder, tokenizer, oracle);
    let [theirs, exact] = ["perplexity", "exact_perplexity"].map(|key| oracle[key].as_f64().unwrap());
    println!(
        "perplexity {got:.4}; llama.cpp {theirs:.4} ({:+.2} %), exact {exact:.4} ({:+.2} %)",
        100.0 * (got / theirs - 1.0),
        100.0 * (got / exact - 1.0),
    );
    assert!((got - exact).abs() <= (theirs - exact).abs(), "perplexity {got}, llama.cpp {theirs}, exact {exact}");
    assert!((got / theirs - 1.0).abs() <= tolerance, "perplexity {got}, llama.cpp {theirs}");
}

/// Our logits after each of a prompt's ids, the last one on, and llama.cpp's 32 tokens.
fn logits_along(decoder: &mut Decoder<CpuBackend>, prompt: &Value, kv_format: Format) -> Vec<Vec<f32>> {
    let (start, greedy) = (ids(prompt, "ids"), ids(prompt, "greedy"));
    let tokens: Vec<u32> = start.iter().chain(&greedy[..greedy.len() - 1]).copied().collect();
    let mut all = Vec::new();
    let mut session = Session::new(decoder, kv_format, tokens.len()).unwrap();
    let wanted = Wanted::Range(start.len() - 1..tokens.len());
    session.extend(&tokens, wanted, &mut |_, logits| all.push(logits.to_vec())).unwrap();
    all
}

fn ids(prompt: &Value, key: &str) -> Vec<u32> {
    prompt[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Compares our choice after each of llama.cpp's 32 tokens with its own. They may differ where its two best are within
/// `most`. Returns how many do.
fn check_prompt(
    decoder: &mut Decoder<CpuBackend>,
    tokenizer: &Tokenizer,
    prompt: &Value,
    kv_format: Format,
    most: f64,
) -> usize {
    let (text, start, greedy) = (prompt["prompt"].as_str().unwrap(), ids(prompt, "ids"), ids(prompt, "greedy"));
    assert_eq!(tokenizer.encode_completion(text, ControlTokens::PlainText).unwrap(), start, "{text:?}");
    let choices: Vec<u32> = logits_along(decoder, prompt, kv_format).iter().map(|logits| likeliest(logits)).collect();
    let differ = choices.iter().zip(&greedy).enumerate().filter(|(_, (ours, theirs))| ours != theirs);
    let differ: Vec<usize> = differ.map(|(step, _)| step).collect();
    println!("{text:?}: {} of {} tokens equal", greedy.len() - differ.len(), greedy.len());
    for &step in &differ {
        let logit = |place: usize| prompt["top"][step][place][1].as_f64().unwrap();
        let gap = logit(0) - logit(1);
        let shown = |id: u32| tokenizer.decode(&[id]);
        println!(
            "  token {step}: {:?}, llama.cpp {:?}; its gap is {gap:.4}",
            shown(choices[step]),
            shown(greedy[step])
        );
        assert!(gap <= most, "{text:?}, token {step}: llama.cpp is sure by {gap}");
    }
    differ.len()
}

fn likeliest(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best }) as u32
}
