//! Opening a GPU.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tensor::BackendError;
use wgpu::Features;

use crate::adapter::{AdapterSummary, GpuTier, adapters, cooperative_tier, summarize};
use crate::backend::StepCost;
use crate::faults::Faults;
use crate::kernel::{Kernels, probe_subgroup_size};
use crate::memory::{Heap, HeapLimits};
use crate::params::ParamSets;
use crate::plan::{Dispatch, Plan};
use crate::queue::Submissions;
use crate::tuning::Tuning;
use crate::upload::Uploads;
use crate::variant::{Variant, Variants};

/// What the caller wants of a device; plain data from the settings.
#[derive(Clone, Debug)]
pub struct GpuOptions {
    /// Index into [`crate::list_adapters`].
    pub adapter: usize,
    /// Most bytes of weights, KV pages and scratch together; `None` for what the driver gives.
    pub heap_bytes: Option<u64>,
    /// Most bytes of freed buffers that wait to be used again; 0 gives each back at once.
    pub pool_bytes: u64,
    /// Kernels check every index: slower, for tests and for hunting driver bugs.
    pub checked_shaders: bool,
    /// Which kernels run.
    pub shaders: ShaderChoice,
    /// Reduce across lanes with subgroup operations; `false` goes through workgroup memory.
    pub subgroup_reduction: bool,
    /// Attention with an online softmax over splits of the history; `false` takes the plain one, for comparison.
    pub flash_attention: bool,
    /// Only kernels whose result for a row does not depend on the number of rows.
    pub batch_invariant: bool,
    /// Record a step's dispatches once per shape and replay them.
    pub graph_capture: bool,
    /// Go on while the device computes, where nothing is to be read back; `false` waits for every submission.
    pub async_dispatch: bool,
    /// Most submissions in flight.
    pub queue_depth: usize,
    /// Most bytes that the kernels of one submission read and write.
    pub submission_bytes: u64,
    /// Sizes of kernels; `None` for those of the device's class.
    pub tuning: Option<Tuning>,
    /// Kernels are compared with the reference before they are used; `false` in benchmarks that compare them with each other.
    pub self_test: bool,
    /// Faults made on purpose, for tests.
    pub sabotage: Sabotage,
}

/// Which kernels run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShaderChoice {
    /// The best that the device has.
    #[default]
    Best,
    /// Register tiles and staged inputs, no cooperative matrices.
    Tiled,
    /// Cooperative matrices; an error where there are none.
    Cooperative,
    /// The simplest kernels of each kind.
    Baseline,
}

/// Faults made on purpose.
#[derive(Clone, Debug, Default)]
pub struct Sabotage {
    /// Kernels whose name begins with this compute nonsense.
    pub wrong_kernel: Option<&'static str>,
    /// Kernels whose name begins with this do not compile.
    pub broken_kernel: Option<&'static str>,
    /// Whether KV pages hold NaN before they are written, as memory that something else had may.
    pub dirty_pages: bool,
}

impl Default for GpuOptions {
    fn default() -> Self {
        GpuOptions {
            adapter: 0,
            heap_bytes: None,
            pool_bytes: 8 << 30,
            checked_shaders: false,
            shaders: ShaderChoice::Best,
            subgroup_reduction: true,
            flash_attention: true,
            batch_invariant: false,
            graph_capture: true,
            async_dispatch: true,
            queue_depth: 64,
            submission_bytes: 1 << 30,
            tuning: None,
            self_test: true,
            sabotage: Sabotage::default(),
        }
    }
}

/// What is known of prefill's attention by cooperative matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FlashTrust {
    #[default]
    Untested,
    OnTrial,
    Right,
    /// It disagreed with the reference, or did not compile.
    Wrong,
}

/// An opened device. Shared by every model that runs on it.
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) options: GpuOptions,
    pub(crate) subgroup_size: u32,
    pub(crate) kernels: Kernels,
    pub(crate) params: ParamSets,
    pub(crate) heap: Arc<Heap>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) submissions: Submissions,
    pub(crate) variants: Variants,
    pub(crate) uploads: Uploads,
    pub(crate) tuning: Tuning,
    limits: wgpu::Limits,
    summary: AdapterSummary,
    fallbacks: AtomicUsize,
    /// How prefill's attention by cooperative matrices did, by head size.
    flash: Mutex<HashMap<usize, FlashTrust>>,
    totals: Mutex<StepCost>,
}

impl Gpu {
    /// Opens adapter `options.adapter`.
    ///
    /// # Errors
    /// There is no such adapter (the message lists those there are), or it lacks what every kernel needs, or what the
    /// options insist on.
    pub fn open(options: GpuOptions) -> Result<Gpu, BackendError> {
        let adapters = adapters();
        let adapter = adapters.get(options.adapter).ok_or_else(|| no_such_adapter(options.adapter, &adapters))?;
        let summary = summarize(adapter);
        let tier = cooperative_tier(adapter);
        let (device, queue) = open_device(adapter, &summary, tier)?;
        let features = device.features();
        let subgroups = features.contains(Features::SUBGROUP) && options.subgroup_reduction;
        let tier = if subgroups && features.contains(Features::SHADER_F16) { tier } else { GpuTier::Plain };
        let faults = Faults::listen(&device, summary.name.clone());
        let limits = adapter.limits();
        let heap_limits = HeapLimits {
            ceiling_bytes: options.heap_bytes.unwrap_or(u64::MAX),
            // Every buffer is bound whole.
            max_buffer_bytes: limits.max_buffer_size.min(limits.max_storage_buffer_binding_size),
            pool_bytes: options.pool_bytes,
        };
        let tuning = options.tuning.unwrap_or_else(|| Tuning::of(adapter));
        let mut gpu = Gpu {
            heap: Heap::new(device.clone(), queue.clone(), summary.name.clone(), faults.clone(), heap_limits),
            submissions: Submissions::new(options.queue_depth, options.async_dispatch),
            variants: Variants::new(Variant::choose(
                options.shaders,
                tier,
                subgroups,
                tuning.dots_rows > 0,
                &summary.name,
            )?),
            subgroup_size: 1,
            uploads: Uploads::default(),
            tuning,
            kernels: Kernels::default(),
            params: ParamSets::default(),
            fallbacks: AtomicUsize::new(0),
            flash: Mutex::default(),
            totals: Mutex::default(),
            device,
            queue,
            options,
            faults,
            limits,
            summary,
        };
        if subgroups {
            gpu.subgroup_size = probe_subgroup_size(&gpu)?;
        }
        Ok(gpu)
    }

    /// What the device is.
    pub fn summary(&self) -> &AdapterSummary {
        &self.summary
    }

    /// Sizes of its kernels.
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// What kernels run, in a few words.
    pub fn describe_kernels(&self) -> String {
        self.variants.best().describe(self.subgroup_size)
    }

    /// Bytes in buffers of this process on the device.
    pub fn allocated_bytes(&self) -> u64 {
        self.heap.used_bytes()
    }

    /// How often a kernel was replaced by a simpler one since the device was opened.
    pub fn fallbacks(&self) -> usize {
        self.fallbacks.load(Ordering::Relaxed)
    }

    /// What all steps of all models together have cost.
    pub fn totals(&self) -> StepCost {
        *self.totals.lock().expect("no panic while the lock is held")
    }

    /// Ends the device, as a driver does that crashes: every later step reports it lost.
    pub fn lose(&self) {
        self.device.destroy();
        // The driver's word comes with the next look.
        let _ = self.device.poll(wgpu::PollType::Poll);
    }

    /// Bytes a second, read and written counted both, of copies of about `bytes` within the device by a kernel: the roof
    /// of every kernel that is bound by memory. (A driver's own copy command is slower on some devices.)
    pub fn measure_copy_bandwidth(&self, bytes: u64, runs: u32) -> Result<f64, BackendError> {
        const COPIES: usize = 8;
        let workgroups = (bytes.min(self.max_binding_bytes()) / crate::shaders::COPY_BYTES).clamp(1, 65_535);
        let bytes = workgroups * crate::shaders::COPY_BYTES;
        let (from, to) = (self.heap.allocate("copy from", bytes)?, self.heap.allocate("copy to", bytes)?);
        let kernel = self.kernels.get(self, crate::shaders::copy())?;
        let mut plan = Plan::default();
        for _ in 0..COPIES {
            let grid = [workgroups as u32, 1, 1];
            plan.dispatches.push(Dispatch::new(self, kernel.clone(), &[(0, &from), (1, &to)], &0u32, grid, 2 * bytes));
        }
        let mut best = f64::INFINITY;
        for _ in 0..=runs {
            let mut encoder = self.encoder();
            plan.replay(&mut encoder);
            let started = std::time::Instant::now();
            self.queue.submit([encoder.finish()]);
            self.wait()?;
            best = best.min(started.elapsed().as_secs_f64());
        }
        Ok((2 * COPIES) as f64 * bytes as f64 / best)
    }

    /// Most bytes that a kernel can see of one buffer.
    pub(crate) fn max_binding_bytes(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// Bytes of workgroup memory that a kernel may have.
    pub(crate) fn max_workgroup_bytes(&self) -> usize {
        self.limits.max_compute_workgroup_storage_size as usize
    }

    pub(crate) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Waits for everything submitted.
    pub(crate) fn wait(&self) -> Result<(), BackendError> {
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| self.faults.error(error))?;
        self.faults.check()
    }

    /// Counts a step.
    pub(crate) fn count_step(&self, cost: StepCost) {
        let mut totals = self.totals.lock().expect("no panic while the lock is held");
        totals.dispatches += cost.dispatches;
        totals.submits += cost.submits;
        totals.followed += cost.followed;
        totals.cpu += cost.cpu;
        totals.cpu_ahead += cost.cpu_ahead;
        totals.bytes += cost.bytes;
    }

    /// How prefill's attention by cooperative matrices did with this head size.
    pub(crate) fn flash_trust(&self, head_dim: usize) -> FlashTrust {
        let known = self.flash.lock().expect("no panic while the lock is held");
        known.get(&head_dim).copied().unwrap_or_default()
    }

    pub(crate) fn set_flash_trust(&self, head_dim: usize, trust: FlashTrust) {
        self.flash.lock().expect("no panic while the lock is held").insert(head_dim, trust);
    }

    /// Counts a kernel that was replaced by a simpler one.
    pub(crate) fn count_fallback(&self) {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
    }
}

fn no_such_adapter(index: usize, adapters: &[wgpu::Adapter]) -> BackendError {
    let names: Vec<String> = adapters.iter().enumerate().map(|(i, a)| format!("{i}: {}", a.get_info().name)).collect();
    BackendError::Unsupported {
        device: "GPU".into(),
        what: format!("adapter {index}"),
        limit: if names.is_empty() { "no GPU adapter was found".into() } else { names.join(", ") },
    }
}

fn open_device(
    adapter: &wgpu::Adapter,
    summary: &AdapterSummary,
    tier: GpuTier,
) -> Result<(wgpu::Device, wgpu::Queue), BackendError> {
    let offered = adapter.features();
    let mut wanted = Features::SUBGROUP | Features::SHADER_F16 | Features::TIMESTAMP_QUERY;
    if tier != GpuTier::Plain {
        wanted |= Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    }
    // SAFETY: asks for cooperative matrices, which wgpu calls experimental; kernels that use them are tested against the
    // reference before a format is used.
    let experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
    let request = adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("frontier"),
        required_features: offered & wanted,
        required_limits: adapter.limits(),
        experimental_features,
        memory_hints: wgpu::MemoryHints::Performance,
        trace: wgpu::Trace::Off,
    });
    pollster::block_on(request)
        .map_err(|error| BackendError::Device { device: summary.name.clone(), message: error.to_string() })
}
