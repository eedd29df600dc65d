//! Crafted tokenizer files give errors: no panic, no hang, no large allocation.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use checkpoint::Metadata;
use serde_json::{Value, json};
use tokenizer::{ControlTokens, Tokenizer, TokenizerError};

/// How much refusing a file may add to the memory of the process.
const MEMORY_BYTES: u64 = 256 << 20;

/// Longest message: what is not supported is answered with all that is.
const MESSAGE_BYTES: usize = 1024;

/// Longest time that refusing a file may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

fn refused(what: &str, load: impl FnOnce() -> Result<Tokenizer, TokenizerError>) -> String {
    let memory = data::peak_memory_bytes();
    let start = Instant::now();
    let error = match load() {
        Ok(_) => panic!("{what} was accepted"),
        Err(error) => error.to_string(),
    };
    assert!(start.elapsed() < PATIENCE, "{what} took {:?}", start.elapsed());
    let memory = data::peak_memory_bytes().saturating_sub(memory);
    assert!(memory < MEMORY_BYTES, "{what} took {memory} bytes");
    assert!(!error.contains('\n') && error.len() < MESSAGE_BYTES, "{what}: {error:?}");
    println!("{what}: {error}");
    error
}

/// Loads `tokenizer.json` after a change to a valid one.
fn load_changed(name: &str, change: impl FnOnce(&mut Value)) -> Result<Tokenizer, TokenizerError> {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf").join(name);
    let text = fs::read_to_string(golden.join("tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    change(&mut json);
    load_text(&json.to_string())
}

fn load_text(text: &str) -> Result<Tokenizer, TokenizerError> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("tokenizer.json"), text).unwrap();
    Tokenizer::from_directory(directory.path())
}

#[test]
fn crafted_json_files_are_refused() {
    type Change = fn(&mut Value);
    let cases: &[(&str, &str, &str, Change)] = &[
        ("byte_level", "merge of unknown tokens", "merge 0", |json| json["model"]["merges"][0] = json!(["zz", "yy"])),
        ("byte_level", "merge to no token", "merge 0", |json| json["model"]["merges"][0] = json!(["a", "Ġ"])),
        ("byte_level", "merge of three parts", "merge 0", |json| json["model"]["merges"][0] = json!(["a", "b", "c"])),
        ("byte_level", "merge without a space", "merge 1", |json| json["model"]["merges"][1] = json!("ab")),
        ("byte_level", "merges of another type", "merges", |json| json["model"]["merges"] = json!({"a": 1})),
        ("byte_level", "prefix longer than a token", "merge 0", |json| {
            json["model"]["continuing_subword_prefix"] = json!("###################");
        }),
        ("byte_level", "negative id", "id of token", |json| json["model"]["vocab"]["a"] = json!(-1)),
        ("byte_level", "id that wraps", "id of token", |json| json["model"]["vocab"]["a"] = json!(1u64 << 32)),
        ("byte_level", "huge id", "id of token", |json| json["model"]["vocab"]["a"] = json!(4_000_000_000u32)),
        ("byte_level", "vocabulary of another type", "model", |json| json["model"]["vocab"] = json!([1, 2])),
        ("byte_level", "huge id of an added token", "added token", |json| {
            json["added_tokens"][0]["id"] = json!(3_000_000_000u32);
        }),
        ("byte_level", "added token without content", "added_tokens", |json| {
            json["added_tokens"][0] = json!({"id": 1})
        }),
        ("byte_level", "dropout above 1", "built", |json| json["model"]["dropout"] = json!(7.5)),
        ("byte_level", "unknown model", "\"Quantum\" is not supported; supported: BPE, Unigram", |json| {
            json["model"]["type"] = json!("Quantum");
        }),
        ("byte_level", "word pieces", "model", |json| json["model"]["type"] = json!("WordPiece")),
        ("byte_level", "no model", "model", |json| json["model"] = Value::Null),
        ("byte_level", "invalid pattern", "built", |json| {
            json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"Regex": "(((["});
        }),
        ("byte_level", "unknown pre-tokenizer", "built", |json| json["pre_tokenizer"] = json!({"type": "Nope"})),
        ("byte_level", "no decoder", "decoder", |json| json["decoder"] = Value::Null),
        ("byte_level", "foreign decoder", "decoder", |json| {
            json["decoder"] = json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true});
        }),
        ("unigram", "empty precompiled map", "map", |json| {
            json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": ""});
        }),
        ("unigram", "precompiled map of 4 GiB", "map", |json| {
            json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="});
        }),
        ("unigram", "precompiled map that is no text", "built", |json| {
            json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAP/+"});
        }),
        ("unigram", "replacement that explodes", "growth", |json| {
            let step = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(60)});
            json["normalizer"] = json!({"type": "Sequence", "normalizers": [step, step]});
        }),
        ("unigram", "prefix of a megabyte", "prepend", |json| {
            json["normalizer"] = json!({"type": "Prepend", "prepend": "x".repeat(1 << 20)});
        }),
        ("byte_level", "pattern of a megabyte", "pattern", |json| {
            json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"Regex": "a|".repeat(1 << 19)});
        }),
        ("byte_level", "thousand steps", "number of", |json| {
            let step =
                json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
            json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": vec![step; 1000]});
        }),
        ("unigram", "unknown id outside", "built", |json| json["model"]["unk_id"] = json!(1_000_000)),
        ("unigram", "piece without a score", "built", |json| json["model"]["vocab"][3] = json!(["x"])),
        ("unigram", "piece that is a number", "piece 3", |json| json["model"]["vocab"][3] = json!([5, 1.0])),
    ];
    for (name, what, expected, change) in cases {
        let error = refused(what, || load_changed(name, change));
        assert!(error.contains(expected), "{what}: {error}");
    }
}

#[test]
fn broken_and_oversized_files_are_refused() {
    refused("empty file", || load_text(""));
    refused("truncated file", || load_text("{\"model\": {\"type\": \"BPE\", \"vocab\": {"));
    refused("a list", || load_text("[]"));
    let nested = "[".repeat(100_000);
    assert!(refused("deep nesting", || load_text(&nested)).contains("nesting"));
    let nested = format!("{{\"model\": {}1{}}}", "[".repeat(100), "]".repeat(100));
    assert!(refused("nesting of 101", || load_text(&nested)).contains("101"));
    refused("no directory", || Tokenizer::from_directory(Path::new("/nonexistent")));
    let directory = tempfile::tempdir().unwrap();
    let file = fs::File::create(directory.path().join("tokenizer.json")).unwrap();
    file.set_len((64 << 20) + 1).unwrap(); // sparse: zeros cost nothing
    assert!(refused("65 MiB", || Tokenizer::from_directory(directory.path())).contains("67108864"));
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("tokenizer.json")).unwrap();
    refused("a directory", || Tokenizer::from_directory(directory.path()));
}

#[test]
fn special_ids_outside_of_the_vocabulary_are_refused() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf/llama/tokenizer.json");
    for (ids, found) in [
        ("99999999", "99999999"),
        ("-1", "-1"),
        ("[2, 4294967296]", "4294967296"),
        ("\"something else\"", "\"something else\""),
        ("{\"a\": 1}", "{\"a\":1}"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::copy(&golden, directory.path().join("tokenizer.json")).unwrap();
        let config = format!("{{\"eos_token_id\": {ids}}}");
        fs::write(directory.path().join("generation_config.json"), config).unwrap();
        let error = refused(ids, || Tokenizer::from_directory(directory.path()));
        assert!(error.starts_with(&format!("eos_token_id of generation_config.json is {found}, expected ")), "{error}");
    }
    let directory = tempfile::tempdir().unwrap();
    fs::copy(&golden, directory.path().join("tokenizer.json")).unwrap();
    fs::write(directory.path().join("tokenizer_config.json"), "{\"eos_token\": 7}").unwrap();
    let error = refused("eos_token: 7", || Tokenizer::from_directory(directory.path()));
    assert!(error.starts_with("eos_token of tokenizer_config.json is 7, expected a string"), "{error}");
}

/// A byte-level vocabulary of single bytes, with two merges.
fn bpe() -> Metadata {
    let mut tokens: Vec<String> = (0..=255u8).map(|byte| char_of(byte).to_string()).collect();
    tokens.extend(["ab", "abc", "<|im_end|>"].map(str::to_owned));
    let mut types = vec![1i32; tokens.len()];
    types[258] = 3;
    let mut metadata = Metadata::default();
    metadata.insert("tokenizer.ggml.model", "gpt2".to_owned());
    metadata.insert("tokenizer.ggml.pre", "gpt-2".to_owned());
    metadata.insert("tokenizer.ggml.tokens", strings(tokens));
    metadata.insert("tokenizer.ggml.token_type", types);
    metadata.insert("tokenizer.ggml.merges", strings(vec!["a b".into(), "ab c".into()]));
    metadata
}

/// The byte-level alphabet of GPT-2, written down a second time.
fn char_of(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    match printable(byte) {
        true => byte as char,
        false => char::from_u32(256 + (0..byte).filter(|&other| !printable(other)).count() as u32).unwrap(),
    }
}

fn strings(texts: Vec<String>) -> checkpoint::Value {
    checkpoint::Value::Array(checkpoint::Array::Strings(texts))
}

/// SentencePiece tokens with byte fallback.
fn spm() -> Metadata {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["a", "b", "ab"].map(str::to_owned));
    let mut types = vec![6i32; tokens.len()];
    types[..3].copy_from_slice(&[2, 3, 3]);
    types[259..].fill(1);
    let mut metadata = Metadata::default();
    metadata.insert("tokenizer.ggml.model", "llama".to_owned());
    metadata.insert("tokenizer.ggml.scores", vec![0f32; tokens.len()]);
    metadata.insert("tokenizer.ggml.token_type", types);
    metadata.insert("tokenizer.ggml.tokens", strings(tokens));
    metadata
}

#[test]
fn crafted_metadata_is_refused() {
    let bpe_merges = Tokenizer::from_gguf(&bpe()).unwrap().encode("abcab", ControlTokens::PlainText).unwrap();
    assert_eq!(bpe_merges, [257, 256]);
    assert_eq!(Tokenizer::from_gguf(&spm()).unwrap().encode("ab\u{1}", ControlTokens::PlainText).unwrap().len(), 5);

    type Change = fn(&mut Metadata);
    type Make = fn() -> Metadata;
    let cases: &[(&str, Make, &str, Change)] = &[
        ("no model", bpe, "tokenizer.ggml.model", |m| drop(m.remove("tokenizer.ggml.model"))),
        ("unknown model", bpe, "\"plamo2\" is not supported; supported: gpt2, llama", |m| {
            drop(m.insert("tokenizer.ggml.model", "plamo2".to_owned()))
        }),
        ("model that is a number", bpe, "tokenizer.ggml.model", |m| drop(m.insert("tokenizer.ggml.model", 5u32))),
        ("unknown pre-tokenizer", bpe, "\"zzz\" is not supported; supported: default, llama3, ", |m| {
            drop(m.insert("tokenizer.ggml.pre", "zzz".to_owned()))
        }),
        ("no tokens", bpe, "tokens", |m| drop(m.remove("tokenizer.ggml.tokens"))),
        ("empty vocabulary", bpe, "token", |m| {
            m.insert("tokenizer.ggml.tokens", strings(Vec::new()));
            m.remove("tokenizer.ggml.token_type");
        }),
        ("no merges", bpe, "merges", |m| drop(m.remove("tokenizer.ggml.merges"))),
        ("merge without parts", bpe, "merge 0", |m| {
            drop(m.insert("tokenizer.ggml.merges", strings(vec!["ab".into()])))
        }),
        ("empty merge", bpe, "merge 0", |m| drop(m.insert("tokenizer.ggml.merges", strings(vec![String::new()])))),
        ("merge of a space", bpe, "merge 0", |m| drop(m.insert("tokenizer.ggml.merges", strings(vec![" ".into()])))),
        ("merge to no token", bpe, "merge 0", |m| drop(m.insert("tokenizer.ggml.merges", strings(vec!["b a".into()])))),
        ("merge of no tokens", bpe, "merge 0", |m| {
            drop(m.insert("tokenizer.ggml.merges", strings(vec!["xy zé".into()])))
        }),
        ("missing byte", bpe, "byte 0x61", |m| {
            let mut tokens = m.strings("tokenizer.ggml.tokens").unwrap().unwrap().to_vec();
            tokens[97] = "other".into();
            m.insert("tokenizer.ggml.tokens", strings(tokens));
        }),
        ("too few types", bpe, "token_type", |m| drop(m.insert("tokenizer.ggml.token_type", vec![1i32; 5]))),
        ("start token outside", bpe, "bos_token_id", |m| drop(m.insert("tokenizer.ggml.bos_token_id", 259u32))),
        ("end token outside", spm, "eos_token_id", |m| drop(m.insert("tokenizer.ggml.eos_token_id", u32::MAX))),
        ("negative end token", spm, "eos_token_id", |m| drop(m.insert("tokenizer.ggml.eos_token_id", -1i32))),
        ("no scores", spm, "scores", |m| drop(m.remove("tokenizer.ggml.scores"))),
        ("too few scores", spm, "scores", |m| drop(m.insert("tokenizer.ggml.scores", vec![0f32; 9]))),
        ("byte token that is none", spm, "<0x-1>", |m| {
            let mut tokens = m.strings("tokenizer.ggml.tokens").unwrap().unwrap().to_vec();
            tokens[3] = "<0x-1>".into();
            m.insert("tokenizer.ggml.tokens", strings(tokens));
        }),
        ("byte token cut short", spm, "byte token 3", |m| {
            let mut tokens = m.strings("tokenizer.ggml.tokens").unwrap().unwrap().to_vec();
            tokens[3] = "<0".into();
            m.insert("tokenizer.ggml.tokens", strings(tokens));
        }),
    ];
    for (what, make, expected, change) in cases {
        let mut metadata = make();
        change(&mut metadata);
        let error = refused(what, || Tokenizer::from_gguf(&metadata));
        assert!(error.contains(expected), "{what}: {error}");
    }
}

#[test]
fn odd_but_harmless_metadata_is_accepted() {
    let mut metadata = bpe();
    metadata.insert("tokenizer.ggml.merges", strings(vec!["a b".into(), "< |".into()]));
    let mut tokens = metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().to_vec();
    tokens[257] = "<|".into(); // a second token with the text of a control token would be no harm either
    tokens.push("ab".into());
    metadata.insert("tokenizer.ggml.tokens", strings(tokens));
    metadata.insert("tokenizer.ggml.token_type", [vec![1i32; 257], vec![3, 3, -77]].concat());
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!(tokenizer.encode("ab", ControlTokens::PlainText).unwrap(), [256], "the first of equal tokens");
    let plain = tokenizer.encode("<|", ControlTokens::PlainText).unwrap();
    assert_eq!(plain.len(), 2, "no merge makes a control token");

    let mut metadata = spm();
    metadata.insert("tokenizer.ggml.scores", vec![f32::NAN; 262]);
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert!(!tokenizer.encode("ababab", ControlTokens::PlainText).unwrap().is_empty());
}

#[test]
fn long_texts_give_ids_or_an_error_in_time() {
    let bpe = Tokenizer::from_gguf(&bpe()).unwrap();
    let spm = Tokenizer::from_gguf(&spm()).unwrap();
    for text in ["a", " ", "\n ", "ab", "1", "é", "<|im_end|>", "'", "\u{FDD0}"] {
        let text = text.repeat(200_000 / text.len());
        for tokenizer in [&bpe, &spm] {
            let start = Instant::now();
            let ids = tokenizer.encode(&text, ControlTokens::PlainText);
            assert!(ids.is_ok_and(|ids| !ids.is_empty()), "{:?}", &text[..8]);
            assert!(start.elapsed() < PATIENCE, "{:?} took {:?}", &text[..8], start.elapsed());
        }
    }
}
