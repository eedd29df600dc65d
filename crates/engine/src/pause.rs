//! How a sender that found its channel full hears that there is room again.
//!
//! The sender raises a flag and tries once more; the receiver looks at the flag after it has taken something. One of
//! the two sees the other: either the last try finds the room, or the receiver finds the flag and calls.

use super::sync::{AtomicBool, Ordering, fence};

/// Raised while the sender waits for room.
#[derive(Debug)]
pub(crate) struct PauseFlag(AtomicBool);

impl PauseFlag {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Runs `try_all`, which sends what it can and says whether that was all. If not, the receiver will see the flag
    /// when it has made room.
    pub(crate) fn send(&self, try_all: impl FnOnce() -> bool) -> bool {
        // The flag goes up before the last try: room made after that try finds it up.
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let is_all = try_all();
        if is_all {
            self.0.store(false, Ordering::Release);
        }
        is_all
    }

    /// The receiver has taken something: whether the sender waits for that. Says so once.
    pub(crate) fn take(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.swap(false, Ordering::AcqRel)
    }
}
