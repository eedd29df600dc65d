//! End to end: the real binary, its files and its sockets.
#![allow(clippy::unwrap_used)]

mod bench;
mod commands;
#[path = "../../../model/tests/it/convert.rs"]
mod convert;
mod effects;
mod fleet;
mod generated;
mod gpu;
mod llama_cpp;
mod models;
mod plan;
mod program;
mod pull;
mod quantize;
mod serve;
mod settings;
mod stub_hub;
