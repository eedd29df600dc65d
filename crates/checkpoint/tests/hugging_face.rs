//! Directories as Hugging Face lays them out: shards, configuration, what lies beside them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod craft;

use checkpoint::{Checkpoint, Description, HfConfig, Summary};
use craft::{safetensors, written};
use tensor::Format;

#[test]
fn shards_make_one_model() {
    let one = safetensors(
        r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"extra":{"dtype":"F16","shape":[1],"data_offsets":[16,18]}}"#,
        18,
    );
    let two = safetensors(
        r#"{"__metadata__":{"format":"pt"},"c":{"dtype":"BF16","shape":[3],"data_offsets":[2,8]},"b":{"dtype":"F16","shape":[],"data_offsets":[0,2]}}"#,
        8,
    );
    let (dir, _) = written(&[
        (
            "model.safetensors.index.json",
            br#"{"metadata":{},"weight_map":{"c":"2.safetensors","a":"1.safetensors","b":"2.safetensors"}}"#,
        ),
        ("1.safetensors", &one),
        ("2.safetensors", &two),
        ("config.json", b"{}"),
    ]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let found: Vec<_> = checkpoint.tensors().map(|t| (t.name, t.shape.to_vec(), t.format, t.data.len())).collect();
    assert_eq!(
        found,
        [
            ("a", vec![2, 2], Format::F32, 16),
            ("b", vec![1], Format::F16, 2), // a scalar
            ("c", vec![3], Format::BF16, 6),
        ],
        "shard by shard in the order of the data; what the index does not list stays out"
    );
}

#[test]
fn the_single_file_goes_before_the_index() {
    let single = safetensors(r#"{"single":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4);
    let (dir, _) = written(&[
        ("model.safetensors", &single),
        ("model.safetensors.index.json", br#"{"weight_map":{"x":"none.safetensors"}}"#),
        ("config.json", b"{}"),
    ]);
    assert!(Checkpoint::open(dir.path()).unwrap().tensor("single").is_some());
}

#[test]
fn views_follow_the_shape() {
    let file = safetensors(
        r#"{"stack":{"dtype":"F32","shape":[3,2,4],"data_offsets":[0,96]},"v":{"dtype":"F32","shape":[5],"data_offsets":[96,116]}}"#,
        116,
    );
    let (dir, _) = written(&[("model.safetensors", &file), ("config.json", b"{}")]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let stack = checkpoint.tensor("stack").unwrap();
    let middle = stack.stacked(1).unwrap();
    assert_eq!((middle.rows, middle.cols, middle.data.as_ptr()), (2, 4, stack.data[32..].as_ptr()));
    let text = stack.stacked(3).unwrap_err().to_string();
    assert_eq!(text, "tensor \"stack\": shape is [3, 2, 4], must be 3 dimensions, the first above 3");
    let text = stack.matrix().unwrap_err().to_string();
    assert_eq!(text, "tensor \"stack\": shape is [3, 2, 4], must be 1 or 2 dimensions");
    let vector = checkpoint.tensor("v").unwrap().matrix().unwrap();
    assert_eq!((vector.rows, vector.cols), (1, 5));
    assert!(checkpoint.tensor("V").is_none());
}

#[test]
fn configuration_getters() {
    let config = config(
        r#"{"a":7,"b":null,"c":1e-6,"d":true,"e":"x","f":["p","q"],"g":-1,
            "text_config":{"a":8,"b":9,"h":4294967296}}"#,
    );
    assert_eq!(config.u32("a").unwrap(), Some(7), "the top goes first");
    assert_eq!(config.u32("b").unwrap(), Some(9), "null at the top is absent");
    assert_eq!(config.f32("c").unwrap(), Some(1e-6));
    assert_eq!(config.f32("a").unwrap(), Some(7.0));
    assert_eq!(config.bool("d").unwrap(), Some(true));
    assert_eq!(config.str("e").unwrap(), Some("x"));
    assert_eq!(config.strings("f").unwrap(), Some(vec!["p", "q"]));
    assert_eq!(config.u64("h").unwrap(), Some(1 << 32));
    assert_eq!(config.u32("none").unwrap(), None);
    let refusals = [
        (config.u32("g").map(drop), "key \"g\" holds -1, wanted an integer in [0, 2^32)"),
        (config.u32("h").map(drop), "key \"h\" holds 4294967296, wanted an integer in [0, 2^32)"),
        (config.u32("c").map(drop), "key \"c\" holds 1e-6, wanted an integer in [0, 2^32)"),
        (config.str("f").map(drop), "key \"f\" holds an array of 2, wanted a string"),
        (config.bool("e").map(drop), "key \"e\" holds string \"x\", wanted a bool"),
        (config.f32("text_config").map(drop), "key \"text_config\" holds an object, wanted a number"),
    ];
    for (result, expected) in refusals {
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
}

#[test]
fn summaries_look_at_what_lies_beside() {
    let weights = safetensors(r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#, 16);
    let summary = |beside: &[(&str, &[u8])]| {
        let mut files: Vec<(&str, &[u8])> = vec![
            ("model.safetensors", &weights),
            ("config.json", br#"{"model_type":"llama","vocab_size":9,"num_hidden_layers":3,"num_attention_heads":4,"hidden_size":32}"#),
        ];
        files.extend(beside);
        let (dir, _) = written(&files);
        Summary::of(&Checkpoint::open(dir.path()).unwrap())
    };
    let bare = summary(&[]).unwrap();
    assert_eq!((bare.container, bare.architecture.as_deref()), ("huggingface", Some("llama")));
    assert_eq!((bare.tokenizer, bare.chat_template), (None, false));
    assert_eq!(bare.kv_bytes_per_token, Some(3 * 4 * (8 + 8) * 2), "heads and head width by their defaults");

    let full = summary(&[
        ("tokenizer.json", b"{}"),
        ("tokenizer_config.json", br#"{"tokenizer_class":"LlamaTokenizerFast","chat_template":"{{ messages }}"}"#),
    ])
    .unwrap();
    let tokenizer = full.tokenizer.unwrap();
    assert_eq!((tokenizer.kind.as_str(), tokenizer.vocabulary_tokens), ("LlamaTokenizerFast", Some(9)));
    assert!(full.chat_template);

    let file = summary(&[("tokenizer.model", b""), ("chat_template.jinja", b"")]).unwrap();
    assert_eq!(file.tokenizer.unwrap().kind, "tokenizer.model");
    assert!(file.chat_template);

    let text = summary(&[("tokenizer_config.json", b"{")]).unwrap_err().to_string();
    assert!(text.contains("tokenizer_config.json: the JSON text is faulty"), "{text}");
}

fn config(json: &str) -> HfConfig {
    let weights = safetensors(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4);
    let (dir, _) = written(&[("model.safetensors", &weights), ("config.json", json.as_bytes())]);
    match Checkpoint::open(dir.path()).unwrap().description() {
        Description::HuggingFace(config) => config.clone(),
        Description::Gguf(_) => panic!("a directory was opened"),
    }
}
