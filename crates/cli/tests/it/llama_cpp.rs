//! Real models on the CPU's kernels against llama.cpp on the same files: `tests/data/*.json`, made by
//! `scripts/testing/llama-cpp-oracle.py`. Crate `model` compares exact arithmetic with exact arithmetic; here both
//! programs round activations to 8 bits, each in its own way.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::Checkpoint;
use cpu::{CpuBackend, Isa, Pool, PoolConfig};
use model::{Decoder, DecoderConfig, LoadOptions, PerplexityOptions, Session, Wanted, perplexity};
use serde_json::Value;
use tensor::Format;
use tokenizer::{ControlTokens, Tokenizer};

use crate::models::{gemma3, smollm2};

/// Rounding activations to 8 bits moves single logits of these models by up to this much (llama.cpp's own, against its
/// exact ones). Where its first two candidates are closer, its own choice is not certain.
const ROUNDING_GAP: f64 = 1.1;

/// Tokens that may differ, of the 160 of a model: those that are tried here differ at 5 and at 6 (docs/exactness.md).
const MOST_DIFFERENT: usize = 8;

#[test]
fn smollm2_predicts_as_llama_cpp() {
    check(smollm2(), "smollm2-135m-q4_1.json");
}

#[test]
fn gemma3_predicts_as_llama_cpp() {
    check(gemma3(), "gemma3-270m-q4_k_m.json");
}

fn check(model: Option<PathBuf>, oracle: &str) {
    let Some(path) = model else { return };
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let oracle: Value = serde_json::from_slice(&std::fs::read(data.join(oracle)).unwrap()).unwrap();
    let text = std::fs::read_to_string(data.join("perplexity.txt")).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    let window = oracle["window"].as_u64().unwrap() as usize;
    let mut decoder = decoder(&checkpoint, window);
    check_perplexity(&mut decoder, &tokenizer, &text, &oracle);
    let prompts = oracle["prompts"].as_array().unwrap();
    let different: usize = prompts.iter().map(|prompt| check_prompt(&mut decoder, &tokenizer, prompt)).sum();
    assert!(different <= MOST_DIFFERENT, "{different} tokens differ from llama.cpp's");
}

fn decoder(checkpoint: &Checkpoint, context: usize) -> Decoder<CpuBackend> {
    let config = DecoderConfig::from_checkpoint(checkpoint).unwrap();
    let pool = Arc::new(Pool::new(&PoolConfig::default()).unwrap());
    let options = LoadOptions { max_rows: context, max_logit_rows: context, max_seqs: 1, max_context: Some(context) };
    Decoder::load(checkpoint, config, CpuBackend::with_isa(pool, Isa::detect()), &options, &mut |_| {}).unwrap()
}

/// Rounding activations loses a little; we may lose no more than llama.cpp does, measured from its exact result (the same
/// weights written out as F32).
fn check_perplexity(decoder: &mut Decoder<CpuBackend>, tokenizer: &Tokenizer, text: &str, oracle: &Value) {
    let tokens = tokenizer.encode_completion(text, ControlTokens::PlainText).unwrap();
    assert!(tokens.len() >= 2_000, "{} tokens", tokens.len());
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let context = oracle["window"].as_u64().unwrap() as usize;
    let options = PerplexityOptions { context, bos, kv_format: Format::F16 };
    let got = perplexity(decoder, &tokens, &options, &mut |_| {}).unwrap().perplexity;
    let [theirs, exact] = ["perplexity", "exact_perplexity"].map(|key| oracle[key].as_f64().unwrap());
    println!(
        "perplexity of {} tokens: {got:.4}; llama.cpp {theirs:.4} ({:+.2} %), exact {exact:.4} ({:+.2} %)",
        tokens.len(),
        100.0 * (got / theirs - 1.0),
        100.0 * (got / exact - 1.0),
    );
    assert!((got - exact).abs() <= (theirs - exact).abs(), "perplexity {got}, llama.cpp {theirs}, exact {exact}");
}

/// Compares our choice after each of llama.cpp's 32 tokens with its own. Returns how many differ.
fn check_prompt(decoder: &mut Decoder<CpuBackend>, tokenizer: &Tokenizer, prompt: &Value) -> usize {
    let ids = |key: &str| -> Vec<u32> {
        prompt[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let (text, start, greedy) = (prompt["prompt"].as_str().unwrap(), ids("ids"), ids("greedy"));
    assert_eq!(tokenizer.encode_completion(text, ControlTokens::PlainText).unwrap(), start, "{text:?}");
    let tokens: Vec<u32> = start.iter().chain(&greedy[..greedy.len() - 1]).copied().collect();
    let mut choices = Vec::new();
    let mut session = Session::new(decoder, Format::F16, tokens.len()).unwrap();
    let wanted = Wanted::Range(start.len() - 1..tokens.len());
    session.extend(&tokens, wanted, &mut |_, logits| choices.push(likeliest(logits))).unwrap();
    let differ = choices.iter().zip(&greedy).enumerate().filter(|(_, (ours, theirs))| ours != theirs);
    let differ: Vec<usize> = differ.map(|(step, _)| step).collect();
    println!("{text:?}: {} of {} tokens equal", greedy.len() - differ.len(), greedy.len());
    for &step in &differ {
        let logprob = |place: usize| prompt["top"][step][place][1].as_f64().unwrap();
        let gap = logprob(0) - logprob(1);
        let shown = |id: u32| tokenizer.decode(&[id]);
        println!(
            "  token {step}: {:?}, llama.cpp {:?}; its gap is {gap:.4}",
            shown(choices[step]),
            shown(greedy[step])
        );
        assert!(gap <= ROUNDING_GAP, "{text:?}, token {step}: llama.cpp is sure by {gap}");
    }
    differ.len()
}

fn likeliest(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best }) as u32
}
