//! The threads that compute, and how work reaches them.
//!
//! There is one thread a core, less one: the thread that calls works too, as the *leader*. A *region* is one
//! parallel piece of work: the leader publishes it, every thread takes *items* of it, and the call returns when all are
//! done. Between regions of a step the threads spin, so that a region costs a microsecond where threads share a die, and
//! several where orders and results cross from die to die; when nothing comes they yield, and after a millisecond they sleep.
//!
//! Items are given out from a static slice a thread first (the same weights go to the same core every step), then
//! stolen from the slices of others: unequal cores even out by themselves. Where a call for each item would cost too much,
//! a thread takes *runs* of them, long at first and short in the end ([`Pool::for_each_run`]). Which thread computes an item never
//! changes its result.
//!
//! Every model of a process has a [`Pool`], but they share the threads ([`Pool::shared`]): their leaders take turns
//! ([`turns`]), so that two models at work have half of the machine each and not twice as many threads as cores. A long
//! region makes way for another whose turn it would be, and goes on in its leader's next turn.
//!
//! A thread that a foreign process keeps from running would hold up every region. The leader notices late threads
//! ([`bench`]), and does without them for a while; when its own core is wanted, it changes places with one of them
//! ([`places`]).
//!
//! A panic in an item is caught, the region ends early on all threads, and the caller gets a [`RegionPanic`].
//!
//! Start with [`Pool::for_each_part`]. `parts` cuts outputs into pieces for it, `crew` has the threads, `region` the protocol
//! between them, `topology` finds the cores. What this does not do: nested regions (a region's item must not start
//! another, of whichever pool), and futures.

mod bench;
mod crew;
mod parts;
mod places;
mod region;
mod sync;
mod topology;
mod turns;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use parts::{Chunks, Cuts, Either, Parts, Runs, Then};
pub use topology::usable_cores;

use crate::memory::Arena;
use crew::{Crew, Lead};
use region::Take;

/// How to make a [`Pool`].
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Threads, the leader included; `None`: one for each usable core.
    pub threads: Option<usize>,
    /// Bind threads to cores where the system allows it. Only done when the threads take every usable core: otherwise
    /// those of two pools could be bound to the same few.
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

/// The computing threads, as one leader has them, and memory for what they read. The threads end with the last pool that has
/// them.
#[derive(Debug)]
pub struct Pool {
    crew: Arc<Crew>,
    /// Locked by the thread that leads, one at a time.
    lead: Mutex<Lead>,
    arena: Arena,
}

impl Pool {
    /// Starts threads of its own.
    ///
    /// # Errors
    /// A count of 0 or above [`MAX_THREADS`], or a system that refuses threads.
    pub fn new(config: &PoolConfig) -> Result<Pool, PoolError> {
        Ok(Pool::of(Arc::new(Crew::start(config)?)))
    }

    /// Shares the threads of another pool made in this way by the same configuration, or starts them.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn shared(config: &PoolConfig) -> Result<Pool, PoolError> {
        Ok(Pool::of(Crew::shared(config)?))
    }

    fn of(crew: Arc<Crew>) -> Pool {
        Pool { lead: Mutex::new(crew.join()), crew, arena: Arena::default() }
    }

    /// Threads, the leader included. Thread indices and per-thread scratch go up to this.
    pub fn threads(&self) -> usize {
        self.crew.threads()
    }

    /// Memory for weights and KV pages.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Binds the calling thread to the leaders' core, if this pool binds threads. Threads that it starts later inherit
    /// the binding: call it from a thread that only computes.
    pub fn pin_leader(&self) {
        self.crew.bind_leader(&mut self.locked());
    }

    fn locked(&self) -> MutexGuard<'_, Lead> {
        self.lead.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// get shorter as items run out; none has more than `most` items, and none is empty.
    ///
    /// # Errors
    /// As [`Pool::for_each_part`].
    ///
    /// # Panics
    /// As [`Pool::for_each_part`], and when `most` is 0.
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
        assert!(most >= 1, "runs of no items");
        let scratch = Chunks::new(scratch, 1);
        self.lead(items, most, &|thread: usize, take: &mut Take<'_>| {
            // SAFETY: each thread has its own index, and is in here once at a time.
            let scratch = unsafe { &mut scratch.part(thread)[0] };
            while let Some(items) = take() {
                body(scratch, items);
            }
        })
    }

    /// One region without scratch or outputs: calls `body(thread, item)` once for each item of `[0, items)`.
    ///
    /// # Errors
    /// When an item panicked.
    pub fn for_each(&self, items: usize, body: impl Fn(usize, usize) + Sync) -> Result<(), RegionPanic> {
        self.lead(items, 1, &|thread: usize, take: &mut Take<'_>| {
            while let Some(item) = take() {
                body(thread, item.start);
            }
        })
    }

    fn lead(&self, items: usize, longest_run: usize, job: &region::Job<'_>) -> Result<(), RegionPanic> {
        self.crew.lead(&mut self.locked(), items, longest_run, job)
    }

    /// One region that every thread enters exactly once, late ones too: `body(thread)`. For measurements and for
    /// touching memory first.
    ///
    /// # Errors
    /// When a thread panicked.
    pub fn on_each_thread(&self, body: impl Fn(usize) + Sync) -> Result<(), RegionPanic> {
        self.crew.lead_all(&mut self.locked(), &|thread: usize, _: &mut Take<'_>| body(thread))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.crew.leave(&self.locked());
    }
}

#[cfg(test)]
mod tests;
