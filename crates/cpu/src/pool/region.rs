//! The protocol between the leader and the workers.
//!
//! Each worker has a *seat* with an *order*: a cache line of its own with the number of the last region that it is to take
//! part in, the region's job and the items that it begins with. The leader writes the number last; a worker that sees a new
//! one runs the job, then adds one to `arrived`, which only ever grows. The leader returns when `arrived` has reached
//! the sum of all orders so far. One line and one add a worker and region; nothing is reset, so nobody can be early.
//!
//! A worker that is not ordered never looks at a job: it may sleep through any number of regions.
//!
//! A region may *pause*: when the leader is asked to make way for another, nobody takes more items, and what is left is the
//! leader's to go on with in a region of its own.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
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

/// What a thread does in a region: it gets its index and what gives it items. It must ask at least once where there are items:
/// those that a thread begins with nobody else takes.
pub(super) type Job<'a> = dyn Fn(usize, &mut Take<'_>) + Sync + 'a;

/// Takes the next items, a run of them.
pub(super) type Take<'a> = dyn FnMut() -> Option<Range<usize>> + 'a;

/// Of what is left of a slice, a run is at most one part in so many, but an item at least: runs get shorter towards the end,
/// so that threads end together.
const RUN_SHARE: usize = 2;

/// What a region has to do.
#[derive(Debug)]
pub(super) struct Work<'a> {
    /// Items by the thread that they are meant for, whether it takes part or not; afterwards those that are left.
    pub(super) shares: &'a mut [Range<usize>],
    /// Most items of a run.
    pub(super) longest_run: usize,
}

impl Work<'_> {
    /// Whether nothing is left.
    pub(super) fn is_done(&self) -> bool {
        self.shares.iter().all(Range::is_empty)
    }
}

/// Shares of so many items, one a thread. A single item is no thread's in particular, and its leader's alone: it is done
/// sooner than a worker could be told about it.
pub(super) fn share_out(items: usize, threads: usize, shares: &mut Vec<Range<usize>>) {
    let threads = if items > 1 { threads } else { 1 };
    shares.clear();
    shares.extend((0..threads).map(|thread| items * thread / threads..items * (thread + 1) / threads));
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
    /// No more items are taken: one panicked, or the leader makes way for another.
    stopped: AtomicBool,
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
    thread: OnceLock<Thread>,
}

/// What a worker needs to begin, on one cache line: each that crosses from core to core is waited for.
#[derive(Debug)]
#[repr(align(64))]
struct Order {
    region: AtomicU64,
    assignment: Shared<Option<Assignment>>,
    /// Whether the worker sleeps; the leader looks as it orders.
    asleep: AtomicBool,
}

/// What a thread does in a region, valid until the leader returns from it.
#[derive(Clone, Copy)]
struct Assignment {
    job: NonNull<Job<'static>>,
    /// Most items of a run.
    longest_run: usize,
    /// The items that the thread begins with, and that nobody else takes.
    first: usize,
    first_len: usize,
    /// How many slices there are.
    slices: usize,
}

// Beside the region's number on a line.
const _: () = assert!(size_of::<Option<Assignment>>() <= 48);

impl std::fmt::Debug for Assignment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assignment").field("slices", &self.slices).finish_non_exhaustive()
    }
}

// SAFETY: what the pointer leads to is `Sync`, and it is dead outside of `lead`, which says who may use it when.
unsafe impl Send for Assignment {}

/// The items that were meant for one thread, whether it takes part or not: `[next, end)` are left.
#[derive(Debug)]
struct Slice {
    next: AtomicUsize,
    end: AtomicUsize,
}

impl Slice {
    fn is_empty(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.end.load(Ordering::Relaxed)
    }

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

/// Items of the next run, of so many that are left. At least one, as the longest run is.
fn run_of(left: usize, longest: usize) -> usize {
    (left / RUN_SHARE).max(1).min(longest).min(left)
}

impl Region {
    pub(super) fn new(threads: usize, patience: Patience) -> Region {
        let seat = |_| {
            Padded(Seat {
                order: Order {
                    region: AtomicU64::new(0),
                    assignment: Shared::new(None),
                    asleep: AtomicBool::new(false),
                },
                done: AtomicU64::new(0),
                thread: OnceLock::new(),
            })
        };
        let slice = |_| Padded(Slice { next: AtomicUsize::new(0), end: AtomicUsize::new(0) });
        Region {
            seats: (0..threads).map(seat).collect(),
            arrived: Padded(AtomicUsize::new(0)),
            slices: (0..threads).map(slice).collect(),
            stopped: AtomicBool::new(false),
            failure: Mutex::new(None),
            patience,
        }
    }

    /// Tells the leader how to wake worker `index`.
    pub(super) fn seat_taken(&self, index: usize, thread: Thread) {
        self.seats[index].0.thread.set(thread).expect("each worker is started once");
    }

    /// Runs `job` on the calling thread and on the workers that `bench` lets play, and waits for them. The leader asks
    /// `makes_way`, which gets the time of the beginning, as it looks for more than the run that it begins with; once that is
    /// true, the region pauses if items are left.
    pub(super) fn lead(
        &self,
        bench: &mut Bench,
        work: &mut Work<'_>,
        makes_way: &dyn Fn(Instant) -> bool,
        job: &Job<'_>,
    ) -> Result<(), RegionPanic> {
        let number = bench.next_region();
        let players: &[usize] = if work.shares.len() > 1 { bench.players() } else { &[] };
        // SAFETY: only the lifetime changes. The pointer is used by ordered workers before they arrive, and this
        // function does not return, or unwind, before all have.
        let job: &Job<'static> = unsafe { std::mem::transmute::<&Job<'_>, &Job<'static>>(job) };
        let assign = |first: Range<usize>| Assignment {
            job: NonNull::from(job),
            longest_run: work.longest_run,
            first: first.start,
            first_len: first.len(),
            slices: work.shares.len(),
        };
        // Nobody but a thread that takes part takes its first run.
        let first_run = |share: &Range<usize>| share.start..share.start + run_of(share.len(), work.longest_run);
        let mut coming = players.iter().peekable();
        for (thread, share) in work.shares.iter().enumerate() {
            let plays = thread == 0 || coming.next_if_eq(&&thread).is_some();
            let slice = &self.slices[thread].0;
            slice.next.store(if plays { first_run(share).end } else { share.start }, Ordering::Relaxed);
            slice.end.store(share.end, Ordering::Relaxed);
        }
        for &worker in players {
            let Seat { order, thread, .. } = &self.seats[worker].0;
            let assignment = assign(first_run(&work.shares[worker]));
            // SAFETY: the worker is not between order and arrival now (the last `lead` waited for all), so it does not read this.
            unsafe { order.assignment.set(Some(assignment)) };
            // SeqCst, as is the worker's announcement that it falls asleep: one of the two sees the other.
            order.region.store(number, Ordering::SeqCst);
            if order.asleep.load(Ordering::SeqCst) {
                thread.get().expect("every seat is taken before the pool is used").unpark();
            }
        }
        let start = Instant::now();
        self.play(assign(first_run(&work.shares[0])), 0, &|| makes_way(start));
        let wanted = bench.count_arrivals(players.len());
        self.await_arrivals(wanted, start, bench);
        for (share, slice) in work.shares.iter_mut().zip(&self.slices) {
            share.start = slice.0.next.load(Ordering::Relaxed).min(share.end);
        }
        if self.stopped.swap(false, Ordering::Relaxed)
            && let Some(message) = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            return Err(RegionPanic { message });
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
            self.play(assignment, index, &|| false);
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

    /// The job of one thread, with a panic caught. Once `pauses` is true, nobody takes more items, if any are left.
    fn play(&self, assignment: Assignment, index: usize, pauses: &dyn Fn() -> bool) {
        let Assignment { job, longest_run, first, first_len, slices } = assignment;
        // SAFETY: the leader keeps the job alive until this thread has arrived.
        let job = unsafe { job.as_ref() };
        let first = first..first + first_len;
        let mut first = (!first.is_empty()).then_some(first);
        let slices = &self.slices[..slices];
        let mut victim = 0;
        let mut take = || -> Option<Range<usize>> {
            // What is its own alone would be lost.
            if let Some(run) = first.take() {
                return Some(run);
            }
            if pauses() && slices.iter().any(|slice| !slice.0.is_empty()) {
                self.stopped.store(true, Ordering::Relaxed);
            }
            while victim < slices.len() {
                if self.stopped.load(Ordering::Relaxed) {
                    return None;
                }
                let run = slices[(index + victim) % slices.len()].0.take(longest_run);
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
            self.stopped.store(true, Ordering::Relaxed);
            // Its destructor might panic, too.
            std::mem::forget(panic);
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
            seat.order.asleep.store(true, Ordering::SeqCst);
            let ordered = seat.order.region.load(Ordering::SeqCst);
            if ordered != seen {
                seat.order.asleep.store(false, Ordering::Relaxed);
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
