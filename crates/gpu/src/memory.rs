//! Device memory: what is allocated counts against a ceiling, and what is freed waits in a pool for the next allocation. What is
//! small and never written by kernels shares a block with its neighbours.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, Weak};

use tensor::BackendError;

use crate::faults::Faults;

/// Freed buffers up to this share of a request too large are taken for it: a quarter.
const WASTE_SHARE: u64 = 4;

/// Bytes of a block that several share, and the most that one of them takes.
pub(crate) const SHARED_BYTES: u64 = 4 << 20;
const SHARE_BYTES: u64 = 256 << 10;

/// Where a share may begin: at a multiple of what any device asks of a binding.
const SHARE_ALIGNMENT: u64 = 256;

/// Buffers of one device.
pub(crate) struct Heap {
    device: wgpu::Device,
    queue: wgpu::Queue,
    device_name: String,
    faults: Arc<Faults>,
    /// Most bytes of all buffers, those of the pool included.
    ceiling_bytes: u64,
    /// Most bytes of one buffer.
    max_buffer_bytes: u64,
    /// Most bytes that wait in the pool; 0 without pooling.
    pool_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes of all buffers, those of the pool included.
    allocated_bytes: u64,
    /// Freed buffers, the oldest first.
    free: VecDeque<wgpu::Buffer>,
    free_bytes: u64,
    /// The shared block that has room, and how many of its bytes are taken.
    shared: Option<(Weak<Block>, u64)>,
}

/// A buffer of the driver's. Dropping it gives its bytes back to the heap.
struct Block {
    raw: wgpu::Buffer,
    heap: Arc<Heap>,
}

/// What a kernel can be bound to: a part of a buffer of the driver's.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    pub(crate) raw: wgpu::Buffer,
    /// Bytes before it.
    pub(crate) offset: u64,
    size: u64,
}

/// Storage on the device. Dropping it gives its memory back.
pub struct Buffer {
    slice: Slice,
    /// `None` where the memory is not the heap's.
    _block: Option<Arc<Block>>,
}

/// Ceilings of a [`Heap`].
pub(crate) struct HeapLimits {
    pub(crate) ceiling_bytes: u64,
    pub(crate) max_buffer_bytes: u64,
    pub(crate) pool_bytes: u64,
}

impl Heap {
    pub(crate) fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        device_name: String,
        faults: Arc<Faults>,
        limits: HeapLimits,
    ) -> Arc<Heap> {
        let HeapLimits { ceiling_bytes, max_buffer_bytes, pool_bytes } = limits;
        let state = Mutex::default();
        Arc::new(Heap { device, queue, device_name, faults, ceiling_bytes, max_buffer_bytes, pool_bytes, state })
    }

    /// A buffer of zeros, of `size_bytes` rounded up to 16 or a little more.
    ///
    /// # Errors
    /// Out of memory: beyond the ceiling, or the driver's word.
    pub(crate) fn allocate(self: &Arc<Self>, what: &str, size_bytes: u64) -> Result<Buffer, BackendError> {
        let size_bytes = size_bytes.max(16).next_multiple_of(16);
        let block = self.block(what, size_bytes)?;
        let size = block.raw.size();
        Ok(Buffer::within(Arc::new(block), 0, size))
    }

    /// The same for what kernels only read. wgpu keeps account of each buffer of each dispatch, so that hundreds of small ones
    /// cost the CPU more than a few blocks do.
    ///
    /// # Errors
    /// As [`Heap::allocate`].
    pub(crate) fn allocate_constant(self: &Arc<Self>, what: &str, size_bytes: u64) -> Result<Buffer, BackendError> {
        let size = size_bytes.max(16).next_multiple_of(16);
        if size > SHARE_BYTES {
            return self.allocate(what, size);
        }
        if let Some(share) = self.share(size) {
            return Ok(share);
        }
        // Where a block is too much for the ceiling, this alone may fit.
        let Ok(block) = self.block(what, SHARED_BYTES) else { return self.allocate(what, size) };
        let block = Arc::new(block);
        self.state().shared = Some((Arc::downgrade(&block), size));
        Ok(Buffer::within(block, 0, size))
    }

    /// Room in the shared block, if there is.
    fn share(&self, size: u64) -> Option<Buffer> {
        let mut state = self.state();
        let (block, taken) = state.shared.as_mut()?;
        let offset = taken.next_multiple_of(SHARE_ALIGNMENT);
        if offset + size > SHARED_BYTES {
            return None;
        }
        let block = block.upgrade()?;
        *taken = offset + size;
        Some(Buffer::within(block, offset, size))
    }

    /// A buffer of the driver's, of zeros.
    fn block(self: &Arc<Self>, what: &str, size_bytes: u64) -> Result<Block, BackendError> {
        if let Some(raw) = self.reuse(size_bytes) {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.clear_buffer(&raw, 0, None);
            self.queue.submit([encoder.finish()]);
            return Ok(Block { raw, heap: self.clone() });
        }
        self.reserve(what, size_bytes)?;
        let raw = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size: size_bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        if let Err(error) = self.faults.check() {
            self.state().allocated_bytes -= size_bytes;
            return Err(error);
        }
        Ok(Block { raw, heap: self.clone() })
    }

    /// Bytes of buffers in use.
    pub(crate) fn used_bytes(&self) -> u64 {
        let state = self.state();
        state.allocated_bytes - state.free_bytes
    }

    /// Takes a buffer of about the size from the pool.
    fn reuse(&self, size_bytes: u64) -> Option<wgpu::Buffer> {
        let mut state = self.state();
        let fits =
            |buffer: &wgpu::Buffer| (size_bytes..=size_bytes + size_bytes / WASTE_SHARE).contains(&buffer.size());
        let at = state.free.iter().position(fits)?;
        let buffer = state.free.remove(at).expect("just found");
        state.free_bytes -= buffer.size();
        Some(buffer)
    }

    /// Counts a new buffer; the pool makes room for it.
    fn reserve(&self, what: &str, size_bytes: u64) -> Result<(), BackendError> {
        let mut state = self.state();
        while state.allocated_bytes + size_bytes > self.ceiling_bytes && state.drop_oldest() {}
        let available = self.ceiling_bytes.saturating_sub(state.allocated_bytes).min(self.max_buffer_bytes);
        if size_bytes > available {
            return Err(BackendError::OutOfMemory {
                device: self.device_name.clone(),
                what: what.into(),
                wanted_bytes: size_bytes,
                available_bytes: available,
            });
        }
        state.allocated_bytes += size_bytes;
        Ok(())
    }

    fn release(&self, buffer: &wgpu::Buffer) {
        let mut state = self.state();
        if buffer.size() > self.pool_bytes || self.faults.is_lost() {
            state.allocated_bytes -= buffer.size();
            return;
        }
        state.free_bytes += buffer.size();
        state.free.push_back(buffer.clone());
        while state.free_bytes > self.pool_bytes && state.drop_oldest() {}
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lock is held")
    }
}

impl State {
    /// Gives the buffer that has waited longest back to the driver; false when there is none.
    fn drop_oldest(&mut self) -> bool {
        let Some(buffer) = self.free.pop_front() else { return false };
        self.free_bytes -= buffer.size();
        self.allocated_bytes -= buffer.size();
        true
    }
}

impl Buffer {
    fn within(block: Arc<Block>, offset: u64, size: u64) -> Buffer {
        Buffer { slice: Slice { raw: block.raw.clone(), offset, size }, _block: Some(block) }
    }

    /// A buffer over memory that is not the heap's.
    pub(crate) fn borrowed(raw: wgpu::Buffer) -> Buffer {
        Buffer { slice: Slice { offset: 0, size: raw.size(), raw }, _block: None }
    }
}

impl Deref for Buffer {
    type Target = Slice;

    fn deref(&self) -> &Slice {
        &self.slice
    }
}

impl Slice {
    /// Its bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// For a bind group.
    pub(crate) fn binding(&self) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.raw,
            offset: self.offset,
            size: wgpu::BufferSize::new(self.size),
        })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.heap.release(&self.raw);
    }
}
