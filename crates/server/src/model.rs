//! A model as the server sees it: an engine, and what turns text into tokens and back.

use std::fmt;
use std::time::Duration;

use engine::Engine;
use tokenizer::{ChatTemplate, Tokenizer};

/// A loaded model.
pub struct ServedModel {
    /// As `/v1/models` shows it.
    pub name: String,
    /// Runs it.
    pub engine: Engine,
    /// Its vocabulary.
    pub tokenizer: Tokenizer,
    /// Its chat template, when it has one.
    pub template: Option<ChatTemplate>,
    /// What it runs on, in one line.
    pub device: String,
    /// How long loading took.
    pub load_time: Duration,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
}

impl ServedModel {
    /// Most bytes of text that one token stands for, at least 4: a character that the vocabulary lacks may be one
    /// token.
    pub(crate) fn longest_token_bytes(&self) -> usize {
        self.tokenizer.longest_token_bytes().max(char::MAX.len_utf8())
    }
}

impl fmt::Debug for ServedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedModel").field("name", &self.name).field("device", &self.device).finish_non_exhaustive()
    }
}
