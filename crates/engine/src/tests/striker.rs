//! A fault that waits for its moment.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tensor::BackendError;

/// What strikes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Error,
    Panic,
    /// The device is gone, with all that it held.
    Lost,
}

/// Strikes at the `nth` time that it is passed, once.
pub(super) struct Striker {
    kind: Mutex<Kind>,
    left: AtomicUsize,
    strikes: AtomicUsize,
}

impl Striker {
    pub(super) fn new(kind: Kind, nth: usize) -> Self {
        Self { kind: Mutex::new(kind), left: AtomicUsize::new(nth), strikes: AtomicUsize::new(0) }
    }

    /// Forgets what it was to do.
    pub(super) fn arm(&self, kind: Kind, nth: usize) {
        *self.kind.lock().unwrap() = kind;
        self.left.store(nth, Ordering::Relaxed);
    }

    /// How often it has struck.
    pub(super) fn strikes(&self) -> usize {
        self.strikes.load(Ordering::Relaxed)
    }

    pub(super) fn pass(&self) -> Result<(), BackendError> {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        if left != 1 {
            return Ok(());
        }
        self.strikes.fetch_add(1, Ordering::Relaxed);
        let (device, message) = ("fake".to_owned(), "injected".to_owned());
        let kind = *self.kind.lock().unwrap();
        match kind {
            Kind::Error => Err(BackendError::Device { device, message }),
            Kind::Lost => Err(BackendError::Lost { device, message }),
            Kind::Panic => std::panic::resume_unwind(Box::new(message)),
        }
    }
}
