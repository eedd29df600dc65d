//! What the channels between threads are made of. Their model tests put loom's types in the place of these.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
