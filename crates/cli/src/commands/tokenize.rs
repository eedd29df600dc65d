//! `frontier tokenize MODEL` and `frontier detokenize MODEL`: text to ids and back, through standard input and output.

use anyhow::{Context, Result};
use tokenizer::{ControlTokens, Tokenizer};

use crate::input::read_input;
use crate::load;
use crate::output::{print_json_line, print_text};
use crate::settings::Settings;

/// Turn standard input into a JSON array of token ids
#[derive(clap::Args, Debug)]
pub(crate) struct Tokenize {
    /// Path or name of a model; a GGUF file that holds only a vocabulary will do
    pub(super) model: String,
    /// Recognise control tokens in the text
    #[arg(long)]
    special: bool,
}

/// Turn a JSON array of token ids on standard input into text
#[derive(clap::Args, Debug)]
pub(crate) struct Detokenize {
    /// Path or name of a model; a GGUF file that holds only a vocabulary will do
    pub(super) model: String,
    /// Write the texts of control tokens, too
    #[arg(long)]
    special: bool,
}

impl Tokenize {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let tokenizer = open_tokenizer(&self.model, settings)?;
        let text = read_input()?;
        let control = if self.special { ControlTokens::Parse } else { ControlTokens::PlainText };
        print_json_line(&tokenizer.encode(&text, control)?)
    }
}

impl Detokenize {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let tokenizer = open_tokenizer(&self.model, settings)?;
        let ids: Vec<u32> = serde_json::from_str(&read_input()?).context("standard input: not a JSON array of ids")?;
        let vocab = tokenizer.vocab_len();
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
            anyhow::bail!("token id {id}: the vocabulary has {vocab} tokens");
        }
        let text = if self.special { tokenizer.decode_with_control(&ids) } else { tokenizer.decode(&ids) };
        print_text(&text)
    }
}

fn open_tokenizer(model: &str, settings: &Settings) -> Result<Tokenizer> {
    load::open(Some(model), settings)?.tokenizer()
}
