//! Submissions: how many are in flight, and when to wait.

use std::collections::VecDeque;
use std::sync::Mutex;

use tensor::BackendError;

use crate::device::Gpu;

/// The submissions of one device that may not have ended, the oldest first.
pub(crate) struct Submissions {
    state: Mutex<State>,
    depth: usize,
    wait_for_each: bool,
}

#[derive(Default)]
struct State {
    in_flight: VecDeque<Submission>,
    submitted: u64,
}

/// One submission. Those of a device end in their order.
#[derive(Clone)]
pub(crate) struct Submission {
    number: u64,
    index: wgpu::SubmissionIndex,
}

impl Submissions {
    /// At most `depth` in flight; without `async_dispatch` none after a submit has returned.
    pub(crate) fn new(depth: usize, async_dispatch: bool) -> Submissions {
        Submissions { state: Mutex::default(), depth: depth.max(1), wait_for_each: !async_dispatch }
    }

    /// Whether a submission may be in flight beside another.
    pub(crate) fn overlap(&self) -> bool {
        self.depth > 1 && !self.wait_for_each
    }

    /// Submits `commands`, after waiting for room.
    pub(crate) fn submit(&self, gpu: &Gpu, commands: wgpu::CommandBuffer) -> Result<Submission, BackendError> {
        let mut state = self.state();
        while state.in_flight.len() >= self.depth
            && let Some(oldest) = state.in_flight.pop_front()
        {
            poll_for(gpu, oldest)?;
        }
        state.submitted += 1;
        let submission = Submission { number: state.submitted, index: gpu.queue.submit([commands]) };
        if self.wait_for_each {
            poll_for(gpu, submission.clone())?
        } else {
            state.in_flight.push_back(submission.clone())
        }
        gpu.faults.check()?;
        Ok(submission)
    }

    /// Waits until `submission` has ended.
    pub(crate) fn wait_for(&self, gpu: &Gpu, submission: Submission) -> Result<(), BackendError> {
        let number = submission.number;
        poll_for(gpu, submission)?;
        self.state().in_flight.retain(|other| other.number > number);
        gpu.faults.check()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lock is held")
    }
}

fn poll_for(gpu: &Gpu, submission: Submission) -> Result<(), BackendError> {
    let poll = wgpu::PollType::Wait { submission_index: Some(submission.index), timeout: None };
    gpu.device.poll(poll).map(|_| ()).map_err(|error| gpu.faults.error(error))
}
