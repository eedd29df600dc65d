//! How a GPU runs the stages of a forward pass: WGSL kernels on `wgpu`, for Metal and Vulkan.
//!
//! One set of kernels serves every device, so the kernels that software Vulkan tests are the kernels that Metal runs.
//! [`Gpu`] is an opened device; [`GpuBackend`] implements [`tensor::Backend`] for one model on it. A step's dispatches
//! are recorded into a plan once per shape of step and replayed afterwards: one encoder, one pass, one submit.
//!
//! This crate knows no model, no file format beyond the block layouts of [`tensor::Format`], and no settings.
//! Start with [`backend`]; `shaders` holds the kernels, `layout` the form that weights take on the device, `variant` and
//! `tuning` which kernels run, [`selftest`] whether they are right.

pub mod adapter;
pub mod backend;
mod clock;
pub mod device;
mod faults;
mod footprint;
mod in_place;
mod kernel;
mod kv;
mod layout;
mod memory;
mod params;
mod plan;
mod queue;
pub mod selftest;
mod shaders;
mod tuning;
mod upload;
mod variant;
mod weights;

pub use adapter::{AdapterKind, AdapterSummary, GpuTier, list_adapters, may_have_gpu};
pub use backend::{GpuBackend, StepCost};
pub use device::{Gpu, GpuOptions, Sabotage, ShaderChoice};
pub use plan::KernelTime;
pub use shaders::WideTile;
pub use tuning::Tuning;
