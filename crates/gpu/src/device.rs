//! Opening a GPU, and how much memory it may use.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tensor::BackendError;
use wgpu::Features;

use crate::adapter::{AdapterSummary, GpuTier, adapters, cooperative_tier, summarize};
use crate::plan::{Dispatch, Plan};

/// What the caller wants of a device; plain data from the settings.
#[derive(Clone, Debug)]
pub struct GpuOptions {
    /// Index into [`crate::list_adapters`].
    pub adapter: usize,
    /// Most bytes of weights, KV pages and scratch together; `None` for what the device recommends.
    pub heap_bytes: Option<u64>,
    /// Kernels check every index: slower, for tests and for hunting driver bugs.
    pub checked_shaders: bool,
    /// Reduce across lanes with subgroup operations; `false` goes through workgroup memory.
    pub subgroup_reduction: bool,
    /// Use cooperative matrices where the device has them.
    pub cooperative: bool,
    /// Only kernels whose result for a row does not depend on the number of rows.
    pub batch_invariant: bool,
    /// Record a step's dispatches once per shape and replay them.
    pub graph_capture: bool,
}

impl Default for GpuOptions {
    fn default() -> Self {
        GpuOptions {
            adapter: 0,
            heap_bytes: None,
            checked_shaders: false,
            subgroup_reduction: true,
            cooperative: true,
            batch_invariant: false,
            graph_capture: true,
        }
    }
}

/// An opened device. Shared by every model that runs on it.
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) options: GpuOptions,
    pub(crate) subgroup_size: u32,
    pub(crate) has_subgroups: bool,
    pub(crate) kernels: crate::kernel::Kernels,
    limits: wgpu::Limits,
    summary: AdapterSummary,
    tier: GpuTier,
    heap_bytes: u64,
    allocated_bytes: AtomicU64,
    first_error: std::sync::Arc<Mutex<Option<String>>>,
}

impl Gpu {
    /// Opens adapter `options.adapter`.
    ///
    /// # Errors
    /// There is no such adapter (the message lists those there are), or it lacks what every kernel needs.
    pub fn open(options: GpuOptions) -> Result<Gpu, BackendError> {
        let adapters = adapters();
        let Some(adapter) = adapters.get(options.adapter) else {
            let names: Vec<String> =
                adapters.iter().enumerate().map(|(i, a)| format!("{i}: {}", a.get_info().name)).collect();
            return Err(BackendError::Unsupported {
                device: "GPU".into(),
                what: format!("adapter {}", options.adapter),
                limit: if names.is_empty() { "no GPU adapter was found".into() } else { names.join(", ") },
            });
        };
        let summary = summarize(adapter);
        let offered = adapter.features();
        if !offered.contains(Features::IMMEDIATES) {
            return Err(BackendError::Unsupported {
                device: summary.name,
                what: "push constants (immediates)".into(),
                limit: "the driver does not offer them; update it or use MISTRAL_DEVICE=cpu".into(),
            });
        }
        let cooperative = if options.cooperative { cooperative_tier(adapter) } else { GpuTier::Plain };
        let mut wanted = Features::IMMEDIATES | Features::SUBGROUP | Features::SHADER_F16 | Features::TIMESTAMP_QUERY;
        if cooperative != GpuTier::Plain {
            wanted |= Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        }
        let features = offered & wanted;
        let limits = adapter.limits();
        // SAFETY: asks for cooperative matrices, which wgpu calls experimental; the kernels that use them are
        // self-tested at start.
        let experimental = unsafe { wgpu::ExperimentalFeatures::enabled() };
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("frontier"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: experimental,
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        });
        let (device, queue) = pollster::block_on(request)
            .map_err(|error| BackendError::Device { device: summary.name.clone(), message: error.to_string() })?;
        let first_error = std::sync::Arc::new(Mutex::new(None));
        keep_first_error(&device, &first_error);
        let has_subgroups = features.contains(Features::SUBGROUP) && options.subgroup_reduction;
        let has_f16 = features.contains(Features::SHADER_F16);
        let heap_bytes = options.heap_bytes.unwrap_or(u64::MAX);
        let mut gpu = Gpu {
            device,
            queue,
            subgroup_size: 1,
            has_subgroups,
            kernels: crate::kernel::Kernels::default(),
            limits,
            summary,
            tier: if has_f16 && has_subgroups { cooperative } else { GpuTier::Plain },
            heap_bytes,
            allocated_bytes: AtomicU64::new(0),
            first_error,
            options,
        };
        if gpu.has_subgroups {
            gpu.subgroup_size = crate::kernel::probe_subgroup_size(&gpu)?;
        }
        Ok(gpu)
    }

    /// What the device is.
    pub fn summary(&self) -> &AdapterSummary {
        &self.summary
    }

    /// How it multiplies matrices.
    pub fn tier(&self) -> GpuTier {
        self.tier
    }

    /// What kernels run, in a few words.
    pub fn describe_kernels(&self) -> String {
        let matrices = match self.tier {
            GpuTier::Plain => "register tiles",
            GpuTier::Cooperative8 => "8x8 cooperative matrices",
            GpuTier::Cooperative16 => "16x16 cooperative matrices",
        };
        let reduction = match self.has_subgroups {
            true => format!("subgroups of {}", self.subgroup_size),
            false => "reduction through workgroup memory".to_owned(),
        };
        format!("{matrices}, {reduction}")
    }

    /// Bytes in buffers of this process on the device.
    pub fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes.load(Ordering::Relaxed)
    }

    /// Most bytes that a kernel can see of one buffer.
    pub(crate) fn max_binding_bytes(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// A storage buffer of zeros (of `size_bytes` rounded up to 16), counted against the heap.
    pub(crate) fn allocate(&self, what: &str, size_bytes: u64) -> Result<wgpu::Buffer, BackendError> {
        let size_bytes = size_bytes.max(16).next_multiple_of(16);
        let used = self.allocated_bytes.load(Ordering::Relaxed);
        let available = self.heap_bytes.saturating_sub(used);
        if size_bytes > available || size_bytes > self.limits.max_buffer_size {
            return Err(BackendError::OutOfMemory {
                device: self.summary.name.clone(),
                what: what.into(),
                wanted_bytes: size_bytes,
                available_bytes: available.min(self.limits.max_buffer_size),
            });
        }
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size: size_bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.check()?;
        self.allocated_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        Ok(buffer)
    }

    /// Gives a buffer's bytes back to the heap.
    pub(crate) fn release(&self, buffer: &wgpu::Buffer) {
        self.allocated_bytes.fetch_sub(buffer.size(), Ordering::Relaxed);
        buffer.destroy();
    }

    /// Bytes a second, read and written counted both, of copies of about `bytes` within the device by a kernel: the roof
    /// of every kernel that is bound by memory. (A driver's own copy command is slower on some devices.)
    pub fn measure_copy_bandwidth(&self, bytes: u64, runs: u32) -> Result<f64, BackendError> {
        const COPIES: usize = 8;
        let workgroups = (bytes.min(self.max_binding_bytes()) / crate::shaders::COPY_BYTES).clamp(1, 65_535);
        let bytes = workgroups * crate::shaders::COPY_BYTES;
        let (from, to) = (self.allocate("copy from", bytes)?, self.allocate("copy to", bytes)?);
        let kernel = self.kernels.get(self, crate::shaders::copy())?;
        let mut plan = Plan::default();
        for _ in 0..COPIES {
            let grid = [workgroups as u32, 1, 1];
            plan.dispatches.push(Dispatch::new(self, kernel.clone(), &[(0, &from), (1, &to)], &0u32, grid));
        }
        let mut best = f64::INFINITY;
        for _ in 0..=runs {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            plan.replay(&mut encoder);
            let started = std::time::Instant::now();
            self.queue.submit([encoder.finish()]);
            let waited = self.device.poll(wgpu::PollType::wait_indefinitely());
            waited.map_err(|e| BackendError::Device { device: self.summary.name.clone(), message: e.to_string() })?;
            best = best.min(started.elapsed().as_secs_f64());
        }
        self.release(&from);
        self.release(&to);
        self.check()?;
        Ok((2 * COPIES) as f64 * bytes as f64 / best)
    }

    /// Reports the first thing that went wrong on the device since the last call.
    pub(crate) fn check(&self) -> Result<(), BackendError> {
        match self.first_error.lock().expect("no panic while the lock is held").take() {
            None => Ok(()),
            Some(message) => Err(BackendError::Device { device: self.summary.name.clone(), message }),
        }
    }
}

/// wgpu reports most failures to a callback, not to the caller: the first one is kept until [`Gpu::check`] asks.
fn keep_first_error(device: &wgpu::Device, first_error: &std::sync::Arc<Mutex<Option<String>>>) {
    let slot = first_error.clone();
    device.on_uncaptured_error(std::sync::Arc::new(move |error: wgpu::Error| {
        slot.lock().expect("no panic while the lock is held").get_or_insert_with(|| error.to_string());
    }));
    let slot = first_error.clone();
    device.set_device_lost_callback(move |reason, message| {
        slot.lock()
            .expect("no panic while the lock is held")
            .get_or_insert_with(|| format!("device lost ({reason:?}): {message}"));
    });
}
