//! Where tests let the engine thread panic: [`point`] names a place between two changes that belong together. Tests
//! walk through all of them (`tests/points.rs`, at random `tests/random.rs`); in any other build they are nothing.

use std::cell::{Cell, RefCell};

thread_local! {
    /// Points to be passed until one panics; 0 = none does.
    static LEFT: Cell<usize> = const { Cell::new(0) };
    /// The point that panicked.
    static STRUCK: Cell<Option<&'static str>> = const { Cell::new(None) };
    /// The points that were passed on the way there.
    static PASSED: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// The `nth` point from now on that this thread passes panics, once. 0: none does.
pub(crate) fn strike_at(nth: usize) {
    LEFT.set(nth);
    STRUCK.set(None);
    PASSED.take();
}

/// The point that panicked since, if one did.
pub(crate) fn struck() -> Option<&'static str> {
    STRUCK.get()
}

/// The points that were passed since, up to the one that panicked.
pub(crate) fn passed() -> Vec<&'static str> {
    PASSED.with_borrow(Vec::clone)
}

/// A place at which a test may let this thread panic.
pub(crate) fn point(name: &'static str) {
    let left = LEFT.get();
    if left == 0 {
        return;
    }
    LEFT.set(left - 1);
    PASSED.with_borrow_mut(|passed| passed.push(name));
    if left == 1 {
        STRUCK.set(Some(name));
        // Thousands of these are wanted, without a report of each.
        std::panic::resume_unwind(Box::new(format!("injected at {name}")));
    }
}
