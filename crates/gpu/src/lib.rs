//! How a GPU runs the stages: WGSL kernels on wgpu, for Metal and Vulkan.
