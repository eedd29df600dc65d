//! Sums of products whose depth was cut into parts. One that is added to the hidden state is not recorded at once: one dispatch
//! makes it and the norm that most often comes behind it.

use tensor::BackendError;

use super::project::Project;
use super::recorder::{Launch, Recorder};
use crate::memory::Slice;
use crate::shaders;

/// The sums of products whose depth was cut into parts, to be added to y: `[part][batch row][output]` in the buffer of gate and up.
pub(super) struct PartSum {
    pub(super) depths: usize,
    pub(super) outputs: usize,
    pub(super) rows: usize,
    pub(super) y: Slice,
    pub(super) y_stride: usize,
}

impl Recorder<'_> {
    /// y += the sum of parts, or y =.
    pub(super) fn push_sum(&mut self, sum: &PartSum, add: bool) -> Result<(), BackendError> {
        let outputs = sum.outputs;
        self.push_now(Launch {
            source: shaders::add_depths(sum.depths, add),
            buffers: &[(0, &self.scratch.gate_up), (1, &sum.y), (2, &self.step.buffer)],
            params: &[outputs as u32, (shaders::FEW * outputs) as u32, sum.y_stride as u32],
            grid: [outputs.div_ceil(shaders::ROW_THREADS as usize), sum.rows, 1],
            bytes: 4 * outputs * sum.rows * (sum.depths + 1),
        })
    }

    /// A sum that waits, and behind it what comes of the norm of its y as f16: in one dispatch. False where none waits for that.
    pub(super) fn sum_and_halve(&mut self, job: Project<'_>) -> Result<bool, BackendError> {
        let fits = |sum: &PartSum| {
            sum.y == *job.x && sum.rows == job.rows && sum.y_stride == job.x_stride && sum.outputs == job.width
        };
        let Some(norm) = job.norm else { return Ok(false) };
        let Some(sum) = self.pending.take_if(|sum| fits(sum)) else { return Ok(false) };
        let scratch = self.scratch;
        self.push_now(Launch {
            source: shaders::sum_norm_halves(sum.depths),
            buffers: &[
                (0, &scratch.gate_up),
                (1, &sum.y),
                (2, &scratch.halves),
                (3, &self.step.buffer),
                (4, &norm.weight),
            ],
            params: &[
                sum.outputs as u32,
                (shaders::FEW * sum.outputs) as u32,
                sum.y_stride as u32,
                norm.eps.to_bits(),
                scratch.halves_stride as u32,
            ],
            grid: [sum.rows, 1, 1],
            bytes: sum.outputs * sum.rows * (4 * sum.depths + 14),
        })?;
        Ok(true)
    }
}
