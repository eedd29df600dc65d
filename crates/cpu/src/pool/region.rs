//! The protocol between the leader and the workers.
//!
//! Each worker has a *seat* with an *order*: a cache line of its own with the number of the last region that it is to take
//! part in, the region's job and the items that it begins with. The leader writes the number last; a worker that sees a new
//! one runs the job, then adds one to `arrived`, which only ever grows. The leader returns when `arrived` has reached
//! the sum of all orders so far. One line and one add a worker and region; nothing is reset, so nobody can be early.
//!
//! A worker that is not ordered never looks at a job: it may sleep through any number of regions.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::RegionPanic;
use super::bench::Bench;
use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering, Shared, Thread, park, spin_loop, yield_now};

/// `pause` instructions before a waiting thread starts to yield: 20 to 50 us, more than any gap within a step.
const SPINS: u32 = 2000;

/// How long a worker yields before it sleeps: longer than the gap between two steps.
const YIELD_FOR: Duration = Duration::from_millis(1);

/// The seat number that ends a worker.
const DISMISSED: u64 = u64::MAX;

/// What a thread does in a region: it gets its index and what gives it items.
pub(super) type Job<'a> = dyn Fn(usize, &mut Take<'_>) + Sync + 'a;

/// Takes the next items, a run of them.
pub(super) type Take<'a> = dyn FnMut() -> Option<Range<usize>> + 'a;

/// Of what is left of a slice, a run is at most one part in so many, but an item at least: runs get shorter towards the end,
/// so that threads end together.
const RUN_SHARE: usize = 2;

/// The items of a region, and how many of them a run has at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) items: usize,
    pub(super) longest_run: usize,
}

/// A value on a cache line pair of its own (x86 fetches lines in pairs).
#[derive(Debug)]
#[repr(align(128))]
struct Padded<T>(T);

#[derive(Debug)]
pub(super) struct Region {
    seats: Box<[Padded<Seat>]>,
    arrived: Padded<AtomicUsize>,
    slices: Box<[Padded<Slice>]>,
    /// Set by a panic: no more items are taken.
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
    patience: Patience,
}

/// How long a thread waits in which way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Looks before a waiting thread starts to yield.
    pub(super) spins: u32,
    /// How long a worker yields before it sleeps.
    pub(super) yield_for: Duration,
}

impl Patience {
    /// There is a core for each thread.
    pub(super) const CORES: Patience = Patience { spins: SPINS, yield_for: YIELD_FOR };

    /// There are more threads than cores, so that waiting must give the core away at once.
    pub(super) const CROWDED: Patience = Patience { spins: 0, yield_for: YIELD_FOR };
}

#[derive(Debug)]
struct Seat {
    order: Order,
    /// The last region that the worker has done; tells the leader who is late.
    done: AtomicU64,
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

/// What a worker needs to begin, on one cache line: each that crosses from core to core is waited for.
#[derive(Debug)]
#[repr(align(64))]
struct Order {
    region: AtomicU64,
    assignment: Shared<Option<Assignment>>,
}

/// A thread's part in a region, valid until the leader returns from it.
#[derive(Clone, Copy)]
struct Assignment {
    job: *const Job<'static>,
    work: Work,
    /// Threads of this region.
    threads: u32,
    /// Place among them; 0 is the leader.
    rank: u32,
}

// Beside the region's number on a line.
const _: () = assert!(size_of::<Option<Assignment>>() <= 56);

/// The items that were meant for one rank: `[next, end)` are left.
#[derive(Debug)]
struct Slice {
    next: AtomicUsize,
    end: AtomicUsize,
}

impl Slice {
    /// Takes a run of the items that are left.
    fn take(&self, longest: usize) -> Option<Range<usize>> {
        let end = self.end.load(Ordering::Relaxed);
        let mut next = self.next.load(Ordering::Relaxed);
        while next < end {
            let after = next + run_of(end - next, longest);
            match self.next.compare_exchange_weak(next, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(next..after),
                Err(now) => next = now,
            }
        }
        None
    }
}

/// Items of the next run, of so many that are left.
fn run_of(left: usize, longest: usize) -> usize {
    (left / RUN_SHARE).max(1).min(longest).min(left)
}

impl Assignment {
    /// The items that were meant for a rank.
    fn share(&self, rank: usize) -> Range<usize> {
        let (items, threads) = (self.work.items, self.threads as usize);
        items * rank / threads..items * (rank + 1) / threads
    }

    /// Those that it begins with; nobody else takes them.
    fn first_run(&self, rank: usize) -> Range<usize> {
        let share = self.share(rank);
        share.start..share.start + run_of(share.len(), self.work.longest_run)
    }
}

impl std::fmt::Debug for Assignment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assignment").field("work", &self.work).field("rank", &self.rank).finish_non_exhaustive()
    }
}

// SAFETY: what the pointer leads to is `Sync`, and it is dead outside of `lead`, which says who may use it when.
unsafe impl Send for Assignment {}

impl Region {
    pub(super) fn new(threads: usize, patience: Patience) -> Region {
        let seat = |_| {
            Padded(Seat {
                order: Order { region: AtomicU64::new(0), assignment: Shared::new(None) },
                done: AtomicU64::new(0),
                asleep: AtomicBool::new(false),
                thread: OnceLock::new(),
            })
        };
        let slice = |_| Padded(Slice { next: AtomicUsize::new(0), end: AtomicUsize::new(0) });
        Region {
            seats: (0..threads).map(seat).collect(),
            arrived: Padded(AtomicUsize::new(0)),
            slices: (0..threads).map(slice).collect(),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            patience,
        }
    }

    /// Tells the leader how to wake worker `index`.
    pub(super) fn seat_taken(&self, index: usize, thread: Thread) {
        self.seats[index].0.thread.set(thread).expect("each worker is started once");
    }

    /// Runs `job` on the calling thread and on the workers that `bench` lets play, and waits for them.
    pub(super) fn lead(&self, bench: &mut Bench, work: Work, job: &Job<'_>) -> Result<(), RegionPanic> {
        let number = bench.next_region();
        // A single item is done sooner than a worker could be told about it, unless every thread has to come.
        let players: &[usize] = if work.items > 1 { bench.players() } else { &[] };
        let threads = players.len() + 1;
        // SAFETY: only the lifetime changes. The pointer is used by ordered workers before they arrive, and this
        // function does not return, or unwind, before all have.
        let job: &Job<'static> = unsafe { std::mem::transmute::<&Job<'_>, &Job<'static>>(job) };
        let mine = Assignment { job, work, threads: threads as u32, rank: 0 };
        for rank in 0..threads {
            let slice = &self.slices[rank].0;
            slice.next.store(mine.first_run(rank).end, Ordering::Relaxed);
            slice.end.store(mine.share(rank).end, Ordering::Relaxed);
        }
        for (&worker, rank) in players.iter().zip(1..) {
            let seat = &self.seats[worker].0;
            // SAFETY: the worker is not between order and arrival now (the last `lead` waited for all), so it does not read this.
            unsafe { seat.order.assignment.set(Some(Assignment { rank, ..mine })) };
            // SeqCst, as is the worker's announcement that it falls asleep: one of the two sees the other.
            seat.order.region.store(number, Ordering::SeqCst);
            if seat.asleep.load(Ordering::SeqCst) {
                seat.thread.get().expect("every seat is taken before the pool is used").unpark();
            }
        }
        let start = Instant::now();
        self.play(mine, 0);
        let wanted = bench.count_arrivals(players.len());
        self.await_arrivals(wanted, start, bench);
        if self.failed.swap(false, Ordering::Relaxed) {
            let message = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            return Err(RegionPanic { message: message.unwrap_or_default() });
        }
        Ok(())
    }

    /// A worker's life: waits for orders, follows them.
    pub(super) fn serve(&self, index: usize) {
        let seat = &self.seats[index].0;
        let mut seen = 0;
        loop {
            seen = self.await_order(seat, seen);
            if seen == DISMISSED {
                return;
            }
            // SAFETY: ordered and not yet arrived: the leader does not touch the assignment.
            let assignment = unsafe { seat.order.assignment.get() }.expect("it is written before the region's number");
            self.play(assignment, index);
            seat.done.store(seen, Ordering::Relaxed);
            self.arrived.0.fetch_add(1, Ordering::Release);
        }
    }

    /// Ends the workers, which are between regions.
    pub(super) fn dismiss(&self) {
        for seat in &self.seats[1..] {
            seat.0.order.region.store(DISMISSED, Ordering::SeqCst);
            if let Some(thread) = seat.0.thread.get() {
                thread.unpark();
            }
        }
    }

    /// The job of one thread, with a panic caught.
    fn play(&self, assignment: Assignment, index: usize) {
        // SAFETY: the leader keeps the job alive until this thread has arrived.
        let job = unsafe { &*assignment.job };
        let (rank, threads) = (assignment.rank as usize, assignment.threads as usize);
        let mut first = Some(assignment.first_run(rank)).filter(|run| !run.is_empty());
        let mut victim = 0;
        let mut take = || -> Option<Range<usize>> {
            while victim < threads {
                if self.failed.load(Ordering::Relaxed) {
                    return None;
                }
                let slice = &self.slices[(rank + victim) % threads].0;
                let run = first.take().or_else(|| slice.take(assignment.work.longest_run));
                if run.is_some() {
                    return run;
                }
                victim += 1;
            }
            None
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(index, &mut take))) {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| panic_message(&*panic));
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    fn done(&self, worker: usize) -> u64 {
        self.seats[worker].0.done.load(Ordering::Relaxed)
    }

    fn await_arrivals(&self, wanted: usize, start: Instant, bench: &mut Bench) {
        // The counter wraps around together with the sum of orders.
        let all_here = || self.arrived.0.load(Ordering::Acquire) == wanted;
        for _ in 0..=self.patience.spins {
            if all_here() {
                return;
            }
            spin_loop();
        }
        let waiting_since = Instant::now();
        let busy = waiting_since - start;
        while !all_here() {
            bench.note_late(Lateness { waited: waiting_since.elapsed(), busy }, |worker| self.done(worker));
            yield_now();
        }
        let now = Instant::now();
        bench.region_ended(now - waiting_since, now);
    }

    fn await_order(&self, seat: &Seat, seen: u64) -> u64 {
        let order = || {
            let order = seat.order.region.load(Ordering::Acquire);
            (order != seen).then_some(order)
        };
        for _ in 0..=self.patience.spins {
            if let Some(order) = order() {
                return order;
            }
            spin_loop();
        }
        let idle_since = Instant::now();
        while idle_since.elapsed() < self.patience.yield_for {
            if let Some(order) = order() {
                return order;
            }
            yield_now();
        }
        loop {
            seat.asleep.store(true, Ordering::SeqCst);
            let ordered = seat.order.region.load(Ordering::SeqCst);
            if ordered != seen {
                seat.asleep.store(false, Ordering::Relaxed);
                return ordered;
            }
            park();
        }
    }
}

/// How long the leader has waited for others after its own work was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lateness {
    pub(super) waited: Duration,
    /// How long its own work took, spinning included.
    pub(super) busy: Duration,
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
