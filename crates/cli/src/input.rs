//! Texts that commands read: bounded, UTF-8, with an error that names where they come from.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Most bytes of a text.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// All of standard input.
pub(crate) fn read_input() -> Result<String> {
    read(std::io::stdin().lock()).context("standard input")
}

/// All of a file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let read_file = || read(File::open(path)?);
    read_file().with_context(|| path.display().to_string())
}

fn read(source: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    source.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        bail!("more than {MAX_TEXT_BYTES} bytes");
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let at = error.valid_up_to();
        anyhow::anyhow!("not UTF-8 at byte {at}: \\x{:02x}", bytes[at])
    })?;
    Ok(text.to_owned())
}
