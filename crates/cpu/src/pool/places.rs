//! Which thread has which core.
//!
//! Every region waits for the leader, and nobody can stand in for it as the others do for a benched worker. So when another
//! process wants the leader's core, the leader changes places with a worker: that one may be benched.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::topology::{self, QueueTime};

/// Regions between two looks at the clock.
const REGIONS: u32 = 16;

/// Time between two looks at how long the leader has waited for its core: some turns of the system's scheduler.
const WINDOW: Duration = Duration::from_millis(50);

/// Share of the time that the leader waits for its core, from which it leaves it.
const MOST_WAITED_PERCENT: u32 = 15;

/// Shortest stay on a core: with all cores wanted by others, changing places helps nobody.
const SHORTEST_STAY: Duration = Duration::from_secs(1);

/// The threads' places, when threads are bound to cores.
#[derive(Debug)]
pub(super) struct Places {
    /// One a thread, the leader's first.
    cores: Vec<usize>,
    stay_until: Option<Instant>,
    swaps: usize,
}

/// A leader's binding to a core, if it was asked for.
#[derive(Debug, Default)]
pub(super) struct Binding {
    core: Option<usize>,
    /// How long the leader has waited for its core; `None` where the system does not say.
    queue_time: Option<QueueTime>,
    regions: u32,
    /// The last look: when it was, and what the leader had waited by then.
    looked: Option<(Instant, Duration)>,
}

impl Places {
    pub(super) fn new(cores: Vec<usize>) -> Places {
        Places { cores, stay_until: None, swaps: 0 }
    }

    /// Takes the calling thread as a leader.
    pub(super) fn bind_leader(&self, binding: &mut Binding) {
        binding.bind(self.cores[0]);
        (binding.queue_time, binding.looked) = (QueueTime::of_current_thread(), None);
    }

    /// Called by a leader in its turn, before a region: sees to it that a core is the leader's own. Of `workers`, `players`
    /// take part.
    pub(super) fn settle(&mut self, binding: &mut Binding, players: &[usize], workers: &[JoinHandle<()>]) {
        let Some(core) = binding.core else { return };
        if core != self.cores[0] {
            // Another leader has changed places with a worker.
            binding.bind(self.cores[0]);
        }
        if let Some(now) = binding.is_wanted_by_others()
            && !players.is_empty()
            && self.stay_until.is_none_or(|until| until <= now)
        {
            self.stay_until = Some(now + SHORTEST_STAY);
            self.swaps += 1;
            self.swap(binding, players[self.swaps % players.len()], workers);
        }
    }

    /// The leader and a worker change places.
    fn swap(&mut self, binding: &mut Binding, worker: usize, workers: &[JoinHandle<()>]) {
        self.cores.swap(0, worker);
        tracing::debug!(core = self.cores[worker], "others want the leader's core; a worker takes it");
        topology::pin_thread(&workers[worker - 1], self.cores[worker]);
        binding.bind(self.cores[0]);
    }
}

impl Binding {
    fn bind(&mut self, core: usize) {
        topology::pin_current_thread(core);
        self.core = Some(core);
    }

    /// The time, if by now others want the leader's core.
    fn is_wanted_by_others(&mut self) -> Option<Instant> {
        self.regions = self.regions.wrapping_add(1);
        if !self.regions.is_multiple_of(REGIONS) {
            return None;
        }
        let now = Instant::now();
        if self.looked.is_some_and(|(last, _)| now < last + WINDOW) {
            return None;
        }
        let waited = self.queue_time.as_ref()?.read()?;
        let (last, before) = self.looked.replace((now, waited))?;
        is_wanted(waited.saturating_sub(before), now - last).then_some(now)
    }
}

/// Whether others want a core, for which its thread has waited so long in a window.
fn is_wanted(waited: Duration, window: Duration) -> bool {
    waited * 100 >= window * MOST_WAITED_PERCENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_are_borne() {
        assert!(!is_wanted(Duration::from_millis(7), Duration::from_millis(50)));
        assert!(is_wanted(Duration::from_millis(8), Duration::from_millis(50)));
    }
}
