//! Who takes part in a region, and who sits on the bench.
//!
//! When another process wants a core, a worker bound to it runs only part of the time, and every region waits for it:
//! two threads become slower than one. A worker that comes late (by far more than its share of the work explains) several
//! times within a short while is left out for a while, longer each time; then it is tried again.

use std::time::{Duration, Instant};

use super::region::Lateness;

/// A worker is late when the leader has waited this long for it...
const LATE_AFTER: Duration = Duration::from_micros(500);

/// ...and this share of the time that its own work took: the last item of a long region may be long, too.
const LATE_SHARE: u32 = 2;

/// Late regions within [`MEMORY_REGIONS`] that bench a worker: one may be chance.
const LATE_LIMIT: u32 = 2;

/// Regions after which a lateness is forgotten: a few tokens' worth.
const MEMORY_REGIONS: u64 = 1000;

/// First time on the bench; doubled every time that follows soon after, up to [`LONGEST_BENCH`].
const FIRST_BENCH: Duration = Duration::from_millis(100);

/// Longest time on the bench: how long a core that became free may stay unused.
const LONGEST_BENCH: Duration = Duration::from_millis(1600);

/// The leader's memory of its workers.
#[derive(Debug)]
pub(super) struct Bench {
    region: u64,
    arrivals: usize,
    /// Workers that take part, ascending.
    players: Vec<usize>,
    /// One a thread; the leader's is unused.
    records: Vec<Record>,
    /// Whether lateness was noted in the region that runs.
    noted: bool,
}

#[derive(Clone, Debug)]
struct Record {
    late_count: u32,
    last_late_region: u64,
    bench_for: Duration,
    benched_until: Option<Instant>,
}

impl Bench {
    pub(super) fn new(threads: usize) -> Bench {
        let record = Record { late_count: 0, last_late_region: 0, bench_for: FIRST_BENCH, benched_until: None };
        Bench { region: 0, arrivals: 0, players: (1..threads).collect(), records: vec![record; threads], noted: false }
    }

    /// The number of the region that starts now; recalls workers whose time is over.
    pub(super) fn next_region(&mut self) -> u64 {
        self.region += 1;
        if self.players.len() + 1 < self.records.len() {
            let now = Instant::now();
            self.recall(|record| record.benched_until.is_some_and(|until| until <= now));
        }
        self.region
    }

    /// Workers that take part.
    pub(super) fn players(&self) -> &[usize] {
        &self.players
    }

    /// Everybody plays again.
    pub(super) fn recall_all(&mut self) {
        self.recall(|_| true);
    }

    /// Adds the arrivals that the region will bring; the sum of all so far.
    pub(super) fn count_arrivals(&mut self, workers: usize) -> usize {
        self.arrivals = self.arrivals.wrapping_add(workers);
        self.arrivals
    }

    /// The leader still waits. `done(worker)` is the last region that a worker has finished.
    pub(super) fn note_late(&mut self, lateness: Lateness, region: u64, done: impl Fn(usize) -> u64) {
        if self.noted || lateness.waited < LATE_AFTER || lateness.waited < lateness.busy / LATE_SHARE {
            return;
        }
        self.noted = true;
        for &worker in &self.players {
            if done(worker) == region {
                continue;
            }
            let record = &mut self.records[worker];
            if region - record.last_late_region > MEMORY_REGIONS {
                record.late_count = 0;
            }
            record.late_count += 1;
            record.last_late_region = region;
        }
    }

    /// The region has ended: workers that were late too often leave the field.
    pub(super) fn region_ended(&mut self) {
        if !std::mem::take(&mut self.noted) {
            return;
        }
        let now = Instant::now();
        let records = &mut self.records;
        self.players.retain(|&worker| {
            let record = &mut records[worker];
            let stays = record.late_count < LATE_LIMIT;
            if !stays {
                // Late again soon after it came back: longer. A good while between: from the start.
                let soon = record.benched_until.is_some_and(|until| now < until + LONGEST_BENCH);
                record.bench_for = if soon { (record.bench_for * 2).min(LONGEST_BENCH) } else { FIRST_BENCH };
                record.benched_until = Some(now + record.bench_for);
                // On return, being late once is enough.
                record.late_count = LATE_LIMIT - 1;
                tracing::debug!(
                    worker,
                    bench_ms = record.bench_for.as_millis() as u64,
                    "a thread is kept from running"
                );
            }
            stays
        });
    }

    fn recall(&mut self, wanted: impl Fn(&Record) -> bool) {
        for worker in 1..self.records.len() {
            if !self.players.contains(&worker) && wanted(&self.records[worker]) {
                self.players.push(worker);
                self.records[worker].last_late_region = self.region;
            }
        }
        self.players.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late_region(bench: &mut Bench, late_worker: usize) {
        let region = bench.next_region();
        let lateness = Lateness { waited: 2 * LATE_AFTER, busy: Duration::ZERO };
        bench.note_late(lateness, region, |worker| if worker == late_worker { region - 1 } else { region });
        bench.region_ended();
    }

    #[test]
    fn worker_that_is_late_twice_is_benched_and_comes_back() {
        let mut bench = Bench::new(4);
        late_region(&mut bench, 2);
        assert_eq!(bench.players(), [1, 2, 3]);
        late_region(&mut bench, 2);
        assert_eq!(bench.players(), [1, 3]);
        bench.records[2].benched_until = Some(Instant::now());
        bench.next_region();
        assert_eq!(bench.players(), [1, 2, 3]);
        late_region(&mut bench, 2);
        assert_eq!(bench.players(), [1, 3]);
        assert_eq!(bench.records[2].bench_for, 2 * FIRST_BENCH);
    }

    #[test]
    fn long_work_of_its_own_excuses_a_wait() {
        let mut bench = Bench::new(2);
        for _ in 0..10 {
            let region = bench.next_region();
            bench.note_late(Lateness { waited: 2 * LATE_AFTER, busy: 100 * LATE_AFTER }, region, |_| 0);
            bench.region_ended();
        }
        assert_eq!(bench.players(), [1]);
    }

    #[test]
    fn lateness_of_long_ago_is_forgotten() {
        let mut bench = Bench::new(2);
        late_region(&mut bench, 1);
        bench.region += MEMORY_REGIONS + 1;
        late_region(&mut bench, 1);
        assert_eq!(bench.players(), [1]);
    }
}
