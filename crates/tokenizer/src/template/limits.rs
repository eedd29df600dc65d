//! What a chat template may use. A template is code from a model file, so every resource has a bound.
//!
//! Time and memory share one budget, minijinja's fuel: about one unit an instruction and one for each 64 bytes of any
//! value that a template makes. It grows with the input, so that a long conversation does not run dry.

use std::io;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Longest template source.
pub const MAX_SOURCE_BYTES: usize = 1 << 20;

/// Longest output: this many times the input (source and values), and [`BASE_OUTPUT_BYTES`] more.
pub const OUTPUT_PER_INPUT: usize = 4;
/// See [`OUTPUT_PER_INPUT`].
pub const BASE_OUTPUT_BYTES: usize = 1 << 20;

/// Deepest nesting of calls, loops and blocks.
pub(super) const MAX_RECURSION: usize = 200;

/// Deepest nesting of the values given to a template.
pub(super) const MAX_VALUE_DEPTH: usize = 128;

/// Bytes of a made value that one unit of fuel pays for, as in minijinja.
pub(super) const BYTES_PER_FUEL: u64 = 64;

const BASE_FUEL: u64 = 600_000;
const FUEL_PER_INPUT_BYTE: u64 = 32;
const MAX_FUEL: u64 = 16_000_000;

/// The budget for a render whose source and values have this many bytes.
pub(super) fn fuel(input_bytes: usize) -> u64 {
    (input_bytes as u64).saturating_mul(FUEL_PER_INPUT_BYTE).saturating_add(BASE_FUEL).min(MAX_FUEL)
}

/// The longest output for a render whose source and values have this many bytes.
pub(super) fn output_bytes(input_bytes: usize) -> usize {
    input_bytes.saturating_mul(OUTPUT_PER_INPUT).saturating_add(BASE_OUTPUT_BYTES)
}

/// Pays for all items of a value, however deep, and refuses one that is too deep.
///
/// Parts that occur many times are paid each time, for whoever walks the value walks them each time.
pub(super) fn pay_items(state: &State, value: &Value) -> Result<(), Error> {
    fn walk(state: &State, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_VALUE_DEPTH {
            let message = format!("value nests deeper than {MAX_VALUE_DEPTH}");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
            return Ok(());
        }
        for item in value.try_iter()?.checked() {
            let item = item?;
            state.consume_fuel(1)?;
            match value.kind() {
                ValueKind::Map => walk(state, &value.get_item(&item)?, depth + 1)?,
                _ => walk(state, &item, depth + 1)?,
            }
        }
        Ok(())
    }
    walk(state, value, 0)
}

/// Collects output up to a limit; the write that would pass it fails and is not kept.
pub(super) struct BoundedOutput {
    pub(super) bytes: Vec<u8>,
    pub(super) limit: usize,
    pub(super) overflowed: bool,
}

impl io::Write for BoundedOutput {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        if chunk.len() > self.limit - self.bytes.len() {
            self.overflowed = true;
            return Err(io::Error::other("output limit reached"));
        }
        self.bytes.extend_from_slice(chunk);
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
