//! Random texts have the ids that llama.cpp gives them (`golden/make_llama_cpp.py` made the expectations).
//!
//! A longer run, on a file named by `FRONTIER_LLAMA_CPP_GOLDEN`, differs in about one text of a hundred, where we follow
//! the models' own `tokenizer.json` and llama.cpp cannot: its regular expressions know no `\p{Lu}` and `\p{M}` (tekken,
//! gpt-4o), treat U+2028 and U+3000 as plain white space (deepseek), and it takes each token named `</s>` for a control
//! token, even where the file says that it is text (qwen2).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data;

use checkpoint::{Checkpoint, Description};
use serde_json::Value;
use tokenizer::{ControlTokens, Tokenizer};

/// The tokenizer of `FILE#NAME`: a vocabulary, read as if it named that pre-tokenizer.
fn open(argument: &str) -> Option<Tokenizer> {
    let (file, pre_tokenizer) = argument.split_once('#').unwrap_or((argument, ""));
    let path = data::vocabulary(file).or_else(|| data::model(file))?;
    let checkpoint = Checkpoint::open(&path).unwrap();
    let Description::Gguf(metadata) = checkpoint.description() else { panic!("{file} is no GGUF file") };
    let mut metadata = metadata.clone();
    if !pre_tokenizer.is_empty() {
        metadata.insert("tokenizer.ggml.pre", pre_tokenizer.to_owned());
    }
    Some(Tokenizer::from_gguf(&metadata).unwrap())
}

#[test]
fn random_texts_have_the_ids_of_llama_cpp() {
    let golden = match std::env::var_os("FRONTIER_LLAMA_CPP_GOLDEN") {
        Some(path) => std::fs::read_to_string(path).unwrap(), // a longer run
        None => include_str!("golden/llama_cpp.json").to_owned(),
    };
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let mut unequal = Vec::new();
    for (name, cases) in golden.as_object().unwrap() {
        let Some(tokenizer) = open(name) else { continue };
        let cases = cases.as_array().unwrap();
        let mut equal = 0;
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let control = if case["parse"] == true { ControlTokens::Parse } else { ControlTokens::PlainText };
            let wanted: Vec<u32> =
                case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            let ids = tokenizer.encode(text, control).unwrap();
            if ids == wanted {
                equal += 1;
                continue;
            }
            let spell =
                |ids: &[u32]| ids.iter().map(|&id| tokenizer.token_text(id).unwrap().to_owned()).collect::<Vec<_>>();
            println!("{name} {control:?} {text:?}\n  wanted {:?}\n  got    {:?}", spell(&wanted), spell(&ids));
            unequal.push((name.clone(), text.to_owned()));
        }
        println!("{name}: {equal} of {} equal", cases.len());
    }
    assert!(unequal.is_empty(), "{} unequal", unequal.len());
}
