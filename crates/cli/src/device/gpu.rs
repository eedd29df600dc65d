//! Choosing a GPU adapter by the settings.

use std::sync::{Arc, Once};

use anyhow::Result;
use checkpoint::Checkpoint;
use gpu::{AdapterKind, AdapterSummary, Gpu, GpuBackend, GpuOptions, ShaderChoice, list_adapters};
use model::{Decoder, DecoderConfig, LoadOptions};
use tensor::{Backend, BackendError};

use super::Device;
use crate::memory::{Budget, Ceiling, Machine};
use crate::output::human_bytes;
use crate::settings::{Settings, SettingsError, Source, defs};

/// An opened GPU, and how it was opened.
#[derive(Clone)]
pub(crate) struct GpuDevice {
    gpu: Arc<Gpu>,
    options: Arc<GpuOptions>,
}

impl GpuDevice {
    fn open(options: GpuOptions) -> Result<GpuDevice, BackendError> {
        Ok(GpuDevice { gpu: Arc::new(Gpu::open(options.clone())?), options: Arc::new(options) })
    }

    /// The same adapter, opened again after it was lost.
    pub(crate) fn reopen(&self) -> Result<GpuDevice, BackendError> {
        GpuDevice::open((*self.options).clone())
    }

    /// The driver's name of it.
    pub(crate) fn name(&self) -> String {
        self.gpu.summary().name.clone()
    }

    /// Loads a network as it is stored.
    pub(crate) fn load(
        &self,
        checkpoint: &Checkpoint,
        config: DecoderConfig,
        sizes: &LoadOptions,
        progress: &mut dyn FnMut(model::Progress),
    ) -> Result<Decoder<GpuBackend>> {
        let max_logit_rows = sizes.max_logit_rows.min(self.max_logit_rows(&config));
        let sizes = LoadOptions { max_logit_rows, ..*sizes };
        Ok(Decoder::load(checkpoint, config, self.backend_over(checkpoint), &sizes, progress)?)
    }

    /// Most logit rows of a step: as many as a kernel can see in one buffer.
    pub(crate) fn max_logit_rows(&self, config: &DecoderConfig) -> usize {
        GpuBackend::max_logit_rows(&self.gpu, config.vocab())
    }

    /// The adapter itself.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// The device for one model.
    pub(crate) fn backend(&self) -> GpuBackend {
        GpuBackend::new(self.gpu.clone())
    }

    /// The same, which may use the checkpoint's weights where they are mapped.
    pub(crate) fn backend_over(&self, checkpoint: &Checkpoint) -> GpuBackend {
        self.backend().with_mappings(checkpoint.mappings())
    }

    /// The device, in one line for people.
    pub(crate) fn describe(&self) -> String {
        self.backend().describe()
    }

    pub(super) fn announce(&self) {
        let AdapterSummary { api, name, driver, .. } = self.gpu.summary();
        tracing::info!("{api} device: {name}");
        tracing::info!("Using {api} acceleration");
        tracing::info!("driver {driver}; kernels: {}", self.gpu.describe_kernels());
        let GpuOptions { graph_capture, async_dispatch, queue_depth, submission_bytes, batch_invariant, .. } =
            *self.options;
        let on = |on: bool| if on { "on" } else { "off" };
        tracing::info!(
            "graph capture {}, async dispatch {}, {queue_depth} submissions of {} in flight at most, batch invariance {}",
            on(graph_capture),
            on(async_dispatch),
            human_bytes(submission_bytes),
            on(batch_invariant)
        );
    }

    pub(super) fn budget(&self, settings: &Settings) -> Budget {
        budget(self.gpu.summary(), settings)
    }
}

/// The GPU adapters, a line each, as MISTRAL_METAL_DEVICE_ID counts them.
pub(crate) fn adapters() -> Vec<String> {
    let list = list_adapters();
    if list.is_empty() {
        return vec!["none found".to_owned()];
    }
    list.iter().enumerate().map(|(index, adapter)| format!("{index}: {}", line(adapter))).collect()
}

/// Whether there is an adapter that `auto` would take.
pub(super) fn has_hardware() -> bool {
    gpu::may_have_gpu() && list_adapters().iter().any(|adapter| adapter.kind != AdapterKind::Software)
}

/// The GPU that `wanted` names; `None` where `auto` finds none.
pub(super) fn open(wanted: &str, settings: &Settings) -> Result<Option<Device>> {
    if wanted == "auto" && !gpu::may_have_gpu() {
        tell_no_gpu("");
        return Ok(None);
    }
    let all = list_adapters();
    let suits = |adapter: &AdapterSummary| match wanted {
        "auto" => adapter.kind != AdapterKind::Software,
        "metal" => adapter.api == "Metal",
        "vulkan" => adapter.api == "Vulkan",
        _ => true,
    };
    let suitable: Vec<usize> = (0..all.len()).filter(|&index| suits(&all[index])).collect();
    if suitable.is_empty() {
        if wanted == "auto" {
            tell_no_gpu(&software_note(&all));
            return Ok(None);
        }
        return Err(refused(settings, &absent(wanted, &all)));
    }
    let id = settings.len(&defs::METAL_DEVICE_ID);
    // Counted among all, as `frontier doctor` lists them; who names none gets the first that suits.
    let any = *settings.source(&defs::METAL_DEVICE_ID) == Source::Default;
    let Some(&adapter) = suitable.iter().find(|&&index| any || index == id) else {
        let names: Vec<String> = suitable.iter().map(|&index| format!("{index} ({})", all[index].name)).collect();
        return Err(SettingsError(vec![format!(
            "MISTRAL_METAL_DEVICE_ID={id} ({}): no such adapter for MISTRAL_DEVICE={wanted}; allowed: {}",
            settings.source(&defs::METAL_DEVICE_ID),
            names.join(", ")
        )])
        .into());
    };
    match GpuDevice::open(options(adapter, &all[adapter], settings)) {
        Ok(device) => Ok(Some(Device::Gpu(device))),
        Err(error) if wanted == "auto" => {
            tracing::warn!("{}: {error}: using the CPU", all[adapter].name);
            Ok(None)
        }
        Err(error) => Err(refused(settings, &error.to_string())),
    }
}

/// Tells the log, once: devices are opened for each plan.
fn tell_no_gpu(note: &str) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| tracing::info!("no GPU found{note}: using the CPU"));
}

/// That the device that was asked for cannot be had.
fn refused(settings: &Settings, why: &str) -> anyhow::Error {
    let (wanted, source) = (settings.shown(&defs::DEVICE), settings.source(&defs::DEVICE));
    SettingsError(vec![format!("MISTRAL_DEVICE={wanted} ({source}): {why}")]).into()
}

fn options(index: usize, adapter: &AdapterSummary, settings: &Settings) -> GpuOptions {
    let pooling = settings.on(&defs::ENABLE_MEMORY_POOLING);
    GpuOptions {
        adapter: index,
        heap_bytes: budget(adapter, settings).bytes,
        pool_bytes: if pooling { settings.int(&defs::MEMORY_POOL_SIZE) } else { 0 },
        shaders: match settings.text(&defs::METAL_SHADER_VARIANT) {
            Some("baseline") => ShaderChoice::Baseline,
            Some("tiled") => ShaderChoice::Tiled,
            Some("simdgroup") => ShaderChoice::Cooperative,
            _ => ShaderChoice::Best,
        },
        subgroup_reduction: settings.on(&defs::METAL_SIMD_REDUCTION),
        flash_attention: settings.text(&defs::USE_FLASH_ATTENTION) != Some("off"),
        batch_invariant: settings.on(&defs::BATCH_INVARIANT),
        graph_capture: settings.on(&defs::USE_GRAPH_CAPTURE),
        async_dispatch: settings.on(&defs::METAL_ASYNC_DISPATCH),
        queue_depth: settings.len(&defs::METAL_COMMAND_QUEUE_SIZE),
        submission_bytes: settings.int(&defs::METAL_COMMAND_BUFFER_SIZE),
        ..GpuOptions::default()
    }
}

/// Device bytes: as set, at most what the device recommends; else a share of that.
fn budget(adapter: &AdapterSummary, settings: &Settings) -> Budget {
    // Memory that the CPU uses too is bounded by the machine's limits as well.
    let is_shared = adapter.kind != AdapterKind::Discrete;
    let machine = if is_shared { Ceiling::all(&Machine::read(), settings) } else { Vec::new() };
    let recommended = adapter.memory_bytes.map(|bytes| Ceiling {
        what: format!("what {} recommends", adapter.name),
        bytes,
        is_setting: false,
        how_to_raise: how_to_raise(adapter, settings),
    });
    let budget = Budget::within(recommended.into_iter().chain(machine).collect(), settings);
    if is_shared { budget } else { budget.of(&adapter.name) }
}

/// How the owner of the machine lifts the device's recommendation to what is wanted.
fn how_to_raise(adapter: &AdapterSummary, settings: &Settings) -> Option<String> {
    let wanted = settings.amount(&defs::METAL_HEAP_SIZE).filter(|_| adapter.api == "Metal")?;
    Some(format!("sudo sysctl iogpu.wired_limit_mb={}", wanted >> 20))
}

/// Why the device that was named is not there, and what to set.
fn absent(wanted: &str, all: &[AdapterSummary]) -> String {
    let others = if all.is_empty() { "auto, cpu" } else { "auto, cpu, gpu, vulkan" };
    match wanted {
        "metal" if cfg!(target_os = "macos") => "this Mac offers no Metal device; allowed: auto, cpu".to_owned(),
        "metal" => format!(
            "Metal exists on macOS only, not in a Linux machine or container on a Mac either; run frontier natively \
             on macOS, or give the container Vulkan (podman with krunkit) and set vulkan; allowed here: {others}"
        ),
        "vulkan" if cfg!(target_os = "macos") => "on macOS set metal; allowed: auto, cpu, gpu, metal".to_owned(),
        _ => "no Vulkan driver offers an adapter; install the GPU's driver (mesa-vulkan-drivers has one in \
              software), or set cpu"
            .to_owned(),
    }
}

fn software_note(all: &[AdapterSummary]) -> String {
    let names: Vec<&str> = all.iter().map(|adapter| adapter.name.as_str()).collect();
    if names.is_empty() { String::new() } else { format!(" ({} is software)", names.join(", ")) }
}

fn line(adapter: &AdapterSummary) -> String {
    let memory = adapter.memory_bytes.map_or_else(String::new, |bytes| format!(", {}", human_bytes(bytes)));
    format!("{} ({}, {}{memory}, {})", adapter.name, adapter.api, adapter.kind.name(), adapter.driver)
}
