//! How a CPU runs the stages: thread pool, packed weights, kernels by instruction set.
//!
//! - [`isa`] names the instruction sets that kernels exist for and finds the best one once.
//! - [`pool`] runs parallel regions on pinned threads and hands out their work; [`memory`] gives it huge pages.
//! - [`simd`] speaks in intrinsics, and of the rest [`matmul`] alone: 16-lane vectors that everything else is written
//!   with, and what the matrix kernels need beyond them.
//! - [`pack`], [`activation`] and [`matmul`] multiply packed weights with quantized rows.
//! - [`kv`] holds keys and values in pages, [`attention`] reads them, [`ops`] is the small rest (norms, rotation,
//!   activations, sampling).
//! - [`backend`] puts them together as [`tensor::Backend`]; start there.
//! - [`machine`] tells how much memory there is and is left; [`roof`] measures what the machine could do at best.
//!
//! Nothing here knows a model or a file. Environment variables are not read: callers pass plain values.
//!
//! `unsafe` lives in [`simd`], [`pool`], [`memory`], `macos`, and in [`matmul`] and [`pack`] where kernels that belong to an
//! instruction set are called.

pub mod activation;
pub mod attention;
pub mod backend;
pub mod isa;
pub mod kv;
pub mod machine;
#[cfg(target_os = "macos")]
mod macos;
pub mod matmul;
pub mod memory;
pub mod ops;
pub mod pack;
pub mod pool;
pub mod roof;
pub mod simd;

pub use backend::CpuBackend;
pub use isa::Isa;
pub use pool::{Pool, PoolConfig};
