//! The caps on what a model file may ask for, each in one place; crates `model` and `tokenizer` go by them too. They are
//! far above every published model and far below what would hurt: a cap is checked before the allocation or the loop
//! that it guards.

/// Longest string in GGUF metadata.
pub const STRING_BYTES: u64 = 16 << 20;
/// Longest key in GGUF metadata (the specification's own limit).
pub const KEY_BYTES: u64 = u16::MAX as u64;
/// Most entries in GGUF metadata.
pub const METADATA_ENTRIES: u64 = 1 << 16;
/// Most memory that decoded GGUF metadata may take. (Gemma's 262,144 tokens take 12 MiB.)
pub const METADATA_BYTES: u64 = 256 << 20;
/// Deepest nesting of arrays in GGUF metadata.
pub const ARRAY_DEPTH: u64 = 2;
/// Most tensors in a model, over all its files.
pub const TENSORS: u64 = 1 << 16;
/// Longest tensor name in GGUF (the specification's own limit).
pub const GGUF_TENSOR_NAME_BYTES: u64 = 64;
/// Most dimensions of a tensor in GGUF.
pub const GGUF_DIMS: u64 = 4;
/// Most dimensions of a tensor in safetensors (vision models have convolutions of 5).
pub const SAFETENSORS_DIMS: u64 = 8;
/// Smallest `general.alignment`.
pub const ALIGNMENT_MIN: u64 = 8;
/// Greatest `general.alignment`.
pub const ALIGNMENT_MAX: u64 = 1 << 20;
/// Most files of one model.
pub const PARTS: u64 = 1_000;
/// Largest JSON header of a safetensors file.
pub const SAFETENSORS_HEADER_BYTES: u64 = 16 << 20;
/// Largest `config.json`.
pub const CONFIG_BYTES: u64 = 4 << 20;
/// Largest `model.safetensors.index.json`.
pub const INDEX_BYTES: u64 = 16 << 20;
/// Deepest nesting in a JSON file.
pub const JSON_DEPTH: u64 = 64;
/// Most values in `config.json`: a parsed value takes about 80 bytes, however short its text.
pub const CONFIG_VALUES: u64 = 100_000;
/// Most values in a safetensors header or index: up to 16 for each of [`TENSORS`].
pub const INDEX_VALUES: u64 = 16 * TENSORS;
/// Most layers of a network.
pub const LAYERS: u64 = 1_024;
/// Most heads of a layer.
pub const HEADS: u64 = 1_024;
/// Greatest width of a head.
pub const HEAD_DIM: u64 = 1_024;
/// Greatest width of the hidden state.
pub const WIDTH: u64 = 1 << 17;
/// Greatest width of an MLP.
pub const MLP_WIDTH: u64 = 1 << 20;
/// Most tokens in a vocabulary; the largest known have 262,208.
pub const VOCABULARY: u64 = 1 << 21;
/// Longest context, in tokens.
pub const CONTEXT: u64 = 1 << 24;
