//! Every way in which the pool's threads may meet, tried one after another with loom: every interleaving (up to a number of
//! preemptions) and every value that a load may see by its ordering. The protocol is `src/pool/region.rs` itself, compiled
//! over loom's atomics.

#[allow(dead_code, reason = "the pool uses what this test does not")]
#[path = "../src/pool/region.rs"]
mod region;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bench::Bench;
use loom::cell::UnsafeCell;
use region::{Patience, Region, Take, Work, share_out};

/// Waits neither spin nor depend on a clock, so that every run is the same and workers come to sleep.
const NO_PATIENCE: Patience = Patience { spins: 0, yield_for: Duration::ZERO };

/// Interleavings with more preemptions than this are left out: nearly all bugs show with two.
const PREEMPTIONS: usize = 3;

/// The same with two workers, whose interleavings are many more: one region of them takes 15 s, two regions minutes. What
/// needs two preemptions is left to one worker.
const PREEMPTIONS_OF_THREE: usize = 1;

/// The same with runs, of which there are more than items above.
const PREEMPTIONS_OF_RUNS: usize = 2;

#[test]
fn every_item_is_done_once_and_seen_by_the_leader() {
    check(&[4, 4]);
}

#[test]
fn runs_of_items_are_taken_once() {
    // Each thread begins with two of its six, then takes two and one and one.
    check_with(2, PREEMPTIONS_OF_RUNS, &[12]);
}

#[test]
fn worker_that_was_not_needed_follows_the_next_order() {
    check(&[1, 4]);
}

#[test]
fn two_workers_share_the_items_and_arrive_one_by_one() {
    check_with(3, PREEMPTIONS_OF_THREE, &[6]);
}

#[test]
fn panic_ends_the_region_on_all_threads_and_the_next_one_runs() {
    let most_left = greatest(PREEMPTIONS, || {
        let team = Team::start(2);
        let mut bench = Bench::new(2);
        let mut shares = Vec::new();
        share_out(6, 2, &mut shares);
        let mut work = Work { shares: &mut shares, longest_run: 1 };
        let outcome = team.region.lead(&mut bench, &mut work, &|_| false, &|_: usize, take: &mut Take<'_>| {
            while let Some(items) = take() {
                if items.contains(&0) {
                    std::panic::resume_unwind(Box::new("an item failed"));
                }
            }
        });
        assert_eq!(outcome.expect_err("an item panicked").message, "an item failed");
        // Two for each thread, so that they look for more.
        team.run(&mut bench, 4);
        team.dismiss();
        shares.iter().map(ExactSizeIterator::len).sum()
    });
    assert!(most_left > 0, "others have never left off");
}

#[test]
fn what_a_paused_region_leaves_is_done_in_the_next() {
    let most_regions = greatest(PREEMPTIONS_OF_RUNS, || {
        let team = Team::start(2);
        let regions = team.run_pausing(&mut Bench::new(2), 6, true);
        team.dismiss();
        regions
    });
    assert!(most_regions > 1, "no region has paused");
}

#[test]
fn items_meant_for_those_that_do_not_play_are_done() {
    explore(PREEMPTIONS, || {
        let team = Team::start(2);
        let mut bench = Bench::new(2);
        bench.players.clear();
        team.run(&mut bench, 4);
        bench.players.push(1);
        team.run(&mut bench, 2);
        team.dismiss();
    });
    explore(PREEMPTIONS_OF_THREE, || {
        let team = Team::start(3);
        let mut bench = Bench::new(3);
        bench.players = vec![2];
        team.run(&mut bench, 6);
        team.dismiss();
    });
}

/// Regions of so many items each, by a leader and a worker.
fn check(regions: &'static [usize]) {
    check_with(2, PREEMPTIONS, regions);
}

fn check_with(threads: usize, preemptions: usize, regions: &'static [usize]) {
    explore(preemptions, move || {
        let team = Team::start(threads);
        let mut bench = Bench::new(threads);
        for &items in regions {
            team.run(&mut bench, items);
        }
        team.dismiss();
    });
}

/// The greatest of what the body gives in any interleaving.
fn greatest(preemptions: usize, body: impl Fn() -> usize + Sync + Send + 'static) -> usize {
    let greatest = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&greatest);
    explore(preemptions, move || _ = seen.fetch_max(body(), Ordering::Relaxed));
    greatest.load(Ordering::Relaxed)
}

fn explore(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// The threads of a pool.
struct Team {
    region: Arc<Region>,
    workers: Vec<loom::thread::JoinHandle<()>>,
}

impl Team {
    fn start(threads: usize) -> Team {
        let region = Arc::new(Region::new(threads, NO_PATIENCE));
        let start = |index: usize| {
            let served = Arc::clone(&region);
            let worker = loom::thread::spawn(move || served.serve(index));
            region.seat_taken(index, worker.thread().clone());
            worker
        };
        Team { workers: (1..threads).map(start).collect(), region }
    }

    fn run(&self, bench: &mut Bench, items: usize) {
        self.run_pausing(bench, items, false);
    }

    /// All items, in one region or in several that pause as soon as they may: items write what loom would find
    /// unsynchronised, were one done twice or read too early. How many regions there were.
    fn run_pausing(&self, bench: &mut Bench, items: usize, pauses: bool) -> usize {
        let done: Counters = (0..items).map(|_| Counter(UnsafeCell::new(0))).collect();
        let mut shares = Vec::new();
        share_out(items, self.workers.len() + 1, &mut shares);
        let mut work = Work { shares: &mut shares, longest_run: 2 };
        let mut regions = 0;
        loop {
            regions += 1;
            let outcome = self.region.lead(bench, &mut work, &|_| pauses, &|_: usize, take: &mut Take<'_>| {
                while let Some(items) = take() {
                    for item in items {
                        done[item].0.with_mut(|count| {
                            // SAFETY: loom checks that nobody else uses the cell.
                            unsafe { *count += 1 };
                        });
                    }
                }
            });
            assert!(outcome.is_ok());
            if work.is_done() {
                break;
            }
            assert!(pauses, "only a region that pauses leaves items");
        }
        for counter in done {
            // SAFETY: loom checks that nobody else uses the cell.
            assert_eq!(counter.0.with(|count| unsafe { *count }), 1);
        }
        regions
    }

    fn dismiss(self) {
        self.region.dismiss();
        for worker in self.workers {
            worker.join().expect("workers catch panics");
        }
    }
}

type Counters = Vec<Counter>;

struct Counter(UnsafeCell<usize>);

// SAFETY: loom checks every use of the cell.
unsafe impl Sync for Counter {}

/// What `region` returns for a panic.
#[derive(Debug)]
struct RegionPanic {
    message: String,
}

/// The test says who plays: no clock decides.
mod bench {
    use std::time::{Duration, Instant};

    use super::region::Lateness;

    pub(super) struct Bench {
        region: u64,
        arrivals: usize,
        pub(super) players: Vec<usize>,
    }

    impl Bench {
        pub(super) fn new(threads: usize) -> Bench {
            Bench { region: 0, arrivals: 0, players: (1..threads).collect() }
        }

        pub(super) fn next_region(&mut self) -> u64 {
            self.region += 1;
            self.region
        }

        pub(super) fn players(&self) -> &[usize] {
            &self.players
        }

        pub(super) fn count_arrivals(&mut self, workers: usize) -> usize {
            self.arrivals += workers;
            self.arrivals
        }

        pub(super) fn note_late(&mut self, _: Lateness, _: impl Fn(usize) -> u64) {}

        pub(super) fn region_ended(&mut self, _: Duration, _: Instant) {}
    }
}

/// Loom's counterpart of `src/pool/sync.rs`.
mod sync {
    pub(super) use loom::hint::spin_loop;
    pub(super) use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
    pub(super) use loom::thread::{Thread, park, yield_now};

    use loom::cell::UnsafeCell;
    use loom::sync::atomic::fence;

    /// Loom knows sequential consistency of fences alone: each such access gets the fence that a processor without such
    /// accesses would need.
    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            #[derive(Debug)]
            pub(super) struct $name(loom::sync::atomic::$name);

            impl $name {
                pub(super) fn new(value: $value) -> $name {
                    $name(loom::sync::atomic::$name::new(value))
                }

                pub(super) fn load(&self, ordering: Ordering) -> $value {
                    if ordering == Ordering::SeqCst {
                        fence(Ordering::SeqCst);
                        return self.0.load(Ordering::Acquire);
                    }
                    self.0.load(ordering)
                }

                pub(super) fn store(&self, value: $value, ordering: Ordering) {
                    if ordering == Ordering::SeqCst {
                        self.0.store(value, Ordering::Release);
                        return fence(Ordering::SeqCst);
                    }
                    self.0.store(value, ordering);
                }
            }
        };
    }

    atomic!(AtomicBool, bool);
    atomic!(AtomicU64, u64);

    impl AtomicBool {
        pub(super) fn swap(&self, value: bool, ordering: Ordering) -> bool {
            self.0.swap(value, ordering)
        }
    }

    #[derive(Debug)]
    pub(super) struct Shared<T>(UnsafeCell<T>);

    // SAFETY: loom checks every use of the cell.
    unsafe impl<T: Send> Sync for Shared<T> {}

    impl<T: Copy> Shared<T> {
        pub(super) fn new(value: T) -> Shared<T> {
            Shared(UnsafeCell::new(value))
        }

        pub(super) unsafe fn get(&self) -> T {
            // SAFETY: loom checks that nobody sets the value at the same time.
            self.0.with(|value| unsafe { *value })
        }

        pub(super) unsafe fn set(&self, new: T) {
            // SAFETY: loom checks that nobody else uses the value at the same time.
            self.0.with_mut(|value| unsafe { *value = new });
        }
    }
}
