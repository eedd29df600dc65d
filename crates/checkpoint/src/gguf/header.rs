//! The fixed first 24 bytes.

use super::cursor::Cursor;
use crate::error::capped;
use crate::{CheckpointError, limits};

pub(super) const MAGIC: &[u8; 4] = b"GGUF";
/// The magic as a big-endian writer that swaps it as well would leave it.
pub(super) const MAGIC_SWAPPED: &[u8; 4] = b"FUGG";
/// The version that we write.
pub(super) const VERSION: u32 = 3;
/// Key length, one byte of key, type, one byte of value.
const METADATA_ENTRY_BYTES_MIN: u64 = 8 + 1 + 4 + 1;
/// Name length, one byte of name, dimensions, one size, type, offset.
const TENSOR_BYTES_MIN: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// What follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) tensor_count: u64,
    pub(super) metadata_count: u64,
}

/// Reads the header of a file that [`super::is_gguf`].
pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Header, CheckpointError> {
    let magic = cursor.array::<4>("magic")?;
    let version = cursor.u32("GGUF version")?;
    if &magic == MAGIC_SWAPPED || (version & 0xffff == 0 && version != 0) {
        return Err(unsupported("byte order", "big-endian".to_owned(), "little-endian"));
    }
    if !matches!(version, 2 | 3) {
        return Err(unsupported("GGUF version", version.to_string(), "2 and 3"));
    }
    let tensor_count = capped("number of tensors", cursor.u64("number of tensors")?, limits::TENSORS)?;
    let metadata_count =
        capped("number of metadata entries", cursor.u64("number of metadata entries")?, limits::METADATA_ENTRIES)?;
    cursor.check_count(metadata_count, METADATA_ENTRY_BYTES_MIN, "metadata entries")?;
    cursor.check_count(tensor_count, TENSOR_BYTES_MIN, "tensors")?;
    Ok(Header { tensor_count, metadata_count })
}

fn unsupported(what: &str, value: String, supported: &str) -> CheckpointError {
    CheckpointError::Unsupported { what: what.to_owned(), value, supported: supported.to_owned() }
}
