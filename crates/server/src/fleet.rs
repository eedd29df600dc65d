//! The models that are served: in memory, or loaded when somebody asks for them.
//!
//! A request holds a [`Lease`] on its model until its answer is complete. A model without leases may be unloaded: when
//! another one needs its memory (the one that was used longest ago goes first), or when nobody has used it for a while.
//! Loads run one at a time and go on when the client that asked for them goes away; whoever waits for a load that fails
//! is told why.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::{Counters, Failure, Observer};
use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock, watch};

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::model::ServedModel;

/// The model name that always means the first one served.
const DEFAULT_NAME: &str = "default";
/// How often models are looked at that nobody may use any more.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// Loads models by name, on threads that may block, one at a time.
pub trait Loader: Send + Sync + 'static {
    /// Loads a model beside others. Also returns the bytes that it takes.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`] when it would fit with less taken: others are then unloaded, and it is asked again.
    /// Whatever else can be told before it is loaded is [`LoadError::Failed`] first, so that none goes for nothing.
    fn load(&self, name: &str, taken: Taken, observer: Arc<dyn Observer>) -> Result<(ServedModel, u64), LoadError>;

    /// Longest time from the moment that a request has been read to its last token.
    fn max_deadline(&self, _name: &str) -> Duration {
        Duration::MAX
    }

    /// Which memory a model is in: models in different ones are not in each other's way.
    fn memory(&self, _name: &str) -> &str {
        ""
    }

    /// A model has been unloaded.
    fn unloaded(&self) {}
}

/// What other models take of the memory that a model is in, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// By all of them.
    pub all: u64,
    /// By those that are never unloaded.
    pub pinned: u64,
}

/// Why a model was not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Other models take the memory that it needs.
    #[error("{0}")]
    NoRoom(String),
    /// It cannot be loaded.
    #[error("{0}")]
    Failed(String),
}

/// The models that a server starts with.
#[derive(Default)]
pub struct Models {
    /// In memory, with the bytes that each takes. The first is the default.
    pub loaded: Vec<(ServedModel, u64)>,
    /// Loaded when they are asked for.
    pub on_demand: Vec<String>,
    /// Names of models that are never unloaded.
    pub pinned: Vec<String>,
    /// Who loads them.
    pub loader: Option<Arc<dyn Loader>>,
    /// A model that nobody has used for so long is unloaded.
    pub idle_ttl: Option<Duration>,
}

impl From<Vec<ServedModel>> for Models {
    fn from(models: Vec<ServedModel>) -> Models {
        Models { loaded: models.into_iter().map(|model| (model, 0)).collect(), ..Models::default() }
    }
}

/// All models of a server.
pub(crate) struct Fleet {
    /// At least one; the first is the default.
    slots: Vec<Arc<Slot>>,
    loader: Option<Arc<dyn Loader>>,
    /// Whoever loads or unloads.
    turn: Mutex<()>,
    idle_ttl: Option<Duration>,
    /// Whether the server stops: then nothing is loaded any more.
    stopping: watch::Sender<bool>,
}

/// One model, in memory or not.
pub(crate) struct Slot {
    pub(crate) name: String,
    is_pinned: bool,
    /// What is in memory, to be looked at whatever waits for `uses`.
    in_memory: SyncMutex<Option<InMemory>>,
    /// What its engines have counted that are gone.
    past: SyncMutex<Counters>,
    /// Leases read; unloading writes.
    uses: Arc<RwLock<()>>,
    last_used: SyncMutex<Instant>,
    /// When a load failed last, and why.
    failure: SyncMutex<Option<(Instant, String)>>,
    pub(crate) loads: AtomicU64,
    pub(crate) failed_loads: AtomicU64,
    pub(crate) unloads: AtomicU64,
}

struct InMemory {
    model: Arc<ServedModel>,
    bytes: u64,
}

/// A model that stays in memory as long as this lives.
pub(crate) struct Lease {
    model: Arc<ServedModel>,
    slot: Arc<Slot>,
    /// How long the request waited for it.
    pub(crate) waited: Duration,
    _hold: OwnedRwLockReadGuard<()>,
}

impl Fleet {
    /// # Panics
    /// If there is no model.
    pub(crate) fn new(models: Models) -> Self {
        let Models { loaded, on_demand, pinned, loader, idle_ttl } = models;
        let slot = |name: String, model: Option<InMemory>| {
            let loads = AtomicU64::new(u64::from(model.is_some()));
            Arc::new(Slot {
                is_pinned: pinned.contains(&name),
                name,
                in_memory: SyncMutex::new(model),
                past: SyncMutex::default(),
                uses: Arc::default(),
                last_used: SyncMutex::new(Instant::now()),
                failure: SyncMutex::new(None),
                loads,
                failed_loads: AtomicU64::new(0),
                unloads: AtomicU64::new(0),
            })
        };
        let loaded = loaded.into_iter().map(|(model, bytes)| {
            let name = model.name.clone();
            slot(name, Some(InMemory { model: Arc::new(model), bytes }))
        });
        let slots: Vec<Arc<Slot>> = loaded.chain(on_demand.into_iter().map(|name| slot(name, None))).collect();
        assert!(!slots.is_empty(), "a server has at least one model");
        Self { slots, loader, turn: Mutex::new(()), idle_ttl, stopping: watch::Sender::new(false) }
    }

    /// Every model.
    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    /// The models that are in memory now, also those that go once their last request is answered.
    pub(crate) fn loaded(&self) -> Vec<Arc<ServedModel>> {
        self.slots.iter().filter_map(|slot| slot.model()).collect()
    }

    /// The model of this name; none given, and `default`, mean the first.
    pub(crate) fn slot(&self, name: Option<&str>) -> Result<&Arc<Slot>, ApiError> {
        match name {
            None | Some(DEFAULT_NAME) => Ok(&self.slots[0]),
            Some(name) => self.slots.iter().find(|slot| slot.name == name).ok_or_else(|| {
                let served: Vec<&str> = self.slots.iter().map(|slot| slot.name.as_str()).collect();
                ApiError::unknown_model(name, &served)
            }),
        }
    }

    /// From now on nothing is loaded, and whoever waits for a model is told so.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// A lease on a model, which is loaded if need be, within the request's deadline and the model's.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        name: Option<&str>,
        deadline: Option<Duration>,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Lease>, ApiError> {
        let slot = self.slot(name)?;
        let longest = self.loader.as_ref().map_or(Duration::MAX, |loader| loader.max_deadline(&slot.name));
        let deadline = deadline.map_or(longest, |deadline| deadline.min(longest));
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            // What is in memory answers for itself.
            biased;
            lease = self.lease_or_load(slot, metrics) => lease,
            _ = stopping.wait_for(|stopping| *stopping) => Err(Failure::Shutdown.into()),
            () = tokio::time::sleep(deadline) => Err(ApiError::deadline(deadline)),
        }
    }

    async fn lease_or_load(self: &Arc<Self>, slot: &Arc<Slot>, metrics: &Arc<Metrics>) -> Result<Arc<Lease>, ApiError> {
        let asked = Instant::now();
        if let Some(lease) = slot.lease(asked).await {
            return Ok(lease);
        }
        let (fleet, slot, metrics) = (Arc::clone(self), Arc::clone(slot), Arc::clone(metrics));
        // A task of its own: a load goes on when whoever asked for it goes away.
        let loading = tokio::spawn(async move { fleet.load(&slot, &metrics, asked).await });
        match loading.await {
            Ok(result) => result,
            Err(_) => Err(ApiError::internal("loading the model failed; the log has the details")),
        }
    }

    /// Loads a model, after those that are being loaded already.
    async fn load(&self, slot: &Arc<Slot>, metrics: &Arc<Metrics>, asked: Instant) -> Result<Arc<Lease>, ApiError> {
        let _turn = self.turn.lock().await;
        if let Some(lease) = slot.lease(asked).await {
            return Ok(lease);
        }
        if let Some((when, why)) = slot.failure().as_ref()
            && *when >= asked
        {
            return Err(ApiError::not_loaded(&slot.name, why));
        }
        match self.make_room_and_load(slot, metrics).await {
            Ok((model, bytes)) => {
                slot.loads.fetch_add(1, Ordering::Relaxed);
                *slot.in_memory() = Some(InMemory { model: Arc::new(model), bytes });
                slot.touch();
                slot.lease(asked).await.ok_or_else(|| ApiError::internal("the model was unloaded at once"))
            }
            Err(error) => {
                slot.failed_loads.fetch_add(1, Ordering::Relaxed);
                tracing::error!("{}: not loaded: {error}", slot.name);
                let why = error.to_string();
                let answer = ApiError::not_loaded(&slot.name, &why);
                *slot.failure() = Some((Instant::now(), why));
                Err(answer)
            }
        }
    }

    /// Loads a model; while others take the memory that it needs, unloads the one that was used longest ago.
    async fn make_room_and_load(
        &self,
        slot: &Arc<Slot>,
        metrics: &Arc<Metrics>,
    ) -> Result<(ServedModel, u64), LoadError> {
        let no_loader = || LoadError::Failed("this server loads no models on demand".to_owned());
        let loader = self.loader.as_ref().ok_or_else(no_loader)?;
        let is_beside = |other: &&Arc<Slot>| loader.memory(&other.name) == loader.memory(&slot.name);
        let beside: Vec<&Arc<Slot>> = self.slots.iter().filter(is_beside).collect();
        loop {
            if *self.stopping.borrow() {
                return Err(LoadError::Failed("the server is stopping".to_owned()));
            }
            let pinned = beside.iter().filter(|other| other.is_pinned);
            let taken = Taken {
                all: beside.iter().map(|other| other.bytes()).sum(),
                pinned: pinned.map(|other| other.bytes()).sum(),
            };
            let (of_thread, name, observer) = (Arc::clone(loader), slot.name.clone(), metrics.observer(&slot.name));
            let loading = tokio::task::spawn_blocking(move || of_thread.load(&name, taken, observer));
            match loading.await.unwrap_or_else(|_| Err(LoadError::Failed("loading panicked".to_owned()))) {
                Err(LoadError::NoRoom(why)) => {
                    let Some(victim) = longest_unused(&beside, slot) else {
                        return Err(LoadError::Failed(why));
                    };
                    tracing::info!("{}: unloaded to make room for {}", victim.name, slot.name);
                    self.unload(&victim).await;
                }
                result => return result,
            }
        }
    }

    /// Waits until nobody uses a model any more, and unloads it. Who asks for it meanwhile waits, and loads it again.
    async fn unload(&self, slot: &Arc<Slot>) {
        let nobody_uses_it = slot.uses.write().await;
        let Some((gone, before)) = slot.retire() else { return };
        drop(nobody_uses_it);
        slot.unloads.fetch_add(1, Ordering::Relaxed);
        let (loader, of_thread) = (self.loader.clone(), Arc::clone(slot));
        let drop_all = move || {
            // A client that has left may have left a step behind. Until the thread has ended the model is in memory,
            // and not everything is counted.
            gone.model.engine.end();
            *of_thread.past() = before + gone.model.engine.stats().counters;
            drop(gone);
            loader.iter().for_each(|loader| loader.unloaded());
        };
        // Takes as long as the step that runs.
        if tokio::task::spawn_blocking(drop_all).await.is_err() {
            tracing::error!("{}: unloading panicked", slot.name);
        }
    }

    /// Unloads models that nobody has used for long, as long as the server lives.
    pub(crate) async fn unload_idle(self: Arc<Self>) {
        let Some(ttl) = self.idle_ttl.filter(|_| self.loader.is_some()) else { return };
        let mut interval = tokio::time::interval(IDLE_CHECK.min(ttl));
        loop {
            interval.tick().await;
            let _turn = self.turn.lock().await;
            for slot in self.slots.iter().filter(|slot| !slot.is_pinned && slot.used().elapsed() >= ttl) {
                let is_idle = slot.uses.try_write().is_ok();
                if is_idle && slot.in_memory().is_some() {
                    tracing::info!("{}: unloaded after {ttl:?} without requests", slot.name);
                    self.unload(slot).await;
                }
            }
        }
    }
}

/// Of these the model that may go and was used longest ago.
fn longest_unused(slots: &[&Arc<Slot>], but: &Arc<Slot>) -> Option<Arc<Slot>> {
    let may_go = |slot: &&&Arc<Slot>| !slot.is_pinned && !Arc::ptr_eq(slot, but) && slot.in_memory().is_some();
    slots.iter().filter(may_go).min_by_key(|slot| slot.used()).map(|slot| Arc::clone(slot))
}

impl Slot {
    /// The model, if it is in memory.
    pub(crate) fn model(&self) -> Option<Arc<ServedModel>> {
        self.in_memory().as_ref().map(|loaded| Arc::clone(&loaded.model))
    }

    /// What all its engines have counted.
    pub(crate) fn counters(&self) -> Counters {
        let in_memory = self.in_memory();
        let now = in_memory.as_ref().map(|loaded| loaded.model.engine.stats().counters);
        *self.past() + now.unwrap_or_default()
    }

    /// Takes the model out of memory, its counts into the past. Also returns what that was before.
    fn retire(&self) -> Option<(InMemory, Counters)> {
        let mut in_memory = self.in_memory();
        let gone = in_memory.take()?;
        let mut past = self.past();
        let before = *past;
        *past = before + gone.model.engine.stats().counters;
        Some((gone, before))
    }

    fn past(&self) -> MutexGuard<'_, Counters> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it takes now.
    fn bytes(&self) -> u64 {
        self.in_memory().as_ref().map_or(0, |loaded| loaded.bytes)
    }

    fn in_memory(&self) -> MutexGuard<'_, Option<InMemory>> {
        self.in_memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease, if the model is in memory. Waits while it is on its way out.
    async fn lease(self: &Arc<Self>, asked: Instant) -> Option<Arc<Lease>> {
        let hold = Arc::clone(&self.uses).read_owned().await;
        let model = self.model()?;
        self.touch();
        Some(Arc::new(Lease { model, slot: Arc::clone(self), waited: asked.elapsed(), _hold: hold }))
    }

    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn used(&self) -> Instant {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Lease {
    type Target = ServedModel;

    fn deref(&self) -> &ServedModel {
        &self.model
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.slot.touch();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.model).finish()
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.slots.iter().map(|slot| slot.name.as_str()).collect();
        f.debug_struct("Fleet").field("models", &names).finish_non_exhaustive()
    }
}
