//! GGUF, versions 2 and 3, little-endian.
//!
//! ```text
//! header      magic "GGUF", version u32, tensor count u64, metadata count u64
//! metadata    count x { key string, type u32, value }
//! tensors     count x { name string, dimensions u32, sizes u64[dimensions] innermost first, type u32, offset u64 }
//! padding     to general.alignment (32)
//! data        offsets count from here
//! ```
//! A string is a u64 length and that many bytes of UTF-8. The specification: `ggml/docs/gguf.md`.

mod cursor;
mod header;
mod metadata;
mod parse;
mod split;
mod tensors;
mod write;

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::mmap::Mapping;
use crate::tensor::Extent;
use crate::{CheckpointError, Description};
use cursor::Cursor;

pub use metadata::{Array, Metadata, Value};
pub use write::{TensorHeader, Writer, partial_path};

/// Where tensor data begins, and each tensor in it, when `general.alignment` does not say otherwise.
pub const ALIGNMENT: u32 = 32;

/// Whether a file calls itself GGUF.
pub(crate) fn is_gguf(file: &[u8]) -> bool {
    file.starts_with(header::MAGIC) || file.starts_with(header::MAGIC_SWAPPED)
}

/// Opens the model of which `mapping` (the file at `path`) is the only file or one part.
pub(crate) fn open(path: &Path, mapping: Mapping) -> Result<Checkpoint, CheckpointError> {
    let part = Part::read(path, mapping)?;
    let (metadata, tensors) = split::gather(path, part)?;
    Ok(Checkpoint::new(path, Description::Gguf(metadata), tensors))
}

/// One GGUF file.
#[derive(Debug)]
struct Part {
    metadata: Metadata,
    tensors: Vec<(String, Extent)>,
    mapping: Mapping,
}

impl Part {
    fn open(path: &Path) -> Result<Part, CheckpointError> {
        Part::read(path, Mapping::open(path)?)
    }

    fn read(path: &Path, mapping: Mapping) -> Result<Part, CheckpointError> {
        let bytes = mapping.bytes();
        let (metadata, tensors) = read(bytes, bytes.len()).map_err(|fault| fault.in_file(path))?;
        Ok(Part { metadata, tensors, mapping })
    }
}

/// Reads all that stands before the data: `start` is at least that much of a file of `file_bytes` bytes.
fn read(start: &[u8], file_bytes: usize) -> Result<(Metadata, Vec<(String, Extent)>), CheckpointError> {
    let mut cursor = Cursor::new(start);
    let header = header::read(&mut cursor)?;
    let metadata = parse::metadata(&mut cursor, header.metadata_count)?;
    let alignment = parse::alignment(&metadata)?;
    let tensors = tensors::read(&mut cursor, header.tensor_count, alignment, file_bytes)?;
    Ok((metadata, tensors))
}
