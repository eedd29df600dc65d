//! A step as a list of dispatches, recorded once per shape of step and replayed into one encoder, one pass, one submit.
//!
//! wgpu has no reusable compute command buffers: replaying the list is what graph capture can be here. Everything that
//! changes from step to step with the same shape lies in the step buffer, not in the list.

use std::sync::Arc;

use tensor::BackendError;

use crate::device::Gpu;
use crate::kernel::Kernel;
use crate::memory::Slice;
use crate::params::Place;
use crate::queue::Submission;

/// One kernel launch.
pub(crate) struct Dispatch {
    kernel: Arc<Kernel>,
    bindings: wgpu::BindGroup,
    grid: [u32; 3],
    /// Bytes that it reads and writes.
    bytes: u64,
}

/// How long a dispatch took on the device.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// Its kernel, in words.
    pub kernel: String,
    /// Workgroups.
    pub grid: [u32; 3],
    /// Bytes that it reads and writes, by its own account.
    pub bytes: u64,
    /// Time from the beginning to the end of a pass that held it alone.
    pub seconds: f64,
}

/// The dispatches of a step.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) dispatches: Vec<Dispatch>,
}

/// What goes before a plan and behind it, beside kernels.
pub(crate) trait Ends {
    fn before(&self, encoder: &mut wgpu::CommandEncoder);
    fn after(&self, encoder: &mut wgpu::CommandEncoder);
}

impl Dispatch {
    /// `buffers`: binding number and buffer. `bytes`: what the kernel reads and writes.
    pub(crate) fn new<T: bytemuck::NoUninit>(
        gpu: &Gpu,
        kernel: Arc<Kernel>,
        buffers: &[(u32, &Slice)],
        params: &T,
        grid: [u32; 3],
        bytes: u64,
    ) -> Dispatch {
        let params = kernel.bound_params.then(|| gpu.params.place(&gpu.device, &gpu.queue, params));
        let mut entries: Vec<wgpu::BindGroupEntry<'_>> = buffers
            .iter()
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding: *binding, resource: buffer.binding() })
            .collect();
        entries.extend(params.as_ref().map(Place::entry));
        let bindings = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &kernel.bindings,
            entries: &entries,
        });
        Dispatch { kernel, bindings, grid, bytes }
    }

    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.kernel.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }
}

impl Plan {
    /// Encodes all dispatches into one pass.
    pub(crate) fn replay(&self, encoder: &mut wgpu::CommandEncoder) {
        encode(&self.dispatches, encoder);
    }

    /// The whole plan, between what `ends` encode, ready for one submission.
    pub(crate) fn encode(&self, gpu: &Gpu, ends: &impl Ends) -> wgpu::CommandBuffer {
        let mut encoder = gpu.encoder();
        ends.before(&mut encoder);
        encode(&self.dispatches, &mut encoder);
        ends.after(&mut encoder);
        encoder.finish()
    }

    /// Submits the plan, between what `ends` encode, in parts that move about as many bytes as the device's options allow a
    /// submission. Returns the number of submissions and the last of them.
    pub(crate) fn submit_in_parts(&self, gpu: &Gpu, ends: &impl Ends) -> Result<(usize, Submission), BackendError> {
        let most = gpu.options.submission_bytes;
        let mut rest = self.dispatches.as_slice();
        let mut submits = 1;
        let mut encoder = gpu.encoder();
        ends.before(&mut encoder);
        loop {
            let (now, later) = rest.split_at(within(rest, most));
            encode(now, &mut encoder);
            if later.is_empty() {
                ends.after(&mut encoder);
                return Ok((submits, gpu.submissions.submit(gpu, encoder.finish())?));
            }
            let part = std::mem::replace(&mut encoder, gpu.encoder());
            gpu.submissions.submit(gpu, part.finish())?;
            submits += 1;
            rest = later;
        }
    }

    /// Bytes that its kernels read and write.
    pub(crate) fn bytes(&self) -> u64 {
        self.dispatches.iter().map(|dispatch| dispatch.bytes).sum()
    }

    /// Names and workgroups of its kernels, in order.
    pub(crate) fn kernels(&self) -> Vec<(String, [u32; 3])> {
        self.dispatches.iter().map(|dispatch| (dispatch.kernel.name.clone(), dispatch.grid)).collect()
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
            let mut encoder = gpu.encoder();
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
                let kernel = dispatch.kernel.name.clone();
                times.push(KernelTime { kernel, grid: dispatch.grid, bytes: dispatch.bytes, seconds });
            }
        }
        Ok(times)
    }
}

fn encode(dispatches: &[Dispatch], encoder: &mut wgpu::CommandEncoder) {
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    for dispatch in dispatches {
        dispatch.encode(&mut pass);
    }
}

/// How many of the first dispatches move at most `most` bytes together; at least one.
fn within(dispatches: &[Dispatch], most: u64) -> usize {
    let mut sum = 0;
    let over = |dispatch: &Dispatch| {
        sum += dispatch.bytes;
        sum > most
    };
    dispatches.iter().position(over).unwrap_or(dispatches.len()).max(1).min(dispatches.len())
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
    let submission = gpu.submissions.submit(gpu, encoder.finish())?;
    let mapped = map(gpu, &staging, submission)?;
    Ok(mapped[..bytes as usize].to_vec())
}

/// Waits for what `submission` writes into `staging`, and maps that.
pub(crate) fn map(gpu: &Gpu, staging: &wgpu::Buffer, submission: Submission) -> Result<wgpu::BufferView, BackendError> {
    staging.map_async(wgpu::MapMode::Read, .., |_| {});
    gpu.submissions.wait_for(gpu, submission)?;
    staging.get_mapped_range(..).map_err(|error| gpu.faults.error(error))
}
