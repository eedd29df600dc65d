//! Model files to neutral data: GGUF (split files too), safetensors, and Hugging Face directories.
//!
//! [`Checkpoint::open`] maps the files, checks every byte that it goes by, and answers with a [`Description`] (what the
//! author wrote about the network) and [`Tensor`]s whose shape, format and bytes agree. Files come from strangers, so
//! every count, size and offset in them is hostile until checked: errors name the thing, its value and the limit;
//! nothing here panics, and nothing allocates more than a few times what the file really holds (see [`limits`]).
//!
//! What this crate does *not* do: it knows no architecture (crate `model` gives tensor names their meaning), computes
//! nothing with weights, and downloads nothing.
//!
//! Start with [`Checkpoint`], then `gguf/mod.rs`.

#![deny(unsafe_code)]

mod checkpoint;
mod error;
pub mod gguf;
mod hf;
mod json;
pub mod limits;
#[allow(unsafe_code, reason = "mapping a file is unsafe by nature; this module is the only place")]
mod mmap;
mod safetensors;
mod sizes;
mod summary;
mod tensor;

pub use checkpoint::{Checkpoint, Description};
pub use error::CheckpointError;
pub use gguf::{Array, Metadata, Value};
pub use hf::HfConfig;
pub use mmap::release;
pub use sizes::Sizes;
pub use summary::{FormatShare, Summary, TokenizerKind};
pub use tensor::Tensor;
