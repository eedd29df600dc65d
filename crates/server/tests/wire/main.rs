//! The server on a real socket with a network that needs no weights.
#![allow(clippy::unwrap_used)]

mod answers;
mod client;
mod connections;
mod fake;
mod life;
mod limits;
mod metrics;
