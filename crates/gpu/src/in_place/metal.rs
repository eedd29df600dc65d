//! A Metal buffer over mapped memory.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use block2::RcBlock;
use memmap2::Mmap;
use objc2_metal::{MTLDevice, MTLResourceOptions};
use wgpu::hal::api::Metal;

use crate::device::Gpu;

/// Mappings begin at a page; Metal wants whole pages, and the last one of a file is mapped whole.
const PAGE_BYTES: usize = 16 << 10;

/// A buffer that reads `mapping` and keeps it mapped. `None` where the file is more than one buffer can hold.
pub(super) fn map(gpu: &Gpu, mapping: &Arc<Mmap>) -> Option<wgpu::Buffer> {
    let size = mapping.len().next_multiple_of(PAGE_BYTES);
    // SAFETY: the handle is only used to make a buffer, and not kept.
    let device = unsafe { gpu.device.as_hal::<Metal>() }?;
    let raw_device = device.raw_device();
    if size > raw_device.maxBufferLength() {
        return None;
    }
    let pointer = NonNull::new(mapping.as_ptr().cast_mut().cast::<c_void>())?;
    let kept = mapping.clone();
    // Called when the last user of the buffer is gone, the GPU included.
    let deallocator = RcBlock::new(move |_: NonNull<c_void>, _: usize| {
        let _ = &kept;
    });
    // SAFETY: the pointer is that of whole mapped pages, which the block keeps mapped as long as the buffer lives; the
    // block owns an `Arc` of a type that may be sent.
    let raw = unsafe {
        raw_device.newBufferWithBytesNoCopy_length_options_deallocator(
            pointer,
            size,
            MTLResourceOptions::StorageModeShared,
            Some(&deallocator),
        )
    }?;
    // SAFETY: the buffer was made just now, by this device, with this size.
    let buffer = unsafe { wgpu::hal::metal::Device::buffer_from_raw(raw, size as u64) };
    let description = wgpu::BufferDescriptor {
        label: Some("mapped file"),
        size: size as u64,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    };
    // SAFETY: it belongs to this device; kernels bind it for reading alone.
    Some(unsafe { gpu.device.create_buffer_from_hal::<Metal>(buffer, &description) })
}
