//! Writing GGUF: nothing appears before it is whole, and nothing that a reader would refuse is written.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod craft;

use std::path::Path;

use checkpoint::gguf::{TensorHeader, Writer, partial_path};
use checkpoint::{Array, Checkpoint, Metadata, Value};
use tensor::Format;

#[test]
fn pieces_make_a_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut writer =
        Writer::create(&path, &metadata(), &[header("a", &[2, 3], Format::F32), header("b", &[5], Format::F16)])
            .unwrap();
    for piece in [&[1; 10][..], &[2; 14], &[3; 4], &[4; 6]] {
        writer.write(piece).unwrap();
    }
    writer.finish().unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let data: Vec<&[u8]> = checkpoint.tensors().map(|tensor| tensor.data).collect();
    assert_eq!(data, [&[[1; 10].as_slice(), &[2; 14]].concat()[..], &[[3; 4].as_slice(), &[4; 6]].concat()]);
    assert_eq!(file_names(dir.path()), ["model.gguf"]);
}

#[test]
fn an_abandoned_file_leaves_nothing_and_what_was_there_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, b"before").unwrap();
    let mut writer = Writer::create(&path, &metadata(), &[header("a", &[4], Format::F32)]).unwrap();
    writer.write(&[0; 15]).unwrap();
    assert_eq!(file_names(dir.path()).len(), 2, "a partial file and the old one");
    let text = writer.finish().unwrap_err().to_string();
    assert!(text.contains("1 bytes of tensor \"a\" is missing"), "{text}");
    assert_eq!(file_names(dir.path()), ["model.gguf"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"before");
}

#[test]
fn a_complete_file_can_be_read_before_it_has_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, b"before").unwrap();
    for is_good in [false, true] {
        let mut writer = Writer::create(&path, &metadata(), &[header("a", &[4], Format::F32)]).unwrap();
        writer.write(&[7; 16]).unwrap();
        let unpublished = writer.complete().unwrap();
        assert_eq!(Checkpoint::open(unpublished).unwrap().tensor("a").unwrap().data, [7; 16]);
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        if is_good {
            writer.finish().unwrap();
        } else {
            drop(writer);
            assert_eq!(std::fs::read(&path).unwrap(), b"before");
        }
        assert_eq!(file_names(dir.path()), ["model.gguf"]);
    }
    assert_eq!(Checkpoint::open(&path).unwrap().tensor("a").unwrap().data, [7; 16]);
}

/// What a killed process has left is replaced, what another is writing is not.
#[test]
fn a_partial_file_is_taken_over_when_nobody_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let create = || Writer::create(&path, &metadata(), &[header("a", &[4], Format::F32)]);
    let mut writer = create().unwrap();
    let text = create().unwrap_err().to_string();
    assert!(text.contains("another process writes it"), "{text}");
    drop(writer);
    std::fs::write(partial_path(&path).unwrap(), [0; 100_000]).unwrap();
    writer = create().unwrap();
    writer.write(&[7; 16]).unwrap();
    writer.finish().unwrap();
    assert_eq!(file_names(dir.path()), ["model.gguf"]);
    assert_eq!(Checkpoint::open(&path).unwrap().tensor("a").unwrap().data, [7; 16]);
}

#[test]
fn an_alignment_in_the_metadata_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut metadata = metadata();
    metadata.insert("general.alignment", 4_096u32);
    let headers = [header("a", &[1], Format::F32), header("b", &[1], Format::F32)];
    let mut writer = Writer::create(&path, &metadata, &headers).unwrap();
    writer.write(&[1; 4]).unwrap();
    writer.write(&[2; 4]).unwrap();
    writer.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!((bytes.len(), bytes[4_096], bytes[8_192]), (12_288, 1, 2));
    assert_eq!(Checkpoint::open(&path).unwrap().tensor("b").unwrap().data, [2; 4]);
}

#[test]
fn what_a_reader_refuses_is_not_written() {
    let with = |key: &str, value: Value| {
        let mut metadata = metadata();
        metadata.insert(key, value);
        metadata
    };
    let deep = Array::Arrays(vec![Array::Arrays(vec![Array::Arrays(vec![])])]);
    let cases: &[(Metadata, Vec<TensorHeader>, &str)] = &[
        (metadata(), vec![header("a", &[1], Format::F32), header("a", &[1], Format::F32)], "tensor \"a\" occurs more"),
        (metadata(), vec![header("", &[1], Format::F32)], "name of tensor number 0 is empty"),
        (metadata(), vec![header(&"n".repeat(65), &[1], Format::F32)], "length of name is 65, the limit is 64"),
        (metadata(), vec![header("a", &[], Format::F32)], "number of dimensions is 0"),
        (metadata(), vec![header("a", &[1; 5], Format::F32)], "number of dimensions is 5, the limit is 4"),
        (metadata(), vec![header("a", &[2, 0], Format::F32)], "shape is [2, 0]"),
        (metadata(), vec![header("a", &[2, 16], Format::Q8_0)], "row length is 16, must be a multiple of 32"),
        (metadata(), vec![header("a", &[usize::MAX, 2], Format::F32)], "of a size that fits 64 bits"),
        (
            metadata(),
            vec![header("a", &[1 << 61], Format::F32), header("b", &[1 << 61], Format::F32)],
            "tensor \"b\": size of all tensors up to it is above 2^64",
        ),
        (with("", Value::U8(1)), vec![], "key of metadata entry number 1 is empty"),
        (with("k", Value::String("x".repeat((16 << 20) + 1))), vec![], "16777217, the limit is 16777216"),
        (with("k", Value::Array(deep)), vec![], "nesting of arrays is 3, the limit is 2"),
        (with("general.alignment", Value::U32(12)), vec![], "general.alignment is 12"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (metadata, headers, expected) in cases {
        let text = Writer::create(&dir.path().join("model.gguf"), metadata, headers).unwrap_err().to_string();
        assert!(text.contains(expected) && text.contains("model.gguf"), "{expected:?} is not in: {text}");
    }
    assert_eq!(file_names(dir.path()), <[&str; 0]>::default());
}

#[test]
fn data_must_fit_the_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut writer = Writer::create(&path, &metadata(), &[header("a", &[4], Format::F32)]).unwrap();
    writer.write(&[0; 10]).unwrap();
    let text = writer.write(&[0; 7]).unwrap_err().to_string();
    assert!(text.contains("tensor \"a\" is 7, must be at most 6 bytes"), "{text}");
    writer.write(&[0; 6]).unwrap();
    let text = writer.write(&[0; 1]).unwrap_err().to_string();
    assert!(text.contains("data after the last tensor is 1"), "{text}");
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = Writer::create(&dir.path().join("none/model.gguf"), &metadata(), &[]).unwrap_err().to_string();
    assert!(text.contains("none/model.gguf: No such file"), "{text}");
}

fn metadata() -> Metadata {
    let mut metadata = Metadata::default();
    metadata.insert("general.architecture", "test");
    metadata
}

fn header(name: &str, shape: &[usize], format: Format) -> TensorHeader {
    TensorHeader { name: name.to_owned(), shape: shape.to_vec(), format }
}

fn file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
