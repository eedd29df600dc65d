//! What the engine thread shows to other threads.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::stats::Stats;

/// It is not so now.
const NEVER: u64 = u64::MAX;

/// What the engine thread shows to other threads.
#[derive(Debug)]
pub(crate) struct Board {
    stats: Mutex<Stats>,
    has_work: AtomicBool,
    /// When the latest of several failed steps in a row failed; in microseconds, like the next.
    failing_at: AtomicU64,
    /// When something was last computed or delivered, or there was nothing to do.
    progress: AtomicU64,
    /// Requests that a drain gave up on.
    pub(crate) abandoned: AtomicUsize,
}

impl Board {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            stats: Mutex::new(Stats::default()),
            has_work: AtomicBool::new(false),
            failing_at: AtomicU64::new(NEVER),
            progress: AtomicU64::new(micros(now)),
            abandoned: AtomicUsize::new(0),
        }
    }

    pub(crate) fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step begins, or there is nothing to do.
    pub(crate) fn set_work(&self, has_work: bool) {
        self.has_work.store(has_work, Ordering::Relaxed);
    }

    pub(crate) fn has_work(&self) -> bool {
        self.has_work.load(Ordering::Relaxed)
    }

    /// When the latest of several steps in a row failed; `None` once one has succeeded.
    pub(crate) fn set_failing(&self, latest: Option<Duration>) {
        self.failing_at.store(latest.map_or(NEVER, micros), Ordering::Relaxed);
    }

    pub(crate) fn failing(&self) -> Option<Duration> {
        moment(&self.failing_at)
    }

    pub(crate) fn set_progress(&self, now: Duration) {
        self.progress.store(micros(now), Ordering::Relaxed);
    }

    pub(crate) fn progress(&self) -> Duration {
        Duration::from_micros(self.progress.load(Ordering::Relaxed))
    }
}

fn moment(micros: &AtomicU64) -> Option<Duration> {
    match micros.load(Ordering::Relaxed) {
        NEVER => None,
        micros => Some(Duration::from_micros(micros)),
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}
