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

/// How long a dispatch took on the device.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// Its kernel, in words.
    pub kernel: String,
    /// Workgroups.
    pub grid: [u32; 3],
    /// Time from the beginning to the end of a pass that held it alone.
    pub seconds: f64,
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

    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.kernel.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.set_immediates(0, &self.immediates[..self.immediate_bytes]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }
}

impl Plan {
    /// Encodes all dispatches into one pass.
    pub(crate) fn replay(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for dispatch in &self.dispatches {
            dispatch.encode(&mut pass);
        }
    }

    /// Runs all dispatches, each in a pass of its own, and tells how long each took on the device. Empty where the
    /// device has no timestamps.
    pub(crate) fn profile(&self, gpu: &Gpu) -> Result<Vec<KernelTime>, BackendError> {
        if !gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Ok(Vec::new());
        }
        let mut times = Vec::with_capacity(self.dispatches.len());
        for part in self.dispatches.chunks(wgpu::QUERY_SET_MAX_QUERIES as usize / 2) {
            let count = 2 * part.len() as u32;
            let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let ticks = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("profile"),
                size: 8 * u64::from(count),
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for (index, dispatch) in part.iter().enumerate() {
                let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(2 * index as u32),
                    end_of_pass_write_index: Some(2 * index as u32 + 1),
                });
                let description = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
                dispatch.encode(&mut encoder.begin_compute_pass(&description));
            }
            encoder.resolve_query_set(&queries, 0..count, &ticks, 0);
            let bytes = read_back(gpu, encoder, &ticks, 8 * u64::from(count))?;
            let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
            let seconds_a_tick = f64::from(gpu.queue.get_timestamp_period()) * 1e-9;
            for (dispatch, pair) in part.iter().zip(ticks.chunks_exact(2)) {
                let seconds = pair[1].saturating_sub(pair[0]) as f64 * seconds_a_tick;
                times.push(KernelTime { kernel: dispatch.kernel.name.clone(), grid: dispatch.grid, seconds });
            }
        }
        Ok(times)
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
