//! What a network is: configuration, architectures, weights, the one forward pass.
//!
//! - [`DecoderConfig`] describes a decoder as plain data. `arch/<name>.rs` makes one from a GGUF file's metadata or from
//!   a Hugging Face `config.json`; nothing after that knows an architecture's name.
//! - [`Decoder`] is a loaded network: it names tensors (`weights.rs`), hands them to a [`tensor::Backend`] and runs
//!   steps on it.
//! - [`Shape`] makes networks of well-known sizes with random weights, for measurements.
//! - [`Export`] is a Hugging Face model as a GGUF file would hold it.
//! - [`Session`] runs a single sequence, [`perplexity`] scores a text with it.
//!
//! This crate names no backend, parses no file format and schedules nothing. Start with [`DecoderConfig`], then
//! `decoder.rs`.

#![forbid(unsafe_code)]

mod arch;
mod config;
mod decoder;
mod error;
mod export;
mod matrices;
mod perplexity;
mod rope;
mod session;
mod source;
mod synthetic;
mod weights;

pub use arch::known_architectures;
pub use config::{DecoderConfig, LayerConfig};
pub use decoder::{Decoder, KvGroupShape, LoadOptions, Progress};
pub use error::ModelError;
pub use export::{Export, ExportTensor};
pub use matrices::{AsStored, MatrixData, MatrixSource, MatrixSpec, PartSpec};
pub use perplexity::{Perplexity, PerplexityOptions, perplexity};
pub use rope::{RopeScaling, RopeSpec};
pub use session::{Session, Wanted};
pub use synthetic::{Quant, Shape};
pub use weights::{Naming, Part, Place};
