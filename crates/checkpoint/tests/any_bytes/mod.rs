//! What the fuzz target does with each input: opens it as a model, GGUF or safetensors by its first bytes, JSON as the
//! configuration and the index of a directory. Nothing may panic, and every tensor that opens must be readable to its
//! last byte.

use std::cell::LazyCell;
use std::path::Path;

use checkpoint::{Checkpoint, Summary};
use tempfile::TempDir;

thread_local! {
    /// `file/`: a configuration, and room for a model file. `directory/`: a shard, and room for JSON.
    static ROOM: LazyCell<TempDir> = LazyCell::new(|| {
        let room = tempfile::tempdir().expect("a temporary directory");
        for name in ["file", "directory"] {
            std::fs::create_dir(room.path().join(name)).expect("a fresh directory");
        }
        write(&room.path().join("file/config.json"), br#"{"num_hidden_layers":2,"hidden_size":8}"#);
        let header = br#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let shard = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
        write(&room.path().join("directory/a.safetensors"), &shard);
        room
    });
}

/// Opens `data` as a model; true when that could be done.
pub(crate) fn open(data: &[u8]) -> bool {
    ROOM.with(|room| {
        if data.first() == Some(&b'{') {
            let directory = room.path().join("directory");
            write(&directory.join("config.json"), data);
            write(&directory.join("model.safetensors.index.json"), data);
            open_path(&directory)
        } else {
            let file = room.path().join("file/model");
            write(&file, data);
            open_path(&file)
        }
    })
}

fn open_path(path: &Path) -> bool {
    let Ok(checkpoint) = Checkpoint::open(path) else { return false };
    for tensor in checkpoint.tensors() {
        let sum = tensor.data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        std::hint::black_box(sum);
        if tensor.shape.len() <= 2 {
            let view = tensor.matrix().expect("one or two dimensions");
            std::hint::black_box(view.row(view.rows - 1));
        }
    }
    let _ = Summary::of(&checkpoint);
    true
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a writable temporary directory");
}
