//! Networks against oracles that we did not write.
#![allow(missing_docs, clippy::unwrap_used)]

mod batches;
mod convert;
mod hostile;
mod real;
mod real_models;
mod ropes;
mod support;
mod tiny;
