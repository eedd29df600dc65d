//! The threads behind a pool, or behind several that share them.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use super::bench::Bench;
use super::places::{Places, Seat};
use super::region::{Job, Patience, Region, Work};
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
    turns: Turns<Field>,
}

/// What the leader whose turn it is has for itself.
#[derive(Debug)]
struct Field {
    bench: Bench,
    /// Where the threads are, when they are bound to cores.
    places: Option<Places>,
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
        let places = pinned.then(|| Places::new(cores.clone()));
        let mut crew = Crew {
            region: Arc::new(Region::new(threads, patience)),
            workers: Vec::with_capacity(threads - 1),
            turns: Turns::new(Field { bench: Bench::new(threads), places }),
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
    pub(super) fn join(&self) -> Leader {
        self.turns.join()
    }

    /// To be called when a leader will not come again.
    pub(super) fn leave(&self, leader: Leader) {
        self.turns.leave(leader);
    }

    /// Binds the calling thread to the leaders' core, if the threads are bound.
    pub(super) fn seat(&self, leader: Leader, seat: &mut Seat) {
        self.turns.take(leader, |field| {
            if let Some(places) = &field.places {
                places.seat(seat);
            }
        });
        topology::prefer_fast_cores();
    }

    /// A region of the threads that play, in the leader's turn and on a core that it has for itself.
    pub(super) fn lead(&self, leader: Leader, seat: &mut Seat, work: Work, job: &Job<'_>) -> Result<(), RegionPanic> {
        self.turns.take(leader, |Field { bench, places }| {
            if let Some(places) = places {
                places.settle(seat, bench.players(), &self.workers);
            }
            self.region.lead(bench, work, job)
        })
    }

    /// A region that every thread enters exactly once, late ones too.
    pub(super) fn lead_all(&self, leader: Leader, job: &Job<'_>) -> Result<(), RegionPanic> {
        self.turns.take(leader, |Field { bench, .. }| {
            bench.recall_all();
            self.region.lead(bench, Work { items: self.threads(), longest_run: 1 }, job)
        })
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
