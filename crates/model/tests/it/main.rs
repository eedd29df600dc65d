//! Networks against oracles that we did not write.
#![allow(missing_docs, clippy::unwrap_used)]

mod batches;
mod support;
mod tiny;
