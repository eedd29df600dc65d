//! The server on a real socket with a network that needs no weights.
#![allow(clippy::unwrap_used)]

mod answers;
mod client;
mod connections;
mod fake;
mod faults;
mod fleet;
mod life;
mod limits;
mod load;
mod metrics;
mod numbers;
mod sampling;
