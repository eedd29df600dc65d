//! Compiled kernels: each variant is compiled at its first use and kept.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use tensor::BackendError;

use crate::device::{Gpu, Sabotage};
use crate::shaders::BOUND_PARAMS;

/// A compiled kernel and the layout of what it binds.
pub(crate) struct Kernel {
    /// The first line of its text, which is a comment.
    pub(crate) name: String,
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) bindings: wgpu::BindGroupLayout,
    /// Whether it binds its parameters, which are in its text otherwise.
    pub(crate) bound_params: bool,
}

/// The kernels compiled so far, by their source text; shared by all models on a device.
#[derive(Default)]
pub(crate) struct Kernels {
    compiled: Mutex<HashMap<String, Arc<Kernel>>>,
    /// Names of those that were asked for since [`Kernels::take_used`].
    used: Mutex<BTreeSet<String>>,
}

impl Kernels {
    /// The kernel with this WGSL text.
    pub(crate) fn get(&self, gpu: &Gpu, source: String) -> Result<Arc<Kernel>, BackendError> {
        // Held while compiling: two models that start at once would otherwise compile everything twice.
        let mut compiled = self.compiled.lock().expect("compiling reports errors and does not panic");
        let kernel = match compiled.get(&source) {
            Some(kernel) => kernel.clone(),
            None => {
                let kernel = Arc::new(compile(gpu, &source)?);
                compiled.insert(source, kernel.clone());
                kernel
            }
        };
        self.used.lock().expect("no panic while the lock is held").insert(kernel.name.clone());
        Ok(kernel)
    }

    /// Names of the kernels that plans were made of since the last call.
    pub(crate) fn take_used(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.used.lock().expect("no panic while the lock is held"))
    }
}

/// Compiles WGSL whose entry point is `main`.
pub(crate) fn compile(gpu: &Gpu, source: &str) -> Result<Kernel, BackendError> {
    let name = source.lines().next().unwrap_or_default().trim_start_matches("// ").to_owned();
    let bound_params = source.contains(BOUND_PARAMS);
    let source = sabotaged(&gpu.options.sabotage, &name, source).into_owned().into();
    let description = wgpu::ShaderModuleDescriptor { label: Some(&name), source: wgpu::ShaderSource::Wgsl(source) };
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
    gpu.faults.check()?;
    let bindings = pipeline.get_bind_group_layout(0);
    Ok(Kernel { name, pipeline, bindings, bound_params })
}

/// The text with the fault that a test wants in it.
fn sabotaged<'s>(sabotage: &Sabotage, name: &str, source: &'s str) -> Cow<'s, str> {
    let picked = |prefix: Option<&str>| prefix.is_some_and(|prefix| name.starts_with(prefix));
    if picked(sabotage.wrong_kernel) {
        // Half of every weight row.
        return source.replace("p.units", "(p.units / 2u)").into();
    }
    if picked(sabotage.broken_kernel) {
        return source.replace("fn main(", "fn main(broken: ").into();
    }
    source.into()
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
    let buffer = gpu.heap.allocate("subgroup probe", 16)?;
    let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &kernel.bindings,
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.binding() }],
    });
    let mut encoder = gpu.encoder();
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&kernel.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
    let size = crate::plan::read_back(gpu, encoder, &buffer.raw, 4)?;
    Ok(u32::from_le_bytes(size[..4].try_into().expect("4 bytes were asked for")))
}
