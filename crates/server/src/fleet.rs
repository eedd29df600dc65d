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

use engine::Observer;
use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock};

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::model::ServedModel;

/// The model name that always means the first one served.
const DEFAULT_NAME: &str = "default";
/// How often models are looked at that nobody may use any more.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// Loads models by name, on threads that may block, one at a time.
pub trait Loader: Send + Sync + 'static {
    /// Loads a model beside others that take `taken_bytes`. Also returns the bytes that it takes.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`] when it would fit with less taken: others are then unloaded, and it is asked again.
    fn load(&self, name: &str, taken_bytes: u64, observer: Arc<dyn Observer>) -> Result<(ServedModel, u64), LoadError>;

    /// A model has been unloaded.
    fn unloaded(&self) {}
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
}

/// One model, in memory or not.
pub(crate) struct Slot {
    pub(crate) name: String,
    is_pinned: bool,
    /// Leases read; loading and unloading write.
    model: Arc<RwLock<Option<InMemory>>>,
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
    _hold: OwnedRwLockReadGuard<Option<InMemory>>,
}

/// What a model is doing, without waiting.
pub(crate) enum Presence {
    Loaded(Arc<ServedModel>),
    Unloaded,
    /// On its way in or out.
    Changing,
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
                model: Arc::new(RwLock::new(model)),
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
        Self { slots, loader, turn: Mutex::new(()), idle_ttl }
    }

    /// Every model.
    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    /// The models that are in memory now.
    pub(crate) fn loaded(&self) -> Vec<Arc<ServedModel>> {
        let loaded = |slot: &Arc<Slot>| match slot.state() {
            Presence::Loaded(model) => Some(model),
            Presence::Unloaded | Presence::Changing => None,
        };
        self.slots.iter().filter_map(loaded).collect()
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

    /// A lease on a model, which is loaded if need be.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        name: Option<&str>,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Lease>, ApiError> {
        let slot = self.slot(name)?;
        if let Some(lease) = slot.lease().await {
            return Ok(lease);
        }
        let (fleet, slot, metrics, asked) = (Arc::clone(self), Arc::clone(slot), Arc::clone(metrics), Instant::now());
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
        if let Some(lease) = slot.lease().await {
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
                *slot.model.write().await = Some(InMemory { model: Arc::new(model), bytes });
                slot.touch();
                slot.lease().await.ok_or_else(|| ApiError::internal("the model was unloaded at once"))
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
        loop {
            let mut taken_bytes = 0;
            for other in &self.slots {
                taken_bytes += other.model.read().await.as_ref().map_or(0, |loaded| loaded.bytes);
            }
            let (loader, name, observer) = (Arc::clone(loader), slot.name.clone(), metrics.observer(&slot.name));
            let loading = tokio::task::spawn_blocking(move || loader.load(&name, taken_bytes, observer));
            match loading.await.unwrap_or_else(|_| Err(LoadError::Failed("loading panicked".to_owned()))) {
                Err(LoadError::NoRoom(why)) => {
                    let Some(victim) = self.longest_unused(slot).await else {
                        return Err(LoadError::Failed(why));
                    };
                    tracing::info!("{}: unloaded to make room for {}", victim.name, slot.name);
                    self.unload(&victim).await;
                }
                result => return result,
            }
        }
    }

    /// The model that may go and was used longest ago.
    async fn longest_unused(&self, but: &Arc<Slot>) -> Option<Arc<Slot>> {
        let mut oldest: Option<(Instant, &Arc<Slot>)> = None;
        for slot in self.slots.iter().filter(|slot| !slot.is_pinned && !Arc::ptr_eq(slot, but)) {
            let used = slot.used();
            if slot.model.read().await.is_some() && oldest.is_none_or(|(time, _)| used < time) {
                oldest = Some((used, slot));
            }
        }
        oldest.map(|(_, slot)| Arc::clone(slot))
    }

    /// Waits until nobody uses a model any more, and unloads it. Who asks for it meanwhile waits, and loads it again.
    async fn unload(&self, slot: &Arc<Slot>) {
        let Some(gone) = slot.model.write().await.take() else { return };
        slot.unloads.fetch_add(1, Ordering::Relaxed);
        let loader = self.loader.clone();
        let drop_all = move || {
            drop(gone);
            loader.iter().for_each(|loader| loader.unloaded());
        };
        // Ends the engine's thread, which may take a moment.
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
                let is_idle = slot.model.try_write().is_ok_and(|model| model.is_some());
                if is_idle {
                    tracing::info!("{}: unloaded after {ttl:?} without requests", slot.name);
                    self.unload(slot).await;
                }
            }
        }
    }
}

impl Slot {
    /// What it is doing now.
    pub(crate) fn state(&self) -> Presence {
        match self.model.try_read() {
            Ok(model) => {
                model.as_ref().map_or(Presence::Unloaded, |loaded| Presence::Loaded(Arc::clone(&loaded.model)))
            }
            Err(_) => Presence::Changing,
        }
    }

    /// A lease, if the model is in memory. Waits while it is on its way in or out.
    async fn lease(self: &Arc<Self>) -> Option<Arc<Lease>> {
        let hold = Arc::clone(&self.model).read_owned().await;
        let model = Arc::clone(&hold.as_ref()?.model);
        self.touch();
        Some(Arc::new(Lease { model, slot: Arc::clone(self), _hold: hold }))
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
