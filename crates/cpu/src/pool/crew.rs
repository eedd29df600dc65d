//! The threads behind a pool, or behind several that share them.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use super::bench::Bench;
use super::places::{Binding, Places};
use super::region::{Job, Patience, Region, Work, share_out};
use super::topology::{self, usable_cores};
use super::turns::{Leader, Turns};
use super::{MAX_THREADS, PoolConfig, PoolError, RegionPanic};

/// Those that may be shared; a crew ends with its last pool.
static SHARED: Mutex<Vec<(Key, Weak<Crew>)>> = Mutex::new(Vec::new());

/// What a crew is made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    threads: usize,
    pin: bool,
}

/// Threads that follow a leader.
#[derive(Debug)]
pub(super) struct Crew {
    region: Arc<Region>,
    workers: Vec<JoinHandle<()>>,
    turns: Turns<Stage>,
}

/// What the leader whose turn it is has for itself.
#[derive(Debug)]
struct Stage {
    bench: Bench,
    /// Where the threads are, when they are bound to cores.
    places: Option<Places>,
}

/// What a leader keeps from region to region.
#[derive(Debug)]
pub(super) struct Lead {
    leader: Leader,
    binding: Binding,
    /// Items of the region that are left, by thread.
    shares: Vec<Range<usize>>,
}

impl Crew {
    /// The crew that others of the same configuration have, or a new one.
    pub(super) fn shared(config: &PoolConfig) -> Result<Arc<Crew>, PoolError> {
        let key = Key { threads: config.threads.unwrap_or_else(|| usable_cores().len()), pin: config.pin };
        let mut crews = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        crews.retain(|(_, crew)| crew.strong_count() > 0);
        let same = crews.iter().filter(|(other, _)| *other == key);
        if let Some(crew) = same.filter_map(|(_, crew)| crew.upgrade()).next() {
            return Ok(crew);
        }
        let crew = Arc::new(Crew::start(config)?);
        crews.push((key, Arc::downgrade(&crew)));
        Ok(crew)
    }

    /// Starts the threads.
    pub(super) fn start(config: &PoolConfig) -> Result<Crew, PoolError> {
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
        let places = pinned.then(|| Places::new(cores.to_vec()));
        let mut crew = Crew {
            region: Arc::new(Region::new(threads, patience)),
            workers: Vec::with_capacity(threads - 1),
            turns: Turns::new(Stage { bench: Bench::new(threads), places }),
        };
        for index in 1..threads {
            let region = Arc::clone(&crew.region);
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
            crew.region.seat_taken(index, worker.thread().clone());
            crew.workers.push(worker);
        }
        Ok(crew)
    }

    /// Threads, a leader included.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Another leader.
    pub(super) fn join(&self) -> Lead {
        Lead { leader: self.turns.join(), binding: Binding::default(), shares: Vec::with_capacity(self.threads()) }
    }

    /// To be called when a leader will not come again.
    pub(super) fn leave(&self, lead: &Lead) {
        self.turns.leave(lead.leader);
    }

    /// Binds the calling thread to the leaders' core, if the threads are bound.
    pub(super) fn bind_leader(&self, lead: &mut Lead) {
        self.turns.lead(lead.leader, |stage| {
            if let Some(places) = &stage.places {
                places.bind_leader(&mut lead.binding);
            }
        });
        topology::prefer_fast_cores();
    }

    /// A region of the threads that play, in the leader's turn and on a core that it has for itself. A long one makes way for
    /// another whose turn it would be, and goes on in the next turn.
    pub(super) fn lead(
        &self,
        lead: &mut Lead,
        items: usize,
        longest_run: usize,
        job: &Job<'_>,
    ) -> Result<(), RegionPanic> {
        let Lead { leader, binding, shares } = lead;
        if items == 0 {
            return Ok(());
        }
        share_out(items, self.threads(), shares);
        let mut work = Work { shares, longest_run };
        let makes_way = |start: Instant| self.turns.makes_way(*leader, start);
        loop {
            self.turns.lead(*leader, |stage| {
                let bench = stage.settle(binding, &self.workers);
                self.region.lead(bench, &mut work, &makes_way, job)
            })?;
            if work.is_done() {
                return Ok(());
            }
        }
    }

    /// A region that every thread enters exactly once, late ones too, and that makes way for nobody.
    pub(super) fn lead_all(&self, lead: &mut Lead, job: &Job<'_>) -> Result<(), RegionPanic> {
        let Lead { leader, binding, shares } = lead;
        self.turns.lead(*leader, |stage| {
            stage.bench.recall_all();
            let bench = stage.settle(binding, &self.workers);
            shares.clear();
            shares.resize(self.threads(), 0..0);
            self.region.lead(bench, &mut Work { shares, longest_run: 1 }, &|_| false, job)
        })
    }
}

impl Stage {
    /// Sees to it that the leader has a core for itself.
    fn settle(&mut self, binding: &mut Binding, workers: &[JoinHandle<()>]) -> &mut Bench {
        if let Some(places) = &mut self.places {
            places.settle(binding, self.bench.players(), workers);
        }
        &mut self.bench
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.region.dismiss();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of its items; there is nothing left to report here.
            let _ = worker.join();
        }
    }
}
