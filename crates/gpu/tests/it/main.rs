//! The backend around its kernels, on whatever GPU there is, software Vulkan included.

mod ahead;
mod allocations;
mod faults;
mod tiny;
