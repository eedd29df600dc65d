//! End to end: the real binary, its files and its sockets.
#![allow(clippy::unwrap_used)]

mod generated;
mod program;
mod pull;
mod settings;
mod stub_hub;
