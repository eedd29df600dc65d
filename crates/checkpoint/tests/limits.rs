//! What stands exactly at a limit is accepted (`bad_files.rs` shows that one more is not).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod craft;

use checkpoint::{Array, Checkpoint, Description, Sizes, Value, limits};
use craft::{ARRAY, Gguf, STRING, U8, safetensors, written};

#[test]
fn gguf_at_its_limits_opens() {
    let entries = (0..limits::METADATA_ENTRIES)
        .fold(Gguf::new(0, limits::METADATA_ENTRIES), |file, index| file.key(&index.to_string(), U8).bytes(&[1]));
    let tensors = (0..limits::TENSORS)
        .fold(Gguf::new(limits::TENSORS, 0), |file, index| file.tensor(&index.to_string(), &[1], 0, index * 32));
    let string = "x".repeat(limits::STRING_BYTES as usize);
    let name = "n".repeat(limits::GGUF_TENSOR_NAME_BYTES as usize);
    let alignment = |alignment: u64| Gguf::new(0, 1).entry_u32("general.alignment", alignment as u32).end();
    let cases: &[(&str, Vec<u8>)] = &[
        ("entries", entries.end()),
        ("tensors", tensors.data(limits::TENSORS as usize * 32)),
        ("key", Gguf::new(0, 1).key(&"k".repeat(limits::KEY_BYTES as usize), U8).bytes(&[1]).end()),
        ("string", Gguf::new(0, 1).key("k", STRING).string(&string).end()),
        ("depth", Gguf::new(0, 1).key("k", ARRAY).u32(ARRAY).u64(1).u32(U8).u64(1).bytes(&[1]).end()),
        ("least alignment", alignment(limits::ALIGNMENT_MIN)),
        ("greatest alignment", alignment(limits::ALIGNMENT_MAX)),
        ("name", Gguf::new(1, 0).tensor(&name, &[1], 0, 0).data(4)),
        ("dimensions", Gguf::new(1, 0).tensor("t", &[1; 4], 0, 0).data(4)),
    ];
    for (name, bytes) in cases {
        let (_dir, path) = written(&[("model.gguf", bytes)]);
        if let Err(fault) = Checkpoint::open(&path) {
            panic!("{name}: {fault}");
        }
    }
}

#[test]
fn empty_arrays_are_arrays() {
    let file = Gguf::new(0, 2).key("strings", ARRAY).u32(STRING).u64(0).key("arrays", ARRAY).u32(ARRAY).u64(0);
    let (_dir, path) = written(&[("model.gguf", &file.0)]);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let Description::Gguf(metadata) = checkpoint.description() else { panic!("a GGUF file") };
    assert_eq!(metadata.strings("strings").unwrap(), Some(&[][..]));
    assert_eq!(metadata.get("arrays"), Some(&Value::Array(Array::Arrays(vec![]))));
}

#[test]
fn tensors_may_stand_in_any_order_and_leave_holes() {
    let file = Gguf::new(2, 0).tensor("late", &[8], 0, 96).tensor("early", &[1], 0, 0).data(128);
    let (_dir, path) = written(&[("model.gguf", &file)]);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.tensors().map(|tensor| tensor.name).collect::<Vec<_>>(), ["late", "early"]);
    assert!(checkpoint.tensor("late").unwrap().data.as_ptr() > checkpoint.tensor("early").unwrap().data.as_ptr());
}

#[test]
fn configuration_at_its_limits_is_read() {
    let weights = safetensors(r#"{"t":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#, 4);
    let deep = limits::JSON_DEPTH as usize - 1;
    let config = format!(
        r#"{{"deep":{}{},"num_hidden_layers":{},"num_attention_heads":{},"head_dim":{},"hidden_size":{},"vocab_size":{},"max_position_embeddings":{}}}"#,
        "[".repeat(deep),
        "]".repeat(deep),
        limits::LAYERS,
        limits::HEADS,
        limits::HEAD_DIM,
        limits::WIDTH,
        limits::VOCABULARY,
        limits::CONTEXT,
    );
    let (dir, _) = written(&[("model.safetensors", &weights), ("config.json", config.as_bytes())]);
    let sizes = Sizes::of(Checkpoint::open(dir.path()).unwrap().description()).unwrap();
    assert_eq!(sizes.kv_values_per_token(), Some(limits::LAYERS * limits::HEADS * 2 * limits::HEAD_DIM));
    assert_eq!(sizes.context_tokens, Some(limits::CONTEXT as usize));
}
