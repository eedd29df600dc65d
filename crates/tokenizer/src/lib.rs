//! Text to tokens and back: vocabularies, streaming decode, stop strings, chat templates.
//!
//! - [`Tokenizer`] turns text into ids and ids into text, whatever file the vocabulary came from.
//! - [`ChatTemplate`] turns a conversation into a [`Prompt`], in which only the template's own control tokens count.
//! - [`DecodeStream`] and [`StopStrings`] turn arriving ids into text that can go out at once.
//!
//! Every file is hostile here: sizes, ids, merges and templates are checked or bounded before they are used, and the
//! libraries underneath run where their panics become errors. What is *not* here: weights, sampling, HTTP. Start with
//! `tokenizer.rs`; the vocabulary formats are in `gguf*.rs` and `hf.rs`.

#![forbid(unsafe_code)]

mod added;
mod byte_level;
mod control;
mod error;
mod gguf;
mod gguf_bpe;
mod gguf_export;
mod gguf_scores;
mod gguf_spm;
mod growth;
mod hf;
mod matcher;
mod pipeline;
mod pretokenizer;
mod sandbox;
mod special;
mod stop;
mod stream;
pub mod template;
mod tokenizer;
mod vocabulary;

pub use control::{ControlTexts, ControlTokens, Prompt};
pub use error::TokenizerError;
pub use gguf_export::write_gguf_metadata;
pub use stop::{StopOutcome, StopStrings};
pub use stream::DecodeStream;
pub use template::{ChatTemplate, CivilTime, RenderCase, RenderInput, TemplateError};
pub use tokenizer::Tokenizer;
pub use vocabulary::TokenKind;
