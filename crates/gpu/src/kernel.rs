//! Compiled kernels: each variant is compiled at its first use and kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tensor::BackendError;

use crate::device::Gpu;

/// A compiled kernel and the layout of what it binds.
pub(crate) struct Kernel {
    /// The first line of its text, which is a comment.
    pub(crate) name: String,
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) bindings: wgpu::BindGroupLayout,
}

/// The kernels compiled so far, by their source text; shared by all models on a device.
#[derive(Default)]
pub(crate) struct Kernels {
    compiled: Mutex<HashMap<String, Arc<Kernel>>>,
}

impl Kernels {
    /// The kernel with this WGSL text.
    pub(crate) fn get(&self, gpu: &Gpu, source: String) -> Result<Arc<Kernel>, BackendError> {
        // Held while compiling: two models that start at once would otherwise compile everything twice.
        let mut compiled = self.compiled.lock().expect("compiling reports errors and does not panic");
        if let Some(kernel) = compiled.get(&source) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(compile(gpu, &source)?);
        compiled.insert(source, kernel.clone());
        Ok(kernel)
    }
}

/// Compiles WGSL whose entry point is `main`.
pub(crate) fn compile(gpu: &Gpu, source: &str) -> Result<Kernel, BackendError> {
    let name = source.lines().next().unwrap_or_default().trim_start_matches("// ").to_owned();
    let description =
        wgpu::ShaderModuleDescriptor { label: Some(&name), source: wgpu::ShaderSource::Wgsl(source.to_owned().into()) };
    let checked = gpu.options.checked_shaders;
    let module = if checked {
        gpu.device.create_shader_module(description)
    } else {
        // SAFETY: every index in our kernels is bounded by the sizes that the host passes; the same kernels run
        // checked in the tests.
        unsafe { gpu.device.create_shader_module_trusted(description, wgpu::ShaderRuntimeChecks::unchecked()) }
    };
    let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&name),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: checked,
            ..Default::default()
        },
        cache: None,
    });
    gpu.check()?;
    let bindings = pipeline.get_bind_group_layout(0);
    Ok(Kernel { name, pipeline, bindings })
}

/// The size that subgroups really have: what adapters report is a range, on Metal 4 to 64.
pub(crate) fn probe_subgroup_size(gpu: &Gpu) -> Result<u32, BackendError> {
    let kernel = compile(
        gpu,
        "// subgroup size
@group(0) @binding(0) var<storage, read_write> size: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(subgroup_size) lanes: u32, @builtin(local_invocation_index) t: u32) {
  if (t == 0u) { size[0] = lanes; }
}
",
    )?;
    let buffer = gpu.allocate("subgroup probe", 16)?;
    let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &kernel.bindings,
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
    });
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&kernel.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
    let size = crate::plan::read_back(gpu, encoder, &buffer, 4)?;
    gpu.release(&buffer);
    Ok(u32::from_le_bytes(size[..4].try_into().expect("4 bytes were asked for")))
}
