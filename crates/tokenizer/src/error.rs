//! What can be wrong with a vocabulary, or with a text for it.

use std::io;
use std::path::PathBuf;

use checkpoint::CheckpointError;
use thiserror::Error;

use crate::sandbox::Failure;

/// Why a tokenizer did not load, or did not accept a text or an id.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The model says nothing about its vocabulary.
    #[error("the model has no tokenizer: {0} is missing")]
    Missing(String),
    /// A kind of tokenizer, or a part of one, that is not implemented.
    #[error("{what} {found:?} is not supported; supported: {supported}")]
    Unsupported {
        /// What it is: `tokenizer model`, `pre-tokenizer` and so on.
        what: &'static str,
        /// Its name in the file.
        found: String,
        /// The names that are.
        supported: String,
    },
    /// A value that no valid tokenizer has.
    #[error("{what} is {found}, expected {wanted}")]
    Invalid {
        /// The key, token or field.
        what: String,
        /// What the file says.
        found: String,
        /// What would be right.
        wanted: String,
    },
    /// Something exceeds a limit.
    #[error("{what} is {found}, the limit is {limit}")]
    TooLarge {
        /// What was measured, with its unit.
        what: String,
        /// The measure.
        found: u64,
        /// The most that is accepted.
        limit: u64,
    },
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The metadata of a GGUF file is not as expected.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Building the tokenizer failed, panicked, or took too long.
    #[error("tokenizer cannot be built: {0}")]
    Rejected(String),
    /// A text could not be encoded.
    #[error("text of {bytes} bytes cannot be tokenized: {reason}")]
    Text {
        /// Length of the text.
        bytes: usize,
        /// Why.
        reason: String,
    },
    /// An id that the vocabulary does not have.
    #[error("token id {id} is outside of the vocabulary of {vocabulary_len} tokens")]
    UnknownId {
        /// The id.
        id: u32,
        /// Number of tokens.
        vocabulary_len: usize,
    },
}

impl From<Failure> for TokenizerError {
    fn from(failure: Failure) -> Self {
        Self::Rejected(failure.to_string())
    }
}

impl TokenizerError {
    /// A kind that is not implemented, with those that are.
    pub(crate) fn unsupported(what: &'static str, found: &str, supported: impl Into<String>) -> Self {
        Self::Unsupported { what, found: clip(found), supported: supported.into() }
    }

    /// A wrong value, with what was expected instead.
    pub(crate) fn invalid(what: impl Into<String>, found: impl ToString, wanted: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), found: found.to_string(), wanted: wanted.into() }
    }

    /// Checks a measure against its limit.
    pub(crate) fn check_limit(what: &str, found: usize, limit: usize) -> Result<(), Self> {
        if found <= limit {
            return Ok(());
        }
        Err(Self::TooLarge { what: what.to_owned(), found: found as u64, limit: limit as u64 })
    }
}

/// A text short enough for an error message.
pub(crate) fn clip(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
