//! Tokenizers from `tokenizer.json` do what the package `tokenizers` does (`golden/make_hf.py` made the expectations).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use serde_json::Value;
use tokenizer::{ControlTokens, TokenKind, Tokenizer, TokenizerError};

fn directory(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf").join(name)
}

fn check(name: &str) -> Tokenizer {
    let tokenizer = Tokenizer::from_directory(&directory(name)).unwrap();
    let cases = std::fs::read_to_string(directory(name).join("cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&cases).unwrap();
    let mut unequal = 0;
    for case in cases.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
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
    assert_eq!(unequal, 0, "{name}");
    tokenizer
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
