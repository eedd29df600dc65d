//! Draws tokens from logits.

mod mask;
mod params;

pub use mask::{MaskError, TokenMask, TokenSet};
pub use params::{Dry, Sampling, SamplingDraft, Xtc};
