//! Which thread has which core.
//!
//! Every region waits for the leader, and nobody can stand in for it as the others do for a benched worker. So when another
//! process wants the leader's core, the leader changes places with a worker: that one may be benched.

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
    /// How long the leader has waited for its core; `None` where the system does not say.
    queue_time: Option<QueueTime>,
    regions: u32,
    /// The last look: when it was, and what the leader had waited by then.
    looked: Option<(Instant, Duration)>,
    stay_until: Option<Instant>,
    swaps: usize,
}

impl Places {
    pub(super) fn new(cores: Vec<usize>) -> Places {
        Places { cores, queue_time: None, regions: 0, looked: None, stay_until: None, swaps: 0 }
    }

    /// Takes the calling thread as the leader.
    pub(super) fn seat_leader(&mut self) {
        topology::pin_current_thread(self.cores[0]);
        (self.queue_time, self.looked) = (QueueTime::of_current_thread(), None);
    }

    /// Called by the leader before a region: the worker of `players` that it should change places with, if any.
    pub(super) fn partner(&mut self, players: &[usize]) -> Option<usize> {
        self.regions = self.regions.wrapping_add(1);
        if !self.regions.is_multiple_of(REGIONS) || players.is_empty() {
            return None;
        }
        let now = Instant::now();
        if self.looked.is_some_and(|(last, _)| now < last + WINDOW) {
            return None;
        }
        let waited = self.queue_time.as_ref()?.read()?;
        let (last, before) = self.looked.replace((now, waited))?;
        if !is_wanted(waited.saturating_sub(before), now - last) || self.stay_until.is_some_and(|until| now < until) {
            return None;
        }
        self.stay_until = Some(now + SHORTEST_STAY);
        self.swaps += 1;
        Some(players[self.swaps % players.len()])
    }

    /// The leader and a worker, which runs as `thread`, change places.
    pub(super) fn swap(&mut self, worker: usize, thread: &std::thread::JoinHandle<()>) {
        self.cores.swap(0, worker);
        tracing::debug!(core = self.cores[worker], "another process wants the leader's core; a worker takes it");
        topology::pin_thread(thread, self.cores[worker]);
        topology::pin_current_thread(self.cores[0]);
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
