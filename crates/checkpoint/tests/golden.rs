//! Files made by the PyPI package `gguf` (`data/make_golden.py`): we read what it wrote, and write what it writes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod craft;

use std::path::{Path, PathBuf};

use checkpoint::gguf::{TensorHeader, Writer};
use checkpoint::{Array, Checkpoint, Description, Metadata, Value};
use serde_json::json;

#[test]
fn every_metadata_type_and_format_reads_as_written() {
    let checkpoint = Checkpoint::open(&data("golden.gguf")).unwrap();
    let expected = expected();
    let found: serde_json::Map<_, _> =
        metadata(&checkpoint).iter().map(|(key, value)| (key.to_owned(), in_json(value))).collect();
    assert_eq!(serde_json::Value::Object(found), expected["metadata"]);
    assert_eq!(tensors(&checkpoint), expected["tensors"].as_array().unwrap().clone());
}

#[test]
fn types_are_kept_apart() {
    let checkpoint = Checkpoint::open(&data("golden.gguf")).unwrap();
    let metadata = metadata(&checkpoint);
    let cases = [
        ("test.u8", Value::U8(255)),
        ("test.i8", Value::I8(-128)),
        ("test.u16", Value::U16(65_535)),
        ("test.i16", Value::I16(-32_768)),
        ("test.u32", Value::U32(u32::MAX)),
        ("test.i32", Value::I32(i32::MIN)),
        ("test.u64", Value::U64(u64::MAX)),
        ("test.i64", Value::I64(i64::MIN)),
        ("test.f32", Value::F32(0.1)),
        ("test.f64", Value::F64(0.1)),
        ("test.true", Value::Bool(true)),
        ("test.u8s", Value::Array(Array::U8(vec![0, 255]))),
        ("test.i16s", Value::Array(Array::I16(vec![i16::MIN, i16::MAX]))),
        ("test.arrays", Value::Array(Array::Arrays(vec![Array::I32(vec![1, 2, 3]), Array::I32(vec![-4])]))),
    ];
    for (key, expected) in cases {
        assert_eq!(metadata.get(key), Some(&expected), "{key}");
    }
}

#[test]
fn typed_getters_convert_what_fits_and_name_what_does_not() {
    let checkpoint = Checkpoint::open(&data("golden.gguf")).unwrap();
    let metadata = metadata(&checkpoint);
    assert_eq!(metadata.u32("test.u8").unwrap(), Some(255));
    assert_eq!(metadata.u64("test.u64").unwrap(), Some(u64::MAX));
    assert_eq!(metadata.f32("test.f64").unwrap(), Some(0.1));
    assert_eq!(metadata.u32s("test.u16s").unwrap().unwrap().as_ref(), [0, 65_535]);
    assert_eq!(metadata.i32s("test.i8s").unwrap().unwrap().as_ref(), [-128, 127]);
    assert_eq!(metadata.f32s("test.f64s").unwrap().unwrap()[0], -1.5);
    assert_eq!(metadata.bools("test.bools").unwrap(), Some(&[true, false, true][..]));
    assert_eq!(metadata.u32_per_layer("test.u8", 2).unwrap(), Some(vec![255, 255]));
    assert_eq!(metadata.u32_per_layer("test.u16s", 2).unwrap(), Some(vec![0, 65_535]));
    assert_eq!(metadata.str("test.absent").unwrap(), None);
    let refusals = [
        (metadata.u32("test.i8").map(drop), "key \"test.i8\" holds i8 -128, wanted an integer in [0, 2^32)"),
        (metadata.u32("test.u64").map(drop), "key \"test.u64\" holds u64 18446744073709551615, wanted an integer in"),
        (metadata.str("test.u8").map(drop), "key \"test.u8\" holds u8 255, wanted a string"),
        (metadata.bool("test.u8").map(drop), "key \"test.u8\" holds u8 255, wanted a bool"),
        (metadata.f32("test.u8").map(drop), "key \"test.u8\" holds u8 255, wanted a floating-point number"),
        (metadata.u32s("test.i8s").map(drop), "key \"test.i8s\" holds array of 2 i8, wanted an array of integers"),
        (metadata.strings("test.u8s").map(drop), "key \"test.u8s\" holds array of 2 u8, wanted an array of strings"),
        (
            metadata.u32_per_layer("test.u16s", 3).map(drop),
            "array of 2 u16, wanted an integer in [0, 2^32) or an array of 3",
        ),
    ];
    for (result, expected) in refusals {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn version_2_reads_like_version_3() {
    let mut bytes = std::fs::read(data("golden.gguf")).unwrap();
    bytes[4] = 2;
    let (_dir, path) = craft::written(&[("model.gguf", &bytes)]);
    let (older, newer) = (Checkpoint::open(&path).unwrap(), Checkpoint::open(&data("golden.gguf")).unwrap());
    assert_eq!(older.description(), newer.description());
    assert_eq!(tensors(&older), tensors(&newer));
}

#[test]
fn the_other_byte_order_is_refused_by_name() {
    let text = Checkpoint::open(&data("golden-big-endian.gguf")).unwrap_err().to_string();
    assert!(text.contains("golden-big-endian.gguf: byte order is big-endian"), "{text}");
}

#[test]
fn any_part_of_a_split_set_opens_all_of_it() {
    let whole = Checkpoint::open(&data("golden.gguf")).unwrap();
    for part in 1..=3 {
        let split = Checkpoint::open(&data(&format!("golden-split-0000{part}-of-00003.gguf"))).unwrap();
        let parts = [1, 2, 3].map(|part| data(&format!("golden-split-0000{part}-of-00003.gguf")));
        assert_eq!(split.files().collect::<Vec<_>>(), parts);
        assert_eq!(tensors(&split), tensors(&whole));
        let mut metadata = metadata(&split).clone();
        for key in ["split.no", "split.count", "split.tensors.count"] {
            assert!(metadata.remove(key).is_some());
        }
        assert_eq!(&Description::Gguf(metadata), whole.description());
    }
}

#[test]
fn our_writer_writes_the_same_bytes() {
    assert_rewritten_is_equal(&data("golden.gguf"));
}

/// llama.cpp wrote this one.
#[test]
fn a_real_model_rewritten_is_the_same_file() {
    let Some(path) = craft::model("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    assert_rewritten_is_equal(&path);
}

fn assert_rewritten_is_equal(original: &Path) {
    let checkpoint = Checkpoint::open(original).unwrap();
    let headers: Vec<TensorHeader> = checkpoint
        .tensors()
        .map(|t| TensorHeader { name: t.name.to_owned(), shape: t.shape.to_vec(), format: t.format })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.gguf");
    let mut writer = Writer::create(&copy, metadata(&checkpoint), &headers).unwrap();
    for tensor in checkpoint.tensors() {
        writer.write(tensor.data).unwrap();
    }
    writer.finish().unwrap();
    assert!(std::fs::read(original).unwrap() == std::fs::read(&copy).unwrap(), "{} differs", original.display());
}

fn metadata(checkpoint: &Checkpoint) -> &Metadata {
    match checkpoint.description() {
        Description::Gguf(metadata) => metadata,
        Description::HuggingFace(_) => panic!("a GGUF file was opened"),
    }
}

/// The tensors in the words of `golden.json`.
fn tensors(checkpoint: &Checkpoint) -> Vec<serde_json::Value> {
    let hex = |data: &[u8]| data.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let words = |tensor: checkpoint::Tensor<'_>| {
        json!({
            "name": tensor.name,
            "format": tensor.format.name(),
            "shape": tensor.shape,
            "data": hex(tensor.data),
        })
    };
    checkpoint.tensors().map(words).collect()
}

fn in_json(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(number) => json!(number),
        Value::I8(number) => json!(number),
        Value::U16(number) => json!(number),
        Value::I16(number) => json!(number),
        Value::U32(number) => json!(number),
        Value::I32(number) => json!(number),
        Value::U64(number) => json!(number),
        Value::I64(number) => json!(number),
        Value::F32(number) => json!(f64::from(*number)),
        Value::F64(number) => json!(number),
        Value::Bool(truth) => json!(truth),
        Value::String(text) => json!(text),
        Value::Array(array) => array_in_json(array),
    }
}

fn array_in_json(array: &Array) -> serde_json::Value {
    match array {
        Array::U8(elements) => json!(elements),
        Array::I8(elements) => json!(elements),
        Array::U16(elements) => json!(elements),
        Array::I16(elements) => json!(elements),
        Array::U32(elements) => json!(elements),
        Array::I32(elements) => json!(elements),
        Array::U64(elements) => json!(elements),
        Array::I64(elements) => json!(elements),
        Array::F32(elements) => elements.iter().map(|&element| f64::from(element)).collect(),
        Array::F64(elements) => json!(elements),
        Array::Bool(elements) => json!(elements),
        Array::Strings(elements) => json!(elements),
        Array::Arrays(elements) => elements.iter().map(array_in_json).collect(),
    }
}

fn expected() -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(data("golden.json")).unwrap()).unwrap()
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}
