//! Tokenizers from `tokenizer.json` do what the package `tokenizers` does (`golden/make_hf.py` made the expectations).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use checkpoint::Metadata;
use serde_json::Value;
use tokenizer::{ControlTokens, TokenKind, Tokenizer, TokenizerError, write_gguf_metadata};

fn directory(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf").join(name)
}

fn check(name: &str) -> Tokenizer {
    let tokenizer = Tokenizer::from_directory(&directory(name)).unwrap();
    check_cases(name, &tokenizer, &[]);
    tokenizer
}

/// Compares on all texts but those with one of `without` in them.
fn check_cases(name: &str, tokenizer: &Tokenizer, without: &[&str]) {
    let cases = std::fs::read_to_string(directory(name).join("cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&cases).unwrap();
    let mut unequal = 0;
    let mut compared = 0;
    for case in cases.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        if without.iter().any(|part| text.contains(part)) {
            continue;
        }
        compared += 1;
        let ids = |field: &str| case[field].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let (parsed, plain): (Vec<u32>, Vec<u32>) = (ids("parsed"), ids("plain"));
        let ours = (
            tokenizer.encode(text, ControlTokens::Parse).unwrap(),
            tokenizer.encode(text, ControlTokens::PlainText).unwrap(),
            tokenizer.decode(&parsed),
        );
        let wanted = (parsed, plain, case["decoded"].as_str().unwrap().to_owned());
        if ours != wanted {
            unequal += 1;
            println!("{name} {text:?}\n  wanted {wanted:?}\n  got    {ours:?}");
        }
    }
    assert!(unequal == 0 && compared > 20, "{name}: {unequal} of {compared}");
}

#[test]
fn byte_level_bpe() {
    let tokenizer = check("byte_level");
    assert_eq!(tokenizer.token_text(tokenizer.bos().unwrap()), Some("<s>"));
    assert_eq!(tokenizer.token_text(tokenizer.eos().unwrap()), Some("<|im_end|>"));
    assert!(tokenizer.adds_bos(), "the post-processor starts every text with <s>");
    assert!(tokenizer.is_end_of_generation(tokenizer.eos().unwrap()));
    let tool_call = tokenizer.token_id("<tool_call>").unwrap();
    assert_eq!(tokenizer.token_kind(tool_call), Some(TokenKind::UserDefined));
}

#[test]
fn byte_level_bpe_is_the_same_from_the_metadata_of_a_gguf_file() {
    let mut metadata = Metadata::default();
    assert!(write_gguf_metadata(&directory("byte_level"), 500, &mut metadata).unwrap());
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    // Tokens that take the white space beside them, or are whole words: a GGUF file cannot say so.
    check_cases("byte_level", &tokenizer, &["<mask>", "Python"]);
    assert_eq!((tokenizer.vocab_len(), tokenizer.adds_bos()), (500, true));
    assert_eq!(tokenizer.token_text(tokenizer.bos().unwrap()), Some("<s>"));
    assert_eq!(tokenizer.token_text(tokenizer.eos().unwrap()), Some("<|im_end|>"));
    let tool_call = tokenizer.token_id("<tool_call>").unwrap();
    assert_eq!(tokenizer.token_kind(tool_call), Some(TokenKind::UserDefined));

    let mut refused = |name: &str, rows| {
        let written = write_gguf_metadata(&directory(name), rows, &mut metadata);
        written.expect_err("GGUF has no words for it").to_string()
    };
    assert_eq!(refused("byte_level", 100), "number of tokens is 428, the limit is 100");
    for name in ["unigram", "llama"] {
        let error = refused(name, 1000);
        assert!(error.ends_with("is not supported; supported: Bpe with ByteLevel"), "{error}");
    }
    assert!(!write_gguf_metadata(Path::new("/nonexistent"), 1, &mut metadata).unwrap(), "no tokenizer at all");
}

#[test]
fn bpe_with_byte_fallback() {
    let tokenizer = check("llama");
    assert!(tokenizer.adds_bos(), "tokenizer_config.json says so");
    let newline = tokenizer.token_id("<0x0A>").unwrap();
    assert_eq!(tokenizer.token_bytes(newline), Some(&b"\n"[..]));
    let ids = tokenizer.encode_completion("a", ControlTokens::PlainText).unwrap();
    assert_eq!(ids.first().copied(), tokenizer.bos());
}

#[test]
fn unigram() {
    let tokenizer = check("unigram");
    assert!(!tokenizer.adds_bos());
}

#[test]
fn a_continued_text_keeps_its_leading_space() {
    let tokenizer = Tokenizer::from_directory(&directory("llama")).unwrap();
    let ids = tokenizer.encode("dog", ControlTokens::PlainText).unwrap();
    let decode = |mut stream: tokenizer::DecodeStream| {
        ids.iter().map(|&id| stream.push(id)).collect::<String>() + &stream.finish()
    };
    assert_eq!(decode(tokenizer.stream()), "dog");
    assert_eq!(decode(tokenizer.continuation()), " dog");
}

#[test]
fn a_text_that_defeats_the_pattern_is_an_error() {
    // Each alternative tries all the white space behind it, beyond the regex engine's patience.
    let tokenizer = Tokenizer::from_directory(&directory("byte_level")).unwrap();
    let result = tokenizer.encode(&" ".repeat(12 << 20), ControlTokens::PlainText);
    assert!(matches!(result, Err(TokenizerError::Text { .. })), "{:?}", result.map(|ids| ids.len()));
}
