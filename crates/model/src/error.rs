//! Why a model could not be loaded.

use checkpoint::CheckpointError;
use tensor::BackendError;

/// Every variant names the thing, its value and what would have been right.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file itself, or the type of one of its entries.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A network that nobody taught us.
    #[error("architecture {found:?} is not supported; supported: {known}")]
    UnknownArchitecture {
        /// Its name in the file.
        found: String,
        /// All names that would do.
        known: String,
    },
    /// The description lacks an entry.
    #[error("the model's description has no {key}")]
    MissingKey {
        /// The entry, as the file would write it.
        key: String,
    },
    /// A number that no network of this kind has.
    #[error("{what} is {value}, must be {wanted}")]
    OutOfRange {
        /// What it counts.
        what: String,
        /// Its value.
        value: String,
        /// The range, or the number that it must agree with.
        wanted: String,
    },
    /// A valid description of something that we do not compute.
    #[error("{what} is {value}, which is not supported; supported: {supported}")]
    Unsupported {
        /// The entry.
        what: String,
        /// Its value.
        value: String,
        /// Values that would do.
        supported: String,
    },
    /// A tensor that the network needs is not there.
    #[error("tensor {name} of shape {wanted:?} is missing")]
    MissingTensor {
        /// Its name.
        name: String,
        /// The shape that it would have.
        wanted: Vec<usize>,
    },
    /// A tensor that does not fit the description.
    #[error("tensor {name} has shape {found:?}, the description asks for {wanted:?}")]
    WrongShape {
        /// Its name.
        name: String,
        /// Its shape, outermost dimension first.
        found: Vec<usize>,
        /// The right shape.
        wanted: Vec<usize>,
    },
    /// A matrix could not be brought into the format that was asked for.
    #[error("tensor {name}: {message}")]
    Conversion {
        /// Its name.
        name: String,
        /// Why not.
        message: String,
    },
    /// A layer holds weights that the forward pass has no use for: the result would be wrong without a word.
    #[error("tensor {name} is no part of architecture {architecture}")]
    UnexpectedTensor {
        /// Its name.
        name: String,
        /// The architecture.
        architecture: &'static str,
    },
}

impl ModelError {
    pub(crate) fn missing_key(key: impl Into<String>) -> ModelError {
        ModelError::MissingKey { key: key.into() }
    }

    pub(crate) fn out_of_range(what: impl Into<String>, value: impl ToString, wanted: impl Into<String>) -> ModelError {
        ModelError::OutOfRange { what: what.into(), value: shown(value), wanted: wanted.into() }
    }

    pub(crate) fn unsupported(
        what: impl Into<String>,
        value: impl ToString,
        supported: impl Into<String>,
    ) -> ModelError {
        ModelError::Unsupported { what: what.into(), value: shown(value), supported: supported.into() }
    }
}

/// A value as errors show it: a hostile one is not repeated at length.
fn shown(value: impl ToString) -> String {
    const CHARS_MAX: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
