//! The reference vocabularies cut the reference texts as llama.cpp does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data;

use std::path::Path;
use std::time::{Duration, Instant};

use checkpoint::Checkpoint;
use checkpoint::{Description, Metadata};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokenizer::{ControlTokens, Tokenizer, write_gguf_metadata};

const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

fn open(path: &Path) -> Tokenizer {
    let checkpoint = Checkpoint::open(path).unwrap();
    let start = Instant::now();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    println!("{}: {} tokens, built in {:?}", path.display(), tokenizer.vocab_len(), start.elapsed());
    tokenizer
}

/// The texts and ids beside a vocabulary.
fn vectors(path: &Path) -> Vec<(String, Vec<u32>)> {
    let read = |extension: &str| std::fs::read_to_string(format!("{}.{extension}", path.display())).unwrap();
    let inputs = read("inp");
    let outputs = read("out");
    let ids = |line: &str| line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    let inputs: Vec<&str> = inputs.split(SEPARATOR).collect();
    let outputs: Vec<Vec<u32>> = outputs.lines().map(ids).collect();
    // The last separator has no newline behind it in the file, or no text.
    assert!(outputs.len() == inputs.len() || outputs.len() + 1 == inputs.len());
    inputs.into_iter().map(str::to_owned).zip(outputs).collect()
}

#[test]
fn reference_texts_have_the_reference_ids() {
    for path in data::vocabularies() {
        let tokenizer = open(&path);
        let mut unequal = 0;
        let vectors = vectors(&path);
        for (text, expected) in &vectors {
            let ids = tokenizer.encode(text, ControlTokens::PlainText).unwrap();
            if ids != *expected {
                unequal += 1;
                println!("{text:?}\n  wanted {expected:?}\n  got    {ids:?}");
            }
        }
        println!("{} of {} equal", vectors.len() - unequal, vectors.len());
        assert_eq!(unequal, 0, "{}", path.display());
    }
}

/// A vocabulary of SentencePiece as `tokenizer.json` has it, and as metadata of a GGUF file again, cuts as before.
#[test]
fn sentencepiece_goes_through_a_tokenizer_json_and_back() {
    let Some(path) = data::vocabulary("ggml-vocab-llama-spm.gguf") else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let Description::Gguf(original) = checkpoint.description() else { panic!("a GGUF file") };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer_json(original).to_string()).unwrap();
    let config = json!({ "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": true });
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let mut metadata = Metadata::default();
    assert!(write_gguf_metadata(dir.path(), 32_000, &mut metadata).unwrap());
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    for (text, expected) in vectors(&path) {
        assert_eq!(tokenizer.encode(&text, ControlTokens::PlainText).unwrap(), expected, "{text:?}");
    }
}

/// What Hugging Face's conversion makes of pieces and scores: every way to make a piece, the best pieces first.
fn tokenizer_json(metadata: &Metadata) -> Value {
    let pieces = metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap();
    let scores = metadata.f32s("tokenizer.ggml.scores").unwrap().unwrap();
    let types = metadata.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
    let vocab: serde_json::Map<String, Value> =
        (0..).zip(pieces).map(|(id, piece)| (piece.clone(), json!(id))).collect();
    let mut by_score: Vec<usize> = (0..pieces.len()).filter(|&id| types[id] == 1).collect();
    by_score.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let ways = |id: usize| {
        let piece = pieces[id].as_str();
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        cuts.filter(|(left, right)| vocab.contains_key(*left) && vocab.contains_key(*right)).map(|(l, r)| json!([l, r]))
    };
    let merges: Vec<Value> = by_score.into_iter().flat_map(ways).collect();
    let added = (0..).zip(pieces).zip(types.iter()).filter(|(_, kind)| matches!(kind, 2 | 3));
    let added: Vec<Value> = added
        .map(|((id, piece), _)| json!({ "id": id as u32, "content": piece, "special": true, "normalized": false }))
        .collect();
    json!({
        "added_tokens": added,
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ] },
        "pre_tokenizer": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
            { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
        "model": { "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges },
    })
}

#[test]
fn a_prompt_of_100_kilobytes_takes_well_under_a_second() {
    let models = ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"].map(data::model);
    for path in data::vocabularies().into_iter().chain(models.into_iter().flatten()) {
        let tokenizer = open(&path);
        let texts: Vec<String> = vectors(&data::vocabularies()[0]).into_iter().map(|(text, _)| text).collect();
        let text = texts.join("\n").repeat(100);
        assert!(text.len() > 100_000);
        let start = Instant::now();
        let ids = tokenizer.encode(&text, ControlTokens::PlainText).unwrap();
        let time = start.elapsed();
        println!("{} bytes are {} tokens after {time:?}", text.len(), ids.len());
        assert!(time < Duration::from_secs(1), "{time:?}");
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

#[test]
fn reference_texts_come_back_from_their_ids() {
    for path in data::vocabularies() {
        let tokenizer = open(&path);
        for (text, ids) in vectors(&path) {
            assert_eq!(tokenizer.decode(&ids), text, "{}", path.display());
        }
    }
}

#[test]
fn streamed_text_is_the_decoded_text() {
    for path in data::vocabularies() {
        let tokenizer = open(&path);
        let ids = prop::collection::vec(0..tokenizer.vocab_len() as u32 + 8, 0..40);
        let check = |ids: Vec<u32>| {
            let mut stream = tokenizer.stream();
            let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
            text.push_str(&stream.finish());
            prop_assert_eq!(&text, &tokenizer.decode(&ids));
            let shown = ids.iter().filter(|&&id| tokenizer.token_kind(id) != Some(tokenizer::TokenKind::Control));
            let bytes: Vec<u8> = shown.filter_map(|&id| tokenizer.token_bytes(id)).flatten().copied().collect();
            let whole = String::from_utf8_lossy(&bytes);
            prop_assert!(text == whole || Some(text.as_str()) == whole.strip_prefix(' '), "{:?} {:?}", text, whole);
            Ok(())
        };
        TestRunner::default().run(&ids, check).unwrap();
    }
}
