//! What a model takes besides its network. These are estimates, in contrast to all else in a plan:
//! `scripts/testing/measure-plan.py` compares plans with what servers take.

use checkpoint::{Checkpoint, Description};

/// The program's own code and data, its threads, and what requests on their way take.
const BASE_BYTES: u64 = 18 << 20;
/// A token or a merge in the tables of a tokenizer, measured on vocabularies of 32,000 to 262,144 tokens: hash tables
/// grow by doubling, so single ones take up to a third more or less.
const ENTRY_BYTES: u64 = 100;
/// The same by the bytes of `tokenizer.json`, where an entry takes about 33.
const TABLES_BY_FILE: u64 = 3;

/// While a tokenizer is read it takes this many times what it then keeps, measured on one of 98,000 entries.
const READING: u64 = 3;

/// Bytes for which there must be room while the tokenizer of a model is read.
pub(crate) fn reading_bytes(checkpoint: &Checkpoint) -> u64 {
    READING * tokenizer_bytes(checkpoint)
}

/// Bytes of the program with the tokenizer of a model.
pub(super) fn program_bytes(checkpoint: &Checkpoint) -> u64 {
    BASE_BYTES + tokenizer_bytes(checkpoint)
}

fn tokenizer_bytes(checkpoint: &Checkpoint) -> u64 {
    match checkpoint.description() {
        Description::Gguf(metadata) => {
            // A list of another type is none; the tokenizer says so when it is made.
            let entries = |key| metadata.strings(key).ok().flatten().map_or(0, <[String]>::len) as u64;
            ENTRY_BYTES * (entries("tokenizer.ggml.tokens") + entries("tokenizer.ggml.merges"))
        }
        Description::HuggingFace(config) => {
            let file = std::fs::metadata(config.dir.join("tokenizer.json"));
            TABLES_BY_FILE * file.map_or(0, |file| file.len())
        }
    }
}
