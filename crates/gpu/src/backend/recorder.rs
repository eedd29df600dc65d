//! What a stage records its dispatches with.

use tensor::{Attend, BackendError, Dims, LayerDims};

use super::attention::Turning;
use super::part_sum::PartSum;
use super::scratch::Scratch;
use super::step::{Shape, StepBuffer};
use crate::device::Gpu;
use crate::kv::Kv;
use crate::memory::Slice;
use crate::plan::{Dispatch, Plan};
use crate::shaders;

/// A plan in the making, and all that its kernels can be bound to.
pub(super) struct Recorder<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) dims: &'a Dims,
    pub(super) scratch: &'a Scratch,
    pub(super) step: &'a StepBuffer,
    pub(super) kv: &'a Kv,
    pub(super) plan: &'a mut Plan,
    /// What attention is to do with queries and keys on its way.
    pub(super) turning: &'a mut Option<Turning>,
    /// A sum that one dispatch may make with what comes of it.
    pub(super) pending: &'a mut Option<PartSum>,
    /// Attention that is to be recorded with the next stage.
    pub(super) attending: &'a mut Option<Attend>,
    pub(super) shape: Shape,
}

/// One dispatch to record.
pub(super) struct Launch<'a, T> {
    /// WGSL.
    pub(super) source: String,
    /// Binding number and buffer.
    pub(super) buffers: &'a [(u32, &'a Slice)],
    pub(super) params: &'a T,
    /// Workgroups.
    pub(super) grid: [usize; 3],
    /// Bytes that it reads and writes, counted once each.
    pub(super) bytes: usize,
}

impl Recorder<'_> {
    /// Records a dispatch, behind what waits.
    pub(super) fn push<T: bytemuck::NoUninit>(&mut self, launch: Launch<'_, T>) -> Result<(), BackendError> {
        self.flush()?;
        self.push_now(launch)
    }

    /// The same for a kernel whose parameters are alike in all layers and most steps: they are compiled into it, where the
    /// device's class gains by that.
    pub(super) fn push_baked<T: bytemuck::NoUninit>(&mut self, mut launch: Launch<'_, T>) -> Result<(), BackendError> {
        if self.gpu.tuning.baked_params {
            launch.source = shaders::baked(&launch.source, bytemuck::bytes_of(launch.params));
        }
        self.push(launch)
    }

    /// Records what waits.
    pub(super) fn flush(&mut self) -> Result<(), BackendError> {
        if let Some(args) = self.attending.take() {
            self.attend(&args, None)?;
        }
        match self.pending.take() {
            Some(sum) => self.push_sum(&sum, true),
            None => Ok(()),
        }
    }

    /// Records a dispatch whatever waits.
    pub(super) fn push_now<T: bytemuck::NoUninit>(&mut self, launch: Launch<'_, T>) -> Result<(), BackendError> {
        let kernel = self.gpu.kernels.get(self.gpu, launch.source)?;
        let grid = launch.grid.map(|n| u32::try_from(n).expect("grids are far below 2^32"));
        let dispatch = Dispatch::new(self.gpu, kernel, launch.buffers, launch.params, grid, launch.bytes as u64);
        self.plan.dispatches.push(dispatch);
        Ok(())
    }

    pub(super) fn layer(&self, index: usize) -> LayerDims {
        self.dims.layers[index]
    }
}

/// Buffers to bind, to which more may be added.
pub(super) fn bind<'b>(buffers: &[(u32, &'b Slice)]) -> Vec<(u32, &'b Slice)> {
    buffers.to_vec()
}
