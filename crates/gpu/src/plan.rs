//! A step as a list of dispatches, recorded once per shape of step and replayed into one encoder, one pass, one submit.
//!
//! wgpu has no reusable compute command buffers: replaying the list is what graph capture can be here. Everything that
//! changes from step to step with the same shape lies in the step buffer, not in the list.

use std::sync::Arc;

use tensor::BackendError;

use crate::device::Gpu;
use crate::kernel::Kernel;

/// Most bytes of immediates; 128 is what every device has.
const IMMEDIATE_BYTES: usize = 64;

/// One kernel launch.
pub(crate) struct Dispatch {
    kernel: Arc<Kernel>,
    bindings: wgpu::BindGroup,
    immediates: [u8; IMMEDIATE_BYTES],
    immediate_bytes: usize,
    grid: [u32; 3],
}

/// The dispatches of a step.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) dispatches: Vec<Dispatch>,
}

impl Dispatch {
    /// `buffers`: binding number, buffer, offset in bytes (aligned by the caller).
    pub(crate) fn new<T: bytemuck::NoUninit>(
        gpu: &Gpu,
        kernel: Arc<Kernel>,
        buffers: &[(u32, &wgpu::Buffer)],
        immediates: &T,
        grid: [u32; 3],
    ) -> Dispatch {
        let entries: Vec<wgpu::BindGroupEntry<'_>> = buffers
            .iter()
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() })
            .collect();
        let bindings = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &kernel.bindings,
            entries: &entries,
        });
        let source = bytemuck::bytes_of(immediates);
        let mut bytes = [0; IMMEDIATE_BYTES];
        bytes[..source.len()].copy_from_slice(source);
        Dispatch { kernel, bindings, immediates: bytes, immediate_bytes: source.len(), grid }
    }
}

impl Plan {
    /// Encodes all dispatches into one pass.
    pub(crate) fn replay(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for dispatch in &self.dispatches {
            pass.set_pipeline(&dispatch.kernel.pipeline);
            pass.set_bind_group(0, &dispatch.bindings, &[]);
            pass.set_immediates(0, &dispatch.immediates[..dispatch.immediate_bytes]);
            pass.dispatch_workgroups(dispatch.grid[0], dispatch.grid[1], dispatch.grid[2]);
        }
    }
}

/// Submits what `encoder` holds and reads the first `bytes` of `buffer` back.
pub(crate) fn read_back(
    gpu: &Gpu,
    mut encoder: wgpu::CommandEncoder,
    buffer: &wgpu::Buffer,
    bytes: u64,
) -> Result<Vec<u8>, BackendError> {
    let staging = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("read back"),
        size: bytes.next_multiple_of(4),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, bytes.next_multiple_of(4));
    gpu.queue.submit([encoder.finish()]);
    let mapped = map(gpu, &staging)?;
    Ok(mapped[..bytes as usize].to_vec())
}

/// Waits until `staging` can be read, and maps it.
pub(crate) fn map(gpu: &Gpu, staging: &wgpu::Buffer) -> Result<wgpu::BufferView, BackendError> {
    let failed = |message: String| BackendError::Device { device: gpu.summary().name.clone(), message };
    staging.map_async(wgpu::MapMode::Read, .., |_| {});
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| failed(error.to_string()))?;
    gpu.check()?;
    staging.get_mapped_range(..).map_err(|error| failed(error.to_string()))
}
