//! The way of weights to the device: a ring of staging buffers, so that laying out the next part overlaps with copying
//! the last.

use std::sync::Mutex;

use tensor::BackendError;

use crate::device::Gpu;
use crate::memory::Slice;

/// Bytes of a staging buffer.
pub(crate) const SLOT_BYTES: usize = 8 << 20;

/// Staging buffers in the ring.
const SLOTS: usize = 3;

/// A ring of staging buffers, made at first use.
#[derive(Default)]
pub(crate) struct Uploads {
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    slots: Vec<Slot>,
    next: usize,
}

struct Slot {
    staging: wgpu::Buffer,
    /// The copy that reads it; `None` while it is mapped.
    copying: Option<wgpu::SubmissionIndex>,
}

impl Uploads {
    /// Copies `data`, at most [`SLOT_BYTES`] and a multiple of 4, to `to` at `offset`.
    pub(crate) fn write(&self, gpu: &Gpu, to: &Slice, offset: u64, data: &[u8]) -> Result<(), BackendError> {
        let mut ring = self.ring.lock().expect("no panic while the lock is held");
        let Ring { slots, next } = &mut *ring;
        if slots.len() < SLOTS {
            *next = slots.len();
            slots.push(Slot::new(gpu));
        }
        let slot = &mut slots[*next];
        *next = (*next + 1) % SLOTS;
        slot.copy(gpu, to, offset, data)
    }

    /// Gives the staging buffers back; a model is loaded.
    pub(crate) fn finish(&self) {
        self.ring.lock().expect("no panic while the lock is held").slots.clear();
    }
}

impl Slot {
    fn new(gpu: &Gpu) -> Slot {
        let staging = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size: SLOT_BYTES as u64,
            usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        Slot { staging, copying: None }
    }

    fn copy(&mut self, gpu: &Gpu, to: &Slice, offset: u64, data: &[u8]) -> Result<(), BackendError> {
        if let Some(submission_index) = self.copying.take() {
            let poll = wgpu::PollType::Wait { submission_index: Some(submission_index), timeout: None };
            gpu.device.poll(poll).map_err(|error| gpu.faults.error(error))?;
        }
        let len = data.len() as u64;
        let mapped = self.staging.get_mapped_range_mut(..len);
        mapped.map_err(|error| gpu.faults.error(error))?.copy_from_slice(data);
        self.staging.unmap();
        let mut encoder = gpu.encoder();
        encoder.copy_buffer_to_buffer(&self.staging, 0, &to.raw, to.offset + offset, len);
        self.copying = Some(gpu.queue.submit([encoder.finish()]));
        // Answered when the copy has ended.
        self.staging.map_async(wgpu::MapMode::Write, .., |_| {});
        gpu.faults.check()
    }
}
