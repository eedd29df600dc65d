//! Real models on the reference backend against llama.cpp: the tokens that it chooses, and its greatest logits.
//!
//! The oracle is llama.cpp computing in f32 throughout on the same weights (see `tests/data/README.md`). We follow its
//! tokens, so that one near tie does not hide the rest.

use model::Decoder;
use serde_json::Value;
use tensor::{Format, Reference};

use crate::real::{GEMMA3, Real, SMOLLM2, load, logits_along};
use crate::support::argmax;

/// Two f32 implementations of 30 layers, logits up to 35.
const LOGIT_TOLERANCE: f32 = 2e-3;

/// The same, where llama.cpp looks GELU up in a table of f16, which alone moves a logit by 3e-3 at the first token.
const LOGIT_TOLERANCE_GELU: f32 = 2e-2;

#[test]
fn smollm2_follows_llama_cpp() {
    check(&SMOLLM2, LOGIT_TOLERANCE);
}

#[test]
fn gemma3_follows_llama_cpp() {
    check(&GEMMA3, LOGIT_TOLERANCE_GELU);
}

fn check(real: &Real, tolerance: f32) {
    let Some(path) = real.path() else { return };
    let mut decoder = load(&path, Reference::new());
    for prompt in &real.prompts() {
        check_prompt(&mut decoder, prompt, tolerance);
    }
}

fn check_prompt(decoder: &mut Decoder<Reference>, prompt: &Value, tolerance: f32) {
    let rows = logits_along(decoder, prompt, Format::F32);
    let mut worst = 0.0f32;
    for (step, ours) in rows.iter().enumerate() {
        let top: Vec<(usize, f32)> = prompt["top"][step].as_array().unwrap().iter().map(candidate).collect();
        let best = argmax(ours) as usize;
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
