//! Tokenizers from `tokenizer.json` do what the package `tokenizers` does (`golden/make_hf.py` made the expectations).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use checkpoint::Metadata;
use serde_json::{Value, json};
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
    let error = refused("unigram", 1000);
    assert!(error.ends_with("is not supported; supported: Bpe with ByteLevel, Bpe with byte_fallback"), "{error}");
    let error = refused("llama", 1000);
    assert!(error.contains("some of the ways to make ain") && error.contains("SentencePiece's"), "{error}");
    assert!(!write_gguf_metadata(Path::new("/nonexistent"), 1, &mut metadata).unwrap(), "no tokenizer at all");
}

/// As the package `tokenizers` cuts, with the merge that a list of SentencePiece's would have as well.
#[test]
fn bpe_with_byte_fallback_is_the_same_from_the_metadata_of_a_gguf_file() {
    let changed = tempfile::tempdir().unwrap();
    let from = directory("llama");
    let mut json: Value = serde_json::from_slice(&std::fs::read(from.join("tokenizer.json")).unwrap()).unwrap();
    let merges = json["model"]["merges"].as_array_mut().unwrap();
    let place = merges.iter().position(|merge| *merge == json!(["a", "in"]) || *merge == json!("a in"));
    let place = place.unwrap_or_else(|| merges.iter().position(|merge| merge.to_string().contains("ai")).unwrap());
    let known = merges[place].clone();
    let other = if known == json!(["ai", "n"]) { json!(["a", "in"]) } else { json!(["ai", "n"]) };
    merges.insert(place + 1, other);
    std::fs::write(changed.path().join("tokenizer.json"), json.to_string()).unwrap();
    std::fs::copy(from.join("tokenizer_config.json"), changed.path().join("tokenizer_config.json")).unwrap();
    let mut metadata = Metadata::default();
    assert!(write_gguf_metadata(changed.path(), 600, &mut metadata).unwrap());
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    // Found in texts whose spaces are spelled already, or with the space beside it: a GGUF file cannot say so.
    check_cases("llama", &tokenizer, &["<tool_call>", "<mask>"]);
    assert_eq!((tokenizer.vocab_len(), tokenizer.adds_bos()), (600, true));
    // Spaces may also be spelled by a pre-tokenizer, with one in front or not.
    let mut written = |json: &Value| {
        std::fs::write(changed.path().join("tokenizer.json"), json.to_string()).unwrap();
        write_gguf_metadata(changed.path(), 600, &mut metadata).map_err(|error| error.to_string())?;
        Ok::<_, String>(metadata.bool("tokenizer.ggml.add_space_prefix").unwrap())
    };
    let original = json.clone();
    json["normalizer"] = Value::Null;
    for (scheme, is_added) in [("always", true), ("first", true), ("never", false)] {
        json["pre_tokenizer"] =
            json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false });
        assert_eq!(written(&json), Ok(Some(is_added)), "{scheme}");
    }
    json["pre_tokenizer"]["split"] = json!(true);
    assert!(written(&json).unwrap_err().contains("supported: none, Metaspace that does not split"));
    json = original;
    json["model"]["byte_fallback"] = json!(false);
    assert!(written(&json).unwrap_err().contains("supported: Bpe with ByteLevel, Bpe with byte_fallback"));
    json["model"]["byte_fallback"] = json!(true);
    // Apart from one another, merges into a piece are no score.
    let merges = json["model"]["merges"].as_array_mut().unwrap();
    let moved = merges.remove(place);
    merges.push(moved);
    let error = written(&json).unwrap_err();
    assert!(error.contains("merges into ain apart from one another"), "{error}");
}

/// The directory of byte-level BPE with another `tokenizer.json` or another file beside it.
fn write_changed(change: impl FnOnce(&mut Value), generation: &Value) -> Result<Metadata, TokenizerError> {
    let changed = tempfile::tempdir().unwrap();
    let from = directory("byte_level");
    let mut json = serde_json::from_slice(&std::fs::read(from.join("tokenizer.json")).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(changed.path().join("tokenizer.json"), json.to_string()).unwrap();
    std::fs::copy(from.join("tokenizer_config.json"), changed.path().join("tokenizer_config.json")).unwrap();
    std::fs::write(changed.path().join("generation_config.json"), generation.to_string()).unwrap();
    let mut metadata = Metadata::default();
    write_gguf_metadata(changed.path(), 500, &mut metadata).map(|_| metadata)
}

#[test]
fn all_ends_of_an_answer_are_in_the_metadata_of_a_gguf_file() {
    // Two that no reader knows by their text, and one that all do.
    let metadata = write_changed(|_| {}, &json!({ "eos_token_id": [421, 423, 425, 426] })).unwrap();
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!(tokenizer.end_of_generation(), [421, 423, 425, 426]);
}

#[test]
fn models_that_gguf_has_no_words_for_are_refused() {
    let refused = |field: &str, value: Value| {
        let written = write_changed(|json| json["model"][field] = value, &json!({}));
        written.expect_err("GGUF has no words for it").to_string()
    };
    for (field, value) in [("end_of_word_suffix", json!("</w>")), ("byte_fallback", json!(true))] {
        let error = refused(field, value);
        assert!(error.starts_with(&format!("field of a tokenizer model for a GGUF file \"{field}\"")), "{error}");
    }
    for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
        write_changed(|json| json["model"][field] = json!(""), &json!({})).expect("an empty one changes nothing");
    }
    let spaced = |json: &mut Value| {
        json["model"]["vocab"]["a b"] = json!(428);
        json["model"]["vocab"]["a bc"] = json!(429);
        json["model"]["merges"].as_array_mut().unwrap().push(json!(["a b", "c"]));
    };
    let error = write_changed(spaced, &json!({})).expect_err("which of the spaces parts them?").to_string();
    assert!(error.starts_with("merge for a GGUF file \"a b c\""), "{error}");
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
