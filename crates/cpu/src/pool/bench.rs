//! Who takes part in a region, and who sits on the bench.
//!
//! When another process wants a core, a worker bound to it runs only part of the time, and every region waits for it:
//! two threads become slower than one. A worker for which the others wait too large a share of the time is left out for a
//! while, longer each time; then it is tried again. Short pauses, which every machine has, cost less than its absence.

use std::time::{Duration, Instant};

use super::region::Lateness;

/// A worker is late when the leader has waited this long for it...
const LATE_AFTER: Duration = Duration::from_micros(500);

/// ...and this share of the time that its own work took: the last item of a long region may be long, too.
const LATE_SHARE: u32 = 2;

/// Of the time since, what is forgiven of waiting: two threads that wait for half of the time are no faster than one.
const FORGIVEN_PERCENT: u32 = 35;

/// Waiting, less what is forgiven, that benches a worker: some turns of the system's scheduler.
const DEBT_LIMIT: Duration = Duration::from_millis(4);

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
    /// Players for which the region that runs had to wait.
    late: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Record {
    /// Waiting that is not forgiven yet, as of `updated`.
    debt: Duration,
    updated: Instant,
    bench_for: Duration,
    benched_until: Option<Instant>,
}

impl Record {
    fn add(&mut self, waited: Duration, now: Instant) {
        let forgiven = now.saturating_duration_since(self.updated) * FORGIVEN_PERCENT / 100;
        self.debt = (self.debt + waited).saturating_sub(forgiven);
        self.updated = now;
    }
}

impl Bench {
    pub(super) fn new(threads: usize) -> Bench {
        let updated = Instant::now();
        let record = Record { debt: Duration::ZERO, updated, bench_for: FIRST_BENCH, benched_until: None };
        let late = Vec::with_capacity(threads);
        Bench { region: 0, arrivals: 0, players: (1..threads).collect(), records: vec![record; threads], late }
    }

    /// The number of the region that starts now; recalls workers whose time is over.
    pub(super) fn next_region(&mut self) -> u64 {
        self.region += 1;
        if self.players.len() + 1 < self.records.len() {
            let now = Instant::now();
            self.recall(now, |record| record.benched_until.is_some_and(|until| until <= now));
        }
        self.region
    }

    /// Workers that take part.
    pub(super) fn players(&self) -> &[usize] {
        &self.players
    }

    /// Everybody plays again.
    pub(super) fn recall_all(&mut self) {
        self.recall(Instant::now(), |_| true);
    }

    /// Adds the arrivals that the region will bring; the sum of all so far.
    pub(super) fn count_arrivals(&mut self, workers: usize) -> usize {
        self.arrivals = self.arrivals.wrapping_add(workers);
        self.arrivals
    }

    /// The leader still waits. `done(worker)` is the last region that a worker has finished.
    pub(super) fn note_late(&mut self, lateness: Lateness, done: impl Fn(usize) -> u64) {
        let late = lateness.waited >= LATE_AFTER && lateness.waited >= lateness.busy / LATE_SHARE;
        if late && self.late.is_empty() {
            self.late.extend(self.players.iter().filter(|&&worker| done(worker) != self.region));
        }
    }

    /// The region has ended, after the leader had waited: workers that cost too much leave the field.
    pub(super) fn region_ended(&mut self, waited: Duration, now: Instant) {
        let mut late = std::mem::take(&mut self.late);
        for worker in late.drain(..) {
            let record = &mut self.records[worker];
            record.add(waited, now);
            if record.debt < DEBT_LIMIT {
                continue;
            }
            // Late again soon after it came back: longer. A good while between: from the start.
            let soon = record.benched_until.is_some_and(|until| now < until + LONGEST_BENCH);
            record.bench_for = if soon { (record.bench_for * 2).min(LONGEST_BENCH) } else { FIRST_BENCH };
            record.benched_until = Some(now + record.bench_for);
            self.players.retain(|&player| player != worker);
            tracing::debug!(worker, bench_ms = record.bench_for.as_millis() as u64, "a thread is kept from running");
        }
        self.late = late;
    }

    fn recall(&mut self, now: Instant, wanted: impl Fn(&Record) -> bool) {
        for worker in 1..self.records.len() {
            if !self.players.contains(&worker) && wanted(&self.records[worker]) {
                self.players.push(worker);
                // On trial: half of what benched it is enough now.
                self.records[worker].debt = DEBT_LIMIT / 2;
                self.records[worker].updated = now;
            }
        }
        self.players.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A region that lasts 1 ms of work and `waited` for a worker.
    fn region(bench: &mut Bench, now: &mut Instant, late_worker: usize, waited: Duration) {
        let region = bench.next_region();
        *now += MS + waited;
        bench
            .note_late(Lateness { waited, busy: MS }, |worker| if worker == late_worker { region - 1 } else { region });
        bench.region_ended(waited, *now);
    }

    #[test]
    fn worker_that_runs_a_third_of_the_time_is_benched_for_longer_each_time() {
        let (mut bench, mut now) = (Bench::new(4), Instant::now());
        for _ in 0..8 {
            region(&mut bench, &mut now, 2, 2 * MS);
        }
        assert_eq!(bench.players(), [1, 3]);
        assert_eq!(bench.records[2].bench_for, FIRST_BENCH);
        bench.records[2].benched_until = Some(Instant::now());
        bench.next_region();
        assert_eq!(bench.players(), [1, 2, 3]);
        for _ in 0..8 {
            region(&mut bench, &mut now, 2, 2 * MS);
        }
        assert_eq!(bench.players(), [1, 3]);
        assert_eq!(bench.records[2].bench_for, 2 * FIRST_BENCH);
    }

    #[test]
    fn pauses_that_cost_less_than_absence_are_forgiven() {
        let (mut bench, mut now) = (Bench::new(2), Instant::now());
        for _ in 0..1000 {
            region(&mut bench, &mut now, 1, 3 * MS);
            for _ in 0..9 {
                region(&mut bench, &mut now, 0, Duration::ZERO);
            }
        }
        assert_eq!(bench.players(), [1]);
    }

    #[test]
    fn long_work_of_its_own_excuses_a_wait() {
        let mut bench = Bench::new(2);
        for _ in 0..10 {
            bench.next_region();
            bench.note_late(Lateness { waited: 5 * MS, busy: 50 * MS }, |_| 0);
            bench.region_ended(5 * MS, Instant::now());
        }
        assert_eq!(bench.players(), [1]);
    }
}
