//! Submissions: how many are in flight, and when to wait.

use std::collections::VecDeque;
use std::sync::Mutex;

use tensor::BackendError;

use crate::device::Gpu;

/// The submissions of one device that may not have ended, the oldest first.
pub(crate) struct Submissions {
    in_flight: Mutex<VecDeque<wgpu::SubmissionIndex>>,
    depth: usize,
    wait_for_each: bool,
}

impl Submissions {
    /// At most `depth` in flight; without `async_dispatch` none after a submit has returned.
    pub(crate) fn new(depth: usize, async_dispatch: bool) -> Submissions {
        Submissions { in_flight: Mutex::default(), depth: depth.max(1), wait_for_each: !async_dispatch }
    }

    /// Submits `commands`, after waiting for room.
    pub(crate) fn submit(&self, gpu: &Gpu, commands: wgpu::CommandBuffer) -> Result<(), BackendError> {
        let mut in_flight = self.in_flight.lock().expect("no panic while the lock is held");
        while in_flight.len() >= self.depth {
            wait_for(gpu, in_flight.pop_front())?;
        }
        let index = gpu.queue.submit([commands]);
        if self.wait_for_each {
            wait_for(gpu, Some(index))?
        } else {
            in_flight.push_back(index)
        }
        gpu.faults.check()
    }

    /// Forgets the submissions, all of which have ended.
    pub(crate) fn all_ended(&self) {
        self.in_flight.lock().expect("no panic while the lock is held").clear();
    }
}

fn wait_for(gpu: &Gpu, submission_index: Option<wgpu::SubmissionIndex>) -> Result<(), BackendError> {
    let poll = wgpu::PollType::Wait { submission_index, timeout: None };
    gpu.device.poll(poll).map(|_| ()).map_err(|error| gpu.faults.error(error))
}
