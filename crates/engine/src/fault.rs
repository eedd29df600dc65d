//! Where tests let the engine thread panic: [`point`] names a place between two changes that belong together. Tests walk
//! through all of them (`tests/faults.rs`); in any other build they are nothing.

use std::cell::Cell;

thread_local! {
    /// Points to be passed until one panics; 0 = none does.
    static LEFT: Cell<usize> = const { Cell::new(0) };
    /// The point that panicked.
    static STRUCK: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The `nth` point from now on that this thread passes panics, once. 0: none does.
pub(crate) fn strike_at(nth: usize) {
    LEFT.set(nth);
    STRUCK.set(None);
}

/// The point that panicked since, if one did.
pub(crate) fn struck() -> Option<&'static str> {
    STRUCK.get()
}

/// A place at which a test may let this thread panic.
pub(crate) fn point(name: &'static str) {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    if left == 1 {
        STRUCK.set(Some(name));
        // Thousands of these are wanted, without a report of each.
        std::panic::resume_unwind(Box::new(format!("injected at {name}")));
    }
}
