//! What numbers are: storage formats, the stages of a forward pass, and their reference.
//!
//! - [`Format`] names every storage format; `format/<name>.rs` holds its block layout and the scalar code that
//!   defines it.
//! - [`Backend`] is the seam between *what a network is* (crate `model`) and *how a machine computes it* (crates
//!   `cpu`, `gpu`): the coarse stages of a decoder, with weights that the backend prepared for itself.
//!
//! Nothing here is fast, and nothing here knows a model, a file or a device. Start with [`backend`].

#![forbid(unsafe_code)]

pub mod backend;
pub mod conformance;
pub mod format;
pub mod reference;

pub use backend::{
    Activation, Attend, AttnOut, Backend, BackendError, Batch, Candidate, Dims, Embed, Footprint, KvGroup, KvSpec,
    LIKELIEST, LayerDims, Logits, MatrixShape, Mlp, NO_PAGE, Norm, PAGE_TOKENS, Qkv, Role, Rope, RopeStyle, SeqRows,
    TopK,
};
pub use format::{Format, ModelFacts, QuantizeError, QuantizedRow, Recipe, TensorKind, TensorPlace, TensorView};
pub use reference::Reference;
