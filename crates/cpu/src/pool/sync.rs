//! What the protocol between threads is made of. The test in `tests/barrier.rs` compiles `region` over another module of
//! this name, which tries every order in which the threads may meet.

use std::cell::UnsafeCell;

pub(super) use std::hint::spin_loop;
pub(super) use std::sync::Mutex;
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(super) use std::thread::{Thread, park, yield_now};

/// A value that threads agree by other means to read and write at different times.
#[derive(Debug)]
pub(super) struct Shared<T>(UnsafeCell<T>);

// SAFETY: the callers of `get` and `set` keep them apart; a `T` passes from thread to thread.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    pub(super) fn new(value: T) -> Shared<T> {
        Shared(UnsafeCell::new(value))
    }

    /// # Safety
    /// Nobody sets the value at the same time.
    pub(super) unsafe fn get(&self) -> T {
        // SAFETY: as the caller promises.
        unsafe { *self.0.get() }
    }

    /// # Safety
    /// Nobody else gets or sets the value at the same time.
    pub(super) unsafe fn set(&self, value: T) {
        // SAFETY: as the caller promises.
        unsafe { *self.0.get() = value }
    }
}
