//! The one error of this crate. Its text is a single line that names the thing, the value found and the limit.

use std::path::Path;

/// Characters of a hostile name that an error repeats.
const QUOTED_CHARS_MAX: usize = 80;
/// Characters of another library's message, which may repeat hostile text, that an error repeats.
const MESSAGE_CHARS_MAX: usize = 200;

/// Why a model file was refused.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Where the fault lies: a file, a metadata key, a tensor.
    #[error("{place}: {fault}")]
    In {
        /// A path, or `tensor "blk.0.attn_q.weight"`.
        place: String,
        /// What is wrong there. Not a `source`: the text above holds it already.
        fault: Box<CheckpointError>,
    },
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file ends too early.
    #[error("truncated: {what} needs {needed_bytes} bytes, {available_bytes} are there")]
    Truncated {
        /// What was being read.
        what: String,
        /// Bytes that it takes.
        needed_bytes: u64,
        /// Bytes left.
        available_bytes: u64,
    },
    /// A count or size is above its cap (see [`crate::limits`]).
    #[error("{what} is {value}, the limit is {limit}")]
    OverLimit {
        /// What was counted.
        what: String,
        /// How much the file asks for.
        value: u64,
        /// The most that is accepted.
        limit: u64,
    },
    /// A value that no valid file holds.
    #[error("{what} is {value}, must be {wanted}")]
    Invalid {
        /// What was read.
        what: String,
        /// What it was.
        value: String,
        /// What would have been right.
        wanted: String,
    },
    /// A valid file that this program cannot use.
    #[error("{what} is {value}, which is not supported; supported: {supported}")]
    Unsupported {
        /// What was read.
        what: String,
        /// What it was.
        value: String,
        /// What would have been usable.
        supported: String,
    },
    /// A key or name that must be unique is not.
    #[error("{what} occurs more than once")]
    Duplicate {
        /// The name.
        what: String,
    },
    /// Something that must exist does not.
    #[error("{what} is missing")]
    Missing {
        /// What was looked for.
        what: String,
    },
    /// A metadata or configuration entry holds another type than its reader wants.
    #[error("key {} holds {found}, wanted {wanted}", quoted(key))]
    WrongType {
        /// The key.
        key: String,
        /// Type (and value, when short) found.
        found: String,
        /// Type or range wanted.
        wanted: String,
    },
}

impl CheckpointError {
    /// The same fault, with the place where it lies.
    pub(crate) fn within(self, place: impl Into<String>) -> CheckpointError {
        CheckpointError::In { place: place.into(), fault: Box::new(self) }
    }

    /// The same fault, with the file that it lies in.
    pub(crate) fn in_file(self, path: &Path) -> CheckpointError {
        self.within(path.display().to_string())
    }

    pub(crate) fn invalid(what: impl Into<String>, value: impl ToString, wanted: impl Into<String>) -> CheckpointError {
        CheckpointError::Invalid { what: what.into(), value: value.to_string(), wanted: wanted.into() }
    }

    pub(crate) fn missing(what: impl Into<String>) -> CheckpointError {
        CheckpointError::Missing { what: what.into() }
    }

    pub(crate) fn duplicate(what: impl Into<String>) -> CheckpointError {
        CheckpointError::Duplicate { what: what.into() }
    }
}

/// `value`, or an error when it is above `limit`.
pub(crate) fn capped(what: &str, value: u64, limit: u64) -> Result<u64, CheckpointError> {
    if value > limit {
        return Err(CheckpointError::OverLimit { what: what.to_owned(), value, limit });
    }
    Ok(value)
}

/// A name from a file as errors show it: quoted, control characters escaped, long ones cut.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", shortened(name, QUOTED_CHARS_MAX, char::escape_debug))
}

/// What is wrong in a part of the file that another library parses.
pub(crate) fn faulty(what: &str, message: impl ToString, wanted: &str) -> CheckpointError {
    let message = shortened(&message.to_string(), MESSAGE_CHARS_MAX, |char| {
        let plain = (!char.is_control()).then_some(char);
        plain.into_iter().chain(char.is_control().then(|| char.escape_debug()).into_iter().flatten())
    });
    CheckpointError::invalid(what, format!("faulty ({message})"), wanted)
}

fn shortened<I: IntoIterator<Item = char>>(text: &str, chars_max: usize, show: impl Fn(char) -> I) -> String {
    let mut shown: String = text.chars().take(chars_max).flat_map(show).collect();
    if text.chars().nth(chars_max).is_some() {
        shown.push_str("...");
    }
    shown
}
