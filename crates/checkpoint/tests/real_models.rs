//! Models made by others open, and hold what their authors put into them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod craft;

use checkpoint::{Checkpoint, Description, Summary};
use tensor::Format;

#[test]
fn smollm2_opens() {
    let Some(path) = craft::model("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let Description::Gguf(metadata) = checkpoint.description() else { panic!("a GGUF file") };
    assert_eq!(metadata.str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(metadata.u32("llama.attention.head_count_kv").unwrap(), Some(3));
    assert_eq!(metadata.f32("llama.rope.freq_base").unwrap(), Some(100_000.0));
    assert_eq!(metadata.strings("tokenizer.ggml.merges").unwrap().map(<[_]>::len), Some(48_900));
    assert_eq!(checkpoint.tensors().len(), 272);
    let embedding = checkpoint.tensor("token_embd.weight").unwrap();
    assert_eq!((embedding.shape, embedding.format), (&[49_152, 576][..], Format::Q8_0));
    assert_eq!(embedding.matrix().unwrap().rows, 49_152);
    assert_eq!(checkpoint.tensors().last().unwrap().name, "output_norm.weight");
}

#[test]
fn gemma3_opens() {
    let Some(path) = craft::model("gemma-3-270m-q4_k_m.gguf") else { return };
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    let Description::Gguf(metadata) = checkpoint.description() else { panic!("a GGUF file") };
    assert_eq!(metadata.str("general.architecture").unwrap(), Some("gemma3"));
    assert_eq!(metadata.f32s("tokenizer.ggml.scores").unwrap().map(|scores| scores.len()), Some(262_144));
    assert_eq!(metadata.i32s("tokenizer.ggml.token_type").unwrap().map(|kinds| kinds.len()), Some(262_144));
    assert_eq!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
    assert_eq!(checkpoint.tensors().len(), 236);
}

#[test]
fn vocabulary_files_open_without_tensors() {
    let Some(dir) = craft::shared("vocab") else { return };
    let mut opened = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            let checkpoint = Checkpoint::open(&path).unwrap_or_else(|fault| panic!("{fault}"));
            let Description::Gguf(metadata) = checkpoint.description() else { panic!("a GGUF file") };
            assert!(metadata.strings("tokenizer.ggml.tokens").unwrap().is_some_and(|tokens| tokens.len() > 30_000));
            assert_eq!(checkpoint.tensors().len(), 0);
            opened += 1;
        }
    }
    assert!(opened >= 8, "only {opened} vocabularies found");
}

#[test]
fn hugging_face_directories_open() {
    let Some(dir) = craft::shared("tiny") else { return };
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|fault| panic!("{fault}"));
        let Description::HuggingFace(config) = checkpoint.description() else { panic!("a directory") };
        assert_eq!(config.u32("vocab_size").unwrap(), Some(256));
        let embedding = checkpoint.tensor("model.embed_tokens.weight").unwrap();
        assert_eq!((embedding.shape, embedding.format), (&[256, 64][..], Format::F32));
        let file = Checkpoint::open(&path.join("model.safetensors")).unwrap();
        assert_eq!(file.description(), checkpoint.description());
        assert_eq!(file.tensors().len(), checkpoint.tensors().len());
    }
}

#[test]
fn summaries_say_what_the_author_says() {
    let Some(path) = craft::model("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let summary = Summary::of(&Checkpoint::open(&path).unwrap()).unwrap();
    assert_eq!(summary.name.as_deref(), Some("Smollm2 135M 8k Lc100K Mix1 Ep2"));
    assert_eq!(summary.parameters, 134_515_008);
    assert_eq!(summary.context_tokens, Some(8_192));
    assert_eq!(summary.tokenizer.as_ref().unwrap().kind, "gpt2/smollm");
    assert_eq!(summary.tokenizer.as_ref().unwrap().vocabulary_tokens, Some(49_152));
    assert!(summary.chat_template);
    // 30 layers, 3 heads of 64, keys and values, 2 bytes.
    assert_eq!(summary.kv_bytes_per_token, Some(30 * 3 * 64 * 2 * 2));
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["formats"][0]["format"], "q4_1");
    assert_eq!(json["architecture"], "llama");

    let Some(path) = craft::model("gemma-3-270m-q4_k_m.gguf") else { return };
    let summary = Summary::of(&Checkpoint::open(&path).unwrap()).unwrap();
    assert_eq!(summary.parameters, 268_098_176);
    assert_eq!(summary.kv_bytes_per_token, Some(18 * 256 * 2 * 2));
    assert!(!summary.chat_template);
}
