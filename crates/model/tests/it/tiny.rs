//! Tiny random models against the logits of Hugging Face's implementation.

use crate::convert::to_gguf;
use crate::support::{Tiny, decoder, greedy, logits, tiny_models};
use checkpoint::Checkpoint;

/// What two f32 implementations of a few layers may differ by: sums in different orders, exp and tanh of different
/// libraries. Logits are of order 1.
const LOGIT_TOLERANCE: f32 = 2e-4;

#[test]
fn safetensors_give_the_logits_of_hugging_face() {
    for tiny in tiny_models() {
        check(&tiny, &tiny.checkpoint(), "safetensors");
    }
}

#[test]
fn gguf_gives_the_logits_of_hugging_face() {
    let dir = tempfile::tempdir().unwrap();
    for tiny in tiny_models() {
        let path = dir.path().join(format!("{}.gguf", tiny.name));
        to_gguf(&tiny.dir, &path);
        check(&tiny, &Checkpoint::open(&path).unwrap(), "gguf");
    }
}

fn check(tiny: &Tiny, checkpoint: &Checkpoint, kind: &str) {
    let mut decoder = decoder(checkpoint).unwrap();
    let got = logits(&mut decoder, &tiny.input_ids, tiny.input_ids.len());
    assert_eq!(got.len(), 40);
    let mut worst = 0.0f32;
    for (got, wanted) in got.iter().zip(&tiny.logits) {
        assert_eq!(got.len(), wanted.len());
        worst = got.iter().zip(wanted).map(|(g, w)| (g - w).abs()).fold(worst, f32::max);
    }
    println!("{} ({kind}): max |logit - reference| = {worst:.1e}", tiny.name);
    assert!(worst <= LOGIT_TOLERANCE, "{} ({kind}): {worst}", tiny.name);
    let prompt = &tiny.input_ids[..tiny.greedy_prompt_len];
    assert_eq!(greedy(&mut decoder, prompt, tiny.greedy.len()), tiny.greedy, "{} ({kind})", tiny.name);
}
