//! What is particular to Metal.

use objc2_metal::MTLDevice;

/// Where adapters are looked for.
pub(super) fn instance(flags: wgpu::InstanceFlags) -> Option<wgpu::Instance> {
    Some(wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::METAL | wgpu::Backends::VULKAN,
        flags,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    }))
}

/// What Metal recommends as the most that one process should use.
pub(super) fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the handle is only read from, and not kept.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Metal>() }?;
    Some(adapter.raw_device().recommendedMaxWorkingSetSize())
}
