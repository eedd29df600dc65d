//! What kernels are told: numbers that do not change while a plan is replayed.
//!
//! They lie in uniform buffers and not among a pass's immediates: those would have to be set anew for each dispatch of
//! each step, and for wgpu every kernel's layout of them is another, which it clears at every change.

use std::collections::HashMap;
use std::sync::Mutex;

/// The binding of a kernel's parameters.
pub(crate) const BINDING: u32 = 15;

/// Most bytes of one kernel's parameters.
const MOST_BYTES: usize = 128;

/// Sets of parameters in one buffer.
const SETS: u64 = 256;

/// The parameters of a device's kernels; equal ones are stored once.
#[derive(Default)]
pub(crate) struct ParamSets {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stored: HashMap<[u8; MOST_BYTES], Place>,
    /// Where the next goes.
    next: Option<Place>,
}

/// Where parameters lie.
#[derive(Clone)]
pub(crate) struct Place {
    buffer: wgpu::Buffer,
    offset: u64,
}

impl ParamSets {
    /// The place of `params`, stored now or before.
    pub(crate) fn place<T: bytemuck::NoUninit>(&self, device: &wgpu::Device, queue: &wgpu::Queue, params: &T) -> Place {
        let source = bytemuck::bytes_of(params);
        let mut bytes = [0; MOST_BYTES];
        bytes[..source.len()].copy_from_slice(source);
        let mut state = self.state.lock().expect("no panic while the lock is held");
        if let Some(place) = state.stored.get(&bytes) {
            return place.clone();
        }
        let stride = u64::from(device.limits().min_uniform_buffer_offset_alignment).max(MOST_BYTES as u64);
        let place = state.next.take().unwrap_or_else(|| Place { buffer: buffer(device, SETS * stride), offset: 0 });
        queue.write_buffer(&place.buffer, place.offset, &bytes);
        let offset = place.offset + stride;
        state.next = (offset < place.buffer.size()).then(|| Place { offset, ..place.clone() });
        state.stored.insert(bytes, place.clone());
        place
    }
}

impl Place {
    /// For a bind group.
    pub(crate) fn entry(&self) -> wgpu::BindGroupEntry<'_> {
        let size = wgpu::BufferSize::new(MOST_BYTES as u64);
        let resource =
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &self.buffer, offset: self.offset, size });
        wgpu::BindGroupEntry { binding: BINDING, resource }
    }
}

fn buffer(device: &wgpu::Device, size: u64) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("parameters"),
        size,
        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}
