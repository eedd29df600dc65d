//! A reading position in a hostile file: every read is checked against what is left, every allocation against a budget.

use crate::error::capped;
use crate::{CheckpointError, limits};

/// Reads little-endian values one after another.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    file: &'a [u8],
    position: usize,
    budget_bytes: u64,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte with a budget of [`limits::METADATA_BYTES`].
    pub(super) fn new(file: &'a [u8]) -> Cursor<'a> {
        Cursor { file, position: 0, budget_bytes: limits::METADATA_BYTES }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Bytes not read yet.
    pub(super) fn remaining_bytes(&self) -> u64 {
        (self.file.len() - self.position) as u64
    }

    /// The next `len` bytes.
    pub(super) fn bytes(&mut self, len: u64, what: &str) -> Result<&'a [u8], CheckpointError> {
        self.check_remaining(len, what)?;
        let start = self.position;
        self.position += usize::try_from(len).expect("not more than the file's own length");
        Ok(&self.file[start..self.position])
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], CheckpointError> {
        Ok(self.bytes(N as u64, what)?.try_into().expect("N bytes were asked for"))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, CheckpointError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, CheckpointError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string of at most `limit` bytes, borrowed.
    pub(super) fn str(&mut self, what: &str, limit: u64) -> Result<&'a str, CheckpointError> {
        let len = self.u64(what)?;
        let bytes = self.bytes(capped_len(what, len, limit)?, what)?;
        std::str::from_utf8(bytes).map_err(|fault| {
            let start = fault.valid_up_to();
            let found = bytes[start..bytes.len().min(start + 4)].escape_ascii();
            CheckpointError::invalid(what, format!("\"{found}\" at its byte {start}"), "UTF-8")
        })
    }

    /// Checks that `count` items of at least `item_bytes` each can still follow.
    pub(super) fn check_count(&self, count: u64, item_bytes: u64, items: &str) -> Result<(), CheckpointError> {
        self.check_remaining(count.saturating_mul(item_bytes), &format!("a list of {count} {items}"))
    }

    /// Takes memory that decoded metadata is about to occupy out of the budget.
    pub(super) fn charge(&mut self, size_bytes: u64) -> Result<(), CheckpointError> {
        match self.budget_bytes.checked_sub(size_bytes) {
            Some(left) => self.budget_bytes = left,
            None => {
                let used = limits::METADATA_BYTES - self.budget_bytes;
                capped("decoded metadata in bytes", used.saturating_add(size_bytes), limits::METADATA_BYTES)?;
            }
        }
        Ok(())
    }

    fn check_remaining(&self, needed_bytes: u64, what: &str) -> Result<(), CheckpointError> {
        let available_bytes = self.remaining_bytes();
        if needed_bytes > available_bytes {
            return Err(CheckpointError::Truncated { what: what.to_owned(), needed_bytes, available_bytes });
        }
        Ok(())
    }
}

fn capped_len(what: &str, len: u64, limit: u64) -> Result<u64, CheckpointError> {
    capped(&format!("length of {what}"), len, limit)
}
