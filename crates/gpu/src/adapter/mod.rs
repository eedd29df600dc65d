//! Which GPU adapters there are, and what each can do.

#[cfg(target_vendor = "apple")]
#[path = "metal.rs"]
mod api;
#[cfg(not(target_vendor = "apple"))]
#[path = "vulkan.rs"]
mod api;

use wgpu::{Backends, Features, InstanceFlags};

/// An adapter as `doctor` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSummary {
    /// The driver's name of the device.
    pub name: String,
    /// `Metal` or `Vulkan`.
    pub api: &'static str,
    /// Driver and version.
    pub driver: String,
    /// What it is.
    pub kind: AdapterKind,
    /// Memory that one process should use at most, as the driver tells.
    pub memory_bytes: Option<u64>,
}

/// What an adapter is made of, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterKind {
    /// A card with memory of its own.
    Discrete,
    /// Shares memory with the CPU.
    Integrated,
    /// A GPU lent to a virtual machine.
    Virtual,
    /// The driver does not say.
    Other,
    /// The CPU in disguise: for tests.
    Software,
}

impl AdapterKind {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            AdapterKind::Discrete => "discrete",
            AdapterKind::Integrated => "integrated",
            AdapterKind::Virtual => "virtual",
            AdapterKind::Other => "other",
            AdapterKind::Software => "software",
        }
    }
}

/// How a device multiplies matrices best, as far as its features tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GpuTier {
    /// Register tiles in f32.
    Plain,
    /// 8x8 cooperative matrices, f16 in, f32 out (Apple, lavapipe from 26.1).
    Cooperative8,
    /// 16x16 cooperative matrices (NVIDIA).
    Cooperative16,
}

/// Every adapter that could run this backend, best kind first. Empty where there is no driver.
pub fn list_adapters() -> Vec<AdapterSummary> {
    adapters().iter().map(summarize).collect()
}

/// False where there is certainly no GPU: on Linux none without a device node. Spares the start of programs that take the
/// CPU then the loading of a driver.
pub fn may_have_gpu() -> bool {
    const NODES: [&str; 6] = ["/dev/dri", "/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kgsl-3d0", "/dev/mali0"];
    !cfg!(target_os = "linux") || NODES.iter().any(|node| std::path::Path::new(node).exists())
}

pub(crate) fn adapters() -> Vec<wgpu::Adapter> {
    let mut flags = InstanceFlags::from_build_config();
    // It would cap every buffer at 4 GiB, and nothing here dispatches indirectly.
    flags.remove(InstanceFlags::VALIDATION_INDIRECT_CALL);
    let Some(instance) = api::instance(flags) else { return Vec::new() };
    let mut adapters = pollster::block_on(instance.enumerate_adapters(Backends::METAL | Backends::VULKAN));
    adapters.sort_by_key(|adapter| kind(adapter.get_info().device_type));
    adapters
}

pub(crate) fn summarize(adapter: &wgpu::Adapter) -> AdapterSummary {
    let info = adapter.get_info();
    AdapterSummary {
        name: info.name,
        api: match info.backend {
            wgpu::Backend::Metal => "Metal",
            _ => "Vulkan",
        },
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        kind: kind(info.device_type),
        memory_bytes: api::memory_bytes(adapter),
    }
}

pub(crate) fn cooperative_tier(adapter: &wgpu::Adapter) -> GpuTier {
    if !adapter.features().contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        return GpuTier::Plain;
    }
    let has = |size: u32| {
        adapter.cooperative_matrix_properties().iter().any(|p| {
            (p.m_size, p.n_size, p.k_size) == (size, size, size)
                && p.ab_type == wgpu::CooperativeScalarType::F16
                && p.cr_type == wgpu::CooperativeScalarType::F32
        })
    };
    if has(16) {
        GpuTier::Cooperative16
    } else if has(8) {
        GpuTier::Cooperative8
    } else {
        GpuTier::Plain
    }
}

fn kind(kind: wgpu::DeviceType) -> AdapterKind {
    match kind {
        wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
        wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
        wgpu::DeviceType::Other => AdapterKind::Other,
        wgpu::DeviceType::Cpu => AdapterKind::Software,
    }
}
