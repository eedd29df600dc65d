//! Valid files, changed at random: opening them never panics, never takes long, never holds much memory, and what opens
//! is sound: every tensor has exactly the bytes of its shape.
//!
//! A failure prints the smallest input that fails.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod alloc;
mod craft;

use std::path::Path;
use std::time::{Duration, Instant};

use checkpoint::gguf::{TensorHeader, Writer};
use checkpoint::{Array, Checkpoint, CheckpointError, Metadata, Summary, Value};
use craft::{safetensors, written};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tensor::Format;

/// The most that opening may hold at once; the files have less than 20 KiB.
const PEAK_BYTES_MAX: usize = 1 << 20;
/// Generous, as the machine may be busy; an endless loop or 2^32 steps would be far above.
const TIME_MAX: Duration = Duration::from_millis(1_000);

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(2_000))]

    /// The bytes of a GGUF file: flipped, overwritten, cut, doubled, taken out.
    #[test]
    fn gguf_structure(edits in vec(edit(), 1..4)) {
        let mut bytes = valid_gguf(&llama_metadata());
        edits.iter().for_each(|edit| edit.apply(&mut bytes));
        let _ = check_file("model.gguf", &bytes);
    }

    /// The metadata of a GGUF file, in a structure that stays valid: this reaches what broken structure never does.
    #[test]
    fn gguf_metadata(changes in vec(change(), 1..4)) {
        let mut metadata = llama_metadata();
        changes.into_iter().for_each(|change| change.apply(&mut metadata));
        let _ = check_file("model.gguf", &valid_gguf(&metadata));
    }

    /// The bytes of a safetensors file.
    #[test]
    fn safetensors_structure(edits in vec(edit(), 1..4)) {
        let mut bytes = valid_safetensors();
        edits.iter().for_each(|edit| edit.apply(&mut bytes));
        let result = check_file("model.safetensors", &bytes);
        if let Ok(summary) = result {
            // Another implementation of the format agrees.
            let theirs = ::safetensors::SafeTensors::deserialize(&bytes).expect("we accept it");
            prop_assert_eq!(theirs.len(), summary.tensors);
        }
    }

    /// The text of config.json.
    #[test]
    fn config_structure(edits in vec(edit(), 1..4)) {
        let mut config = CONFIG.as_bytes().to_vec();
        edits.iter().for_each(|edit| edit.apply(&mut config));
        let _ = check(&[("model.safetensors", &valid_safetensors()), ("config.json", &config)]);
    }

    /// The values of config.json.
    #[test]
    fn config_values(key in any::<Index>(), value in json_value()) {
        let mut config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
        let entries = config.as_object_mut().unwrap();
        *entries.values_mut().nth(key.index(CONFIG_KEYS)).unwrap() = value;
        let _ = check(&[("model.safetensors", &valid_safetensors()), ("config.json", config.to_string().as_bytes())]);
    }
}

/// The base of all mutations opens: otherwise they would show nothing.
#[test]
fn unchanged_files_open() {
    let result = check_file("model.gguf", &valid_gguf(&llama_metadata()));
    let summary = result.unwrap();
    assert_eq!(
        (summary.parameters, summary.size_bytes),
        (8 * 64 + 2 * 64 * 64 + 64, 8 * 64 * 4 + 2 * 64 * 68 + 64 * 2)
    );
    assert_eq!(summary.kv_bytes_per_token, Some(2 * 2 * (16 + 16) * 2));
    let result = check_file("model.safetensors", &valid_safetensors());
    let summary = result.unwrap();
    assert_eq!((summary.tensors, summary.parameters), (2, 20));
    assert_eq!(summary.kv_bytes_per_token, Some(2 * 2 * (16 + 16) * 2));
    assert_eq!(serde_json::from_str::<serde_json::Value>(CONFIG).unwrap().as_object().unwrap().len(), CONFIG_KEYS);
}

/// Mutations must reach the inside: neither all nor none may open.
#[test]
fn mutations_are_neither_all_refused_nor_all_harmless() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut opened = 0;
    for _ in 0..200 {
        let mut metadata = llama_metadata();
        change().new_tree(&mut runner).unwrap().current().apply(&mut metadata);
        opened += usize::from(check_file("model.gguf", &valid_gguf(&metadata)).is_ok());
    }
    assert!((20..180).contains(&opened), "{opened} of 200 opened");
}

/// One change to the bytes of a file.
#[derive(Clone, Debug)]
enum Edit {
    Flip { at: Index, bits: u8 },
    Overwrite { at: Index, bytes: Vec<u8> },
    Insert { at: Index, bytes: Vec<u8> },
    Remove { at: Index, len: usize },
    Double { at: Index, len: usize },
    Cut { at: Index },
}

impl Edit {
    fn apply(&self, file: &mut Vec<u8>) {
        let len_bytes = file.len();
        let range = |at: &Index, len: usize| {
            let start = at.index(len_bytes + 1);
            start..len_bytes.min(start + len)
        };
        match self {
            Edit::Flip { at, bits } => file[range(at, 1)].iter_mut().for_each(|byte| *byte ^= bits),
            Edit::Overwrite { at, bytes } => {
                let range = range(at, bytes.len());
                let len = range.len();
                file[range].copy_from_slice(&bytes[..len]);
            }
            Edit::Insert { at, bytes } => drop(file.splice(range(at, 0), bytes.iter().copied())),
            Edit::Remove { at, len } => drop(file.drain(range(at, *len))),
            Edit::Double { at, len } => file.extend_from_within(range(at, *len)),
            Edit::Cut { at } => file.truncate(range(at, 0).start),
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        (at(), 1..=255u8).prop_map(|(at, bits)| Edit::Flip { at, bits }),
        (at(), bytes()).prop_map(|(at, bytes)| Edit::Overwrite { at, bytes }),
        (at(), bytes()).prop_map(|(at, bytes)| Edit::Insert { at, bytes }),
        (at(), 1..64usize).prop_map(|(at, len)| Edit::Remove { at, len }),
        (at(), 1..64usize).prop_map(|(at, len)| Edit::Double { at, len }),
        at().prop_map(|at| Edit::Cut { at }),
    ]
}

/// Numbers that counts, sizes and offsets go wrong at, digits and brackets that JSON goes wrong at, noise.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        extreme().prop_map(|number| number.to_le_bytes().to_vec()),
        extreme().prop_map(|number| (number as u32).to_le_bytes().to_vec()),
        extreme().prop_map(|number| number.to_string().into_bytes()),
        prop::sample::select(vec!["[", "]", "{", "}", "\"", ",", ":", "-", "null", "1e308", "\\u0000", "\\"])
            .prop_map(|text| text.as_bytes().to_vec()),
        vec(any::<u8>(), 1..9),
    ]
}

fn extreme() -> impl Strategy<Value = u64> {
    let around = prop::sample::select(vec![0u64, 1 << 7, 1 << 8, 1 << 16, 1 << 24, 1 << 31, 1 << 32, 1 << 61, 1 << 63]);
    prop_oneof![(around, 0..3u64).prop_map(|(number, step)| number.wrapping_add(step).wrapping_sub(1)), any::<u64>()]
}

/// One change to metadata.
#[derive(Clone, Debug)]
enum Change {
    Replace { key: Index, value: Value },
    Remove { key: Index },
    Add { key: String, value: Value },
}

impl Change {
    fn apply(self, metadata: &mut Metadata) {
        let pick = |key: Index| metadata.iter().nth(key.index(metadata.len())).unwrap().0.to_owned();
        match self {
            _ if metadata.is_empty() => {}
            Change::Replace { key, value } => drop(metadata.insert(pick(key), value)),
            Change::Remove { key } => drop(metadata.remove(&pick(key))),
            Change::Add { key, value } => drop(metadata.insert(key, value)),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let known = prop::sample::select(vec!["split.count", "split.no", "split.tensors.count", "llama.vocab_size"]);
    let key = prop_oneof![known.prop_map(str::to_owned), "[a-z.\\PC]{1,12}"];
    prop_oneof![
        6 => (any::<Index>(), value()).prop_map(|(key, value)| Change::Replace { key, value }),
        1 => any::<Index>().prop_map(|key| Change::Remove { key }),
        2 => (key, value()).prop_map(|(key, value)| Change::Add { key, value }),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => extreme().prop_map(|number| Value::U8(number as u8)),
        1 => extreme().prop_map(|number| Value::I8(number as i8)),
        1 => extreme().prop_map(|number| Value::U16(number as u16)),
        1 => extreme().prop_map(|number| Value::I16(number as i16)),
        4 => extreme().prop_map(|number| Value::U32(number as u32)),
        2 => (0..512u32).prop_map(Value::U32),
        1 => extreme().prop_map(|number| Value::I32(number as i32)),
        1 => extreme().prop_map(Value::U64),
        1 => extreme().prop_map(|number| Value::I64(number as i64)),
        1 => any::<f32>().prop_map(Value::F32),
        1 => any::<f64>().prop_map(Value::F64),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => "\\PC{0,20}".prop_map(Value::String),
        1 => vec(extreme(), 0..5).prop_map(|n| Value::Array(Array::U32(n.into_iter().map(|n| n as u32).collect()))),
        1 => vec(any::<f32>(), 0..5).prop_map(|numbers| Value::Array(Array::F32(numbers))),
        1 => vec("\\PC{0,5}", 0..5).prop_map(|strings| Value::Array(Array::Strings(strings))),
        1 => vec(vec(any::<u8>(), 0..3), 0..3)
            .prop_map(|arrays| Value::Array(Array::Arrays(arrays.into_iter().map(Array::U8).collect()))),
    ]
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        extreme().prop_map(|number| number.into()),
        extreme().prop_map(|number| (number as i64).into()),
        any::<f64>().prop_map(|number| number.into()),
        any::<bool>().prop_map(|truth| truth.into()),
        "\\PC{0,20}".prop_map(|text| text.into()),
        Just(serde_json::Value::Null),
        vec(extreme(), 0..4).prop_map(|numbers| numbers.into()),
        extreme().prop_map(|number| serde_json::json!({ "num_hidden_layers": number, "head_dim": number })),
    ]
}

fn check_file(name: &str, bytes: &[u8]) -> Result<Summary, CheckpointError> {
    check(&[(name, bytes), ("config.json", CONFIG.as_bytes())])
}

/// Opens the first file, sums it up and reads its tensors. A fault is as good as a summary: what counts is how.
fn check(files: &[(&str, &[u8])]) -> Result<Summary, CheckpointError> {
    let (_dir, path) = written(files);
    let started = Instant::now();
    let (result, peak) = alloc::peak_bytes(|| open(&path));
    let took = started.elapsed();
    assert!(peak <= PEAK_BYTES_MAX, "held {peak} bytes");
    assert!(took < TIME_MAX, "took {took:?}");
    if let Err(fault) = &result {
        assert!(!fault.to_string().contains(|char: char| char.is_control()), "not one plain line: {fault:?}");
    }
    result
}

fn open(path: &Path) -> Result<Summary, CheckpointError> {
    let checkpoint = Checkpoint::open(path)?;
    for tensor in checkpoint.tensors() {
        let row_bytes = tensor.format.row_bytes(*tensor.shape.last().unwrap()).unwrap();
        assert_eq!(tensor.data.len(), tensor.value_count() / tensor.shape.last().unwrap() * row_bytes, "{tensor:?}");
        // Touches the first and the last page: outside the file this would be a signal.
        std::hint::black_box((tensor.data[0], tensor.data[tensor.data.len() - 1]));
        assert_eq!(checkpoint.tensor(tensor.name).unwrap().data.as_ptr(), tensor.data.as_ptr());
    }
    Summary::of(&checkpoint)
}

fn llama_metadata() -> Metadata {
    let mut metadata = Metadata::default();
    metadata.insert("general.architecture", "llama");
    metadata.insert("general.name", "tiny");
    metadata.insert("general.alignment", 32u32);
    metadata.insert("llama.block_count", 2u32);
    metadata.insert("llama.context_length", 128u32);
    metadata.insert("llama.embedding_length", 64u32);
    metadata.insert("llama.attention.head_count", 4u32);
    metadata.insert("llama.attention.head_count_kv", vec![2u32, 2]);
    metadata.insert("llama.attention.key_length", 16u32);
    metadata.insert("llama.attention.value_length", 16u32);
    metadata.insert("llama.rope.freq_base", 10_000f32);
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", "smollm");
    metadata.insert("tokenizer.ggml.tokens", ["a", "b", "c", "<s>"].map(str::to_owned).to_vec());
    metadata.insert("tokenizer.ggml.token_type", vec![1i32, 1, 1, 3]);
    metadata.insert("tokenizer.ggml.scores", vec![0f32, -1.0, -2.0, 0.0]);
    metadata.insert("tokenizer.chat_template", "{{ messages }}");
    metadata.insert("tokenizer.ggml.add_bos_token", true);
    metadata
}

/// A small model with these metadata. Where our writer rightly refuses them, a file made by hand stands in, so that the
/// reader has to refuse it too.
fn valid_gguf(metadata: &Metadata) -> Vec<u8> {
    let header = |name: &str, shape: &[usize], format| TensorHeader { name: name.into(), shape: shape.into(), format };
    let tensors = [
        header("token_embd.weight", &[8, 64], Format::F32),
        header("blk.0.attn_q.weight", &[64, 64], Format::Q8_0),
        header("blk.1.attn_q.weight", &[64, 64], Format::Q8_0),
        header("output_norm.weight", &[64], Format::F16),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let Ok(mut writer) = Writer::create(&path, metadata, &tensors) else { return with_raw_alignment(metadata) };
    for tensor in &tensors {
        let rows: usize = tensor.shape[..tensor.shape.len() - 1].iter().product();
        writer.write(&vec![7; rows * tensor.format.row_bytes(*tensor.shape.last().unwrap()).unwrap()]).unwrap();
    }
    writer.finish().unwrap();
    std::fs::read(&path).unwrap()
}

/// The only value that the writer refuses here is a bad alignment.
fn with_raw_alignment(metadata: &Metadata) -> Vec<u8> {
    let number = match metadata.get("general.alignment") {
        Some(Value::U32(number)) => *number,
        _ => 0,
    };
    craft::Gguf::new(1, 1).entry_u32("general.alignment", number).tensor("t", &[8], 0, 0).data(32)
}

fn valid_safetensors() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[64,72]}}"#;
    safetensors(header, 72)
}

const CONFIG_KEYS: usize = 9;
const CONFIG: &str = r#"{
  "model_type": "llama",
  "num_hidden_layers": 2,
  "hidden_size": 64,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 16,
  "max_position_embeddings": 128,
  "vocab_size": 8,
  "rope_scaling": null
}"#;
