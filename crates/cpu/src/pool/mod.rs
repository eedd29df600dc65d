//! The threads that compute, and how work reaches them.
//!
//! A [`Pool`] owns one thread a core, less one: the thread that calls works too, as the *leader*. A *region* is one
//! parallel piece of work: the leader publishes it, every thread takes *items* of it, and the call returns when all are
//! done. Between regions of a step the threads spin, so that a region costs a microsecond where threads share a die, and
//! several where orders and results cross from die to die; when nothing comes they yield, and after a millisecond they sleep.
//!
//! Items are given out from a static slice a thread first (the same weights go to the same core every step), then
//! stolen from the slices of others: unequal cores even out by themselves. Where a call for each item would cost too much,
//! a thread takes *runs* of them, long at first and short in the end ([`Pool::for_each_run`]). Which thread computes an item never
//! changes its result.
//!
//! A thread that a foreign process keeps from running would hold up every region. The leader notices late threads
//! ([`bench`]), and does without them for a while; when its own core is wanted, it changes places with one of them
//! ([`places`]).
//!
//! A panic in an item is caught, the region ends early on all threads, and the caller gets a [`RegionPanic`].
//!
//! Start with [`Pool::for_each_part`]. `parts` cuts outputs into pieces for it, `region` holds the protocol between
//! the threads, `topology` finds the cores. What this does not do: nested regions (a region's item must not start
//! another), and futures.

mod bench;
mod parts;
mod places;
mod region;
mod sync;
mod topology;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub use parts::{Chunks, Cuts, Either, Parts, Runs, Then};
pub use topology::usable_cores;

use crate::memory::Arena;
use bench::Bench;
use places::Places;
use region::{Patience, Region, Take};

/// How to make a [`Pool`].
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Threads, the leader included; `None`: one for each usable core.
    pub threads: Option<usize>,
    /// Bind threads to cores where the system allows it. Only done when the pool takes every usable core: otherwise
    /// two pools could be bound to the same few.
    pub pin: bool,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig { threads: None, pin: true }
    }
}

/// Most threads that a pool may have; more is a mistake in a setting.
pub const MAX_THREADS: usize = 1024;

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Thread count outside of `[1, MAX_THREADS]`.
    #[error("a pool of {wanted} threads was asked for, 1 to {MAX_THREADS} are possible")]
    Threads {
        /// Threads asked for.
        wanted: usize,
    },
    /// The system refused a thread.
    #[error("thread {index} of the pool could not be started: {source}")]
    Spawn {
        /// Which one.
        index: usize,
        /// What the system said.
        source: std::io::Error,
    },
}

/// An item of a region panicked; the region's results are lost.
#[derive(Debug, thiserror::Error)]
#[error("a computing thread panicked: {message}")]
pub struct RegionPanic {
    /// What it said.
    pub message: String,
}

/// The computing threads. Dropping it ends them.
#[derive(Debug)]
pub struct Pool {
    region: Arc<Region>,
    workers: Vec<JoinHandle<()>>,
    bench: Mutex<Bench>,
    arena: Arena,
    /// Where the threads are, when they are bound to cores.
    places: Option<Mutex<Places>>,
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// A count of 0 or above [`MAX_THREADS`], or a system that refuses threads.
    pub fn new(config: &PoolConfig) -> Result<Pool, PoolError> {
        let cores = usable_cores();
        let threads = config.threads.unwrap_or(cores.len());
        if threads == 0 || threads > MAX_THREADS {
            return Err(PoolError::Threads { wanted: threads });
        }
        let crowded = threads > cores.len();
        if crowded {
            tracing::warn!(threads, cores = cores.len(), "more threads than cores: they will take turns");
        }
        let pinned = config.pin && threads == cores.len();
        let patience = if crowded { Patience::CROWDED } else { Patience::CORES };
        let region = Arc::new(Region::new(threads, patience));
        let mut pool = Pool {
            region,
            workers: Vec::with_capacity(threads - 1),
            bench: Mutex::new(Bench::new(threads)),
            arena: Arena::default(),
            places: pinned.then(|| Mutex::new(Places::new(cores.clone()))),
        };
        for index in 1..threads {
            let region = Arc::clone(&pool.region);
            let core = pinned.then(|| cores[index]);
            let worker = std::thread::Builder::new()
                .name(format!("compute-{index}"))
                .spawn(move || {
                    if let Some(core) = core {
                        topology::pin_current_thread(core);
                    }
                    topology::prefer_fast_cores();
                    region.serve(index);
                })
                .map_err(|source| PoolError::Spawn { index, source })?;
            pool.region.seat_taken(index, worker.thread().clone());
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads, the leader included. Thread indices and per-thread scratch go up to this.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Memory for weights and KV pages.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Binds the calling thread to the leader's core, if this pool binds threads. Threads that it starts later inherit
    /// the binding: call it from a thread that only computes.
    pub fn pin_leader(&self) {
        if let Some(places) = &self.places {
            places.lock().unwrap_or_else(PoisonError::into_inner).seat_leader();
        }
        topology::prefer_fast_cores();
    }

    /// One region: calls `body(scratch, item, part)` once for each item of `parts`, on whichever thread, with that
    /// thread's own scratch.
    ///
    /// `scratch` has an entry for each thread. Regions of one pool run one after another; an item must not start one.
    ///
    /// # Errors
    /// When an item panicked; other items may not have been computed then.
    ///
    /// # Panics
    /// When `scratch` has fewer entries than the pool has threads.
    pub fn for_each_part<S: Send, P: Parts>(
        &self,
        scratch: &mut [S],
        parts: P,
        body: impl Fn(&mut S, usize, P::Part) + Sync,
    ) -> Result<(), RegionPanic> {
        self.for_each_taken(scratch, parts.items(), 1, |scratch, item| {
            // SAFETY: the region gives out each item once, and `parts` was moved in here.
            let part = unsafe { parts.part(item.start) };
            body(scratch, item.start, part);
        })
    }

    /// The same with runs of items: calls `body(scratch, items, run)`, so that what a call costs is paid once a run. Runs
    /// get shorter as items run out; none has more than `most` items, which is at least 1.
    ///
    /// # Errors
    /// As [`Pool::for_each_part`].
    ///
    /// # Panics
    /// As [`Pool::for_each_part`].
    pub fn for_each_run<S: Send, P: Runs>(
        &self,
        scratch: &mut [S],
        parts: P,
        most: usize,
        body: impl Fn(&mut S, Range<usize>, P::Part) + Sync,
    ) -> Result<(), RegionPanic> {
        self.for_each_taken(scratch, parts.items(), most, |scratch, items| {
            // SAFETY: the region gives out each item once, and `parts` was moved in here.
            let run = unsafe { parts.run(items.clone()) };
            body(scratch, items, run);
        })
    }

    /// One region of so many items: calls `body` with the thread's scratch for each run that it takes.
    fn for_each_taken<S: Send>(
        &self,
        scratch: &mut [S],
        items: usize,
        most: usize,
        body: impl Fn(&mut S, Range<usize>) + Sync,
    ) -> Result<(), RegionPanic> {
        assert!(scratch.len() >= self.threads(), "scratch for {} of {} threads", scratch.len(), self.threads());
        let scratch = Chunks::new(scratch, 1);
        self.lead(items, &|thread: usize, take: &mut Take<'_>| {
            // SAFETY: each thread enters a region once, with its own index.
            let scratch = unsafe { &mut scratch.part(thread)[0] };
            while let Some(items) = take(most) {
                body(scratch, items);
            }
        })
    }

    /// One region without scratch or outputs: calls `body(thread, item)` once for each item of `[0, items)`.
    ///
    /// # Errors
    /// When an item panicked.
    pub fn for_each(&self, items: usize, body: impl Fn(usize, usize) + Sync) -> Result<(), RegionPanic> {
        self.lead(items, &|thread: usize, take: &mut Take<'_>| {
            while let Some(item) = take(1) {
                body(thread, item.start);
            }
        })
    }

    /// A region of the threads that play, the leader on a core that it has for itself.
    fn lead(&self, items: usize, job: &region::Job<'_>) -> Result<(), RegionPanic> {
        let mut bench = self.bench.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = &self.places {
            let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(worker) = places.partner(bench.players()) {
                places.swap(worker, &self.workers[worker - 1]);
            }
        }
        self.region.lead(&mut bench, items, job)
    }

    /// One region that every thread enters exactly once, late ones too: `body(thread)`. For measurements and for
    /// touching memory first.
    ///
    /// # Errors
    /// When a thread panicked.
    pub fn on_each_thread(&self, body: impl Fn(usize) + Sync) -> Result<(), RegionPanic> {
        let mut bench = self.bench.lock().unwrap_or_else(PoisonError::into_inner);
        bench.recall_all();
        self.region.lead(&mut bench, self.threads(), &|thread: usize, _: &mut Take<'_>| body(thread))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.region.dismiss();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of its items; there is nothing left to report here.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests;
