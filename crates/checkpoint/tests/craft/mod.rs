//! GGUF and safetensors files made byte by byte, so that each can be wrong in one way.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};

/// Type numbers of GGUF metadata values.
pub(crate) const U8: u32 = 0;
pub(crate) const U32: u32 = 4;
pub(crate) const F32: u32 = 6;
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;
pub(crate) const U64: u32 = 10;

/// A GGUF file in the making.
#[derive(Clone, Default)]
pub(crate) struct Gguf(pub(crate) Vec<u8>);

impl Gguf {
    /// A version 3 header.
    pub(crate) fn new(tensors: u64, entries: u64) -> Gguf {
        Gguf::with_header(b"GGUF", 3, tensors, entries)
    }

    pub(crate) fn with_header(magic: &[u8; 4], version: u32, tensors: u64, entries: u64) -> Gguf {
        Gguf(magic.to_vec()).u32(version).u64(tensors).u64(entries)
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Gguf {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn u32(self, number: u32) -> Gguf {
        self.bytes(&number.to_le_bytes())
    }

    pub(crate) fn u64(self, number: u64) -> Gguf {
        self.bytes(&number.to_le_bytes())
    }

    pub(crate) fn string(self, text: &str) -> Gguf {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    /// Key and type of an entry; the value comes next.
    pub(crate) fn key(self, key: &str, kind: u32) -> Gguf {
        self.string(key).u32(kind)
    }

    pub(crate) fn entry_u32(self, key: &str, value: u32) -> Gguf {
        self.key(key, U32).u32(value)
    }

    pub(crate) fn entry_string(self, key: &str, value: &str) -> Gguf {
        self.key(key, STRING).string(value)
    }

    /// A descriptor; `dims` innermost first as in the file.
    pub(crate) fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Gguf {
        let start = self.string(name).u32(dims.len() as u32);
        dims.iter().fold(start, |file, &dim| file.u64(dim)).u32(kind).u64(offset)
    }

    /// Padding and then `len` bytes of data.
    pub(crate) fn data(mut self, len: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 1);
        self.0
    }

    /// The file as it stands.
    pub(crate) fn end(self) -> Vec<u8> {
        self.0
    }
}

/// A safetensors file with this header and `data_bytes` of data.
pub(crate) fn safetensors(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut file = safetensors_bytes(header.as_bytes());
    file.resize(file.len() + data_bytes, 0);
    file
}

/// A safetensors file without data, and with a header that need not be text.
pub(crate) fn safetensors_bytes(header: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file
}

/// Writes files into a fresh directory and says where the first one lies.
pub(crate) fn written(files: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in files {
        write(&dir.path().join(name), bytes);
    }
    let first = dir.path().join(files[0].0);
    (dir, first)
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a writable directory");
}

/// A real model, or `None` with a visible line.
pub(crate) fn model(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("FRONTIER_MODELS").map(PathBuf::from).unwrap_or_else(|| {
        Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/frontier/test-models")
    });
    found(dir.join(name))
}

/// A folder of the shared test data, or `None` with a visible line.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("FRONTIER_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
    found(root.join("data").join(name))
}

fn found(path: PathBuf) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}
