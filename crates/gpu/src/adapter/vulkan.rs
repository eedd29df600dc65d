//! What is particular to Vulkan.

use wgpu::hal;

/// What asks for windows, of the extensions that wgpu enables.
const WINDOWS: [&std::ffi::CStr; 3] = [c"VK_KHR_wayland_surface", c"VK_KHR_xcb_surface", c"VK_KHR_xlib_surface"];

/// Where adapters are looked for; `None` without a Vulkan loader.
///
/// Nothing is drawn, so no window system is asked for: Mesa would look for a display, and complain where there is none.
pub(super) fn instance(flags: wgpu::InstanceFlags) -> Option<wgpu::Instance> {
    let description = hal::InstanceDescriptor {
        name: "frontier",
        flags,
        memory_budget_thresholds: wgpu::MemoryBudgetThresholds::default(),
        backend_options: wgpu::BackendOptions::default(),
        telemetry: None,
        display: None,
    };
    let without_windows = |args: hal::vulkan::CreateInstanceCallbackArgs<'_, '_, '_>| {
        args.extensions.retain(|extension| !WINDOWS.contains(extension));
    };
    // SAFETY: an extension that is left out is missed only where a surface is made for its window system, which asks for it
    // first and is never done here; nothing else is changed.
    let instance = unsafe { hal::vulkan::Instance::init_with_callback(&description, Some(Box::new(without_windows))) };
    let instance = instance.inspect_err(|error| tracing::debug!("no Vulkan: {error}")).ok()?;
    // SAFETY: the instance was made just now, and belongs to nobody else.
    Some(unsafe { wgpu::Instance::from_hal::<hal::api::Vulkan>(instance) })
}

/// Bytes of its device-local heaps.
pub(super) fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the handle is only read from, and not kept.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the physical device belongs to this instance, and both are alive.
    let memory = unsafe { instance.get_physical_device_memory_properties(adapter.raw_physical_device()) };
    let heaps = &memory.memory_heaps[..memory.memory_heap_count as usize];
    const DEVICE_LOCAL: u32 = 1;
    let local = heaps.iter().filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0);
    local.map(|heap| heap.size).max()
}
