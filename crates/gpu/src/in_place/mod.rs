//! Weights used where their file is mapped, on devices that share the CPU's memory: no copy, and no second reading.
//!
//! Only matrices of one tensor whose rows the kernels read as the file has them; the rest is laid out anew and uploaded
//! (see `layout.rs`).

#[cfg(target_vendor = "apple")]
mod metal;
#[cfg(target_vendor = "apple")]
use metal::map;

use std::sync::Arc;

use memmap2::Mmap;

use crate::device::Gpu;

/// Mapped files that the device can read.
#[derive(Default)]
pub(crate) struct InPlace {
    files: Vec<File>,
}

struct File {
    mapping: Arc<Mmap>,
    buffer: wgpu::Buffer,
}

/// A place in a buffer over a mapped file.
pub(crate) struct Place {
    pub(crate) buffer: wgpu::Buffer,
    pub(crate) offset_bytes: usize,
}

impl InPlace {
    /// Wraps the mappings; those that the device cannot read are left out.
    pub(crate) fn new(gpu: &Gpu, mappings: Vec<Arc<Mmap>>) -> InPlace {
        let wrap = |mapping: Arc<Mmap>| Some(File { buffer: map(gpu, &mapping)?, mapping });
        InPlace { files: mappings.into_iter().filter_map(wrap).collect() }
    }

    /// Where `bytes` lie, if in one of the files.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<Place> {
        let start = bytes.as_ptr() as usize;
        self.files.iter().find_map(|file| {
            let offset_bytes = start.checked_sub(file.mapping.as_ptr() as usize)?;
            let inside = offset_bytes + bytes.len() <= file.mapping.len();
            inside.then(|| Place { buffer: file.buffer.clone(), offset_bytes })
        })
    }
}

/// Only Metal's buffers can be made over memory that is there already.
#[cfg(not(target_vendor = "apple"))]
fn map(_gpu: &Gpu, _mapping: &Arc<Mmap>) -> Option<wgpu::Buffer> {
    None
}
