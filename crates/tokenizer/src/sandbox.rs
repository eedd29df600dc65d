//! A place for code that may panic, hang or recurse on crafted input: libraries that build something from a file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use thiserror::Error;

/// The largest real tokenizers load in a second or two.
const DEADLINE: Duration = Duration::from_secs(60);

/// Stack for recursive parsers; only what is used becomes memory.
const STACK_BYTES: usize = 64 << 20;

/// What went wrong around the work itself.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error("panic: {0}")]
    Panic(String),
    #[error("it took more than {} s", DEADLINE.as_secs())]
    TooSlow,
    #[error("no thread for it: {0}")]
    NoThread(String),
}

/// Does the work on a thread of its own, with a large stack and a deadline, and turns a panic into an error. A thread
/// that does not answer cannot be stopped and is left behind.
pub(crate) fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let (sender, receiver) = sync_channel(1);
    let builder = thread::Builder::new().name("load".into()).stack_size(STACK_BYTES);
    let spawned = builder.spawn(move || {
        // When nobody waits any more, the result is of no use.
        let _ = sender.send(catch(work));
    });
    spawned.map_err(|error| Failure::NoThread(error.to_string()))?;
    match receiver.recv_timeout(DEADLINE) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(Failure::TooSlow),
        Err(RecvTimeoutError::Disconnected) => Err(Failure::Panic("the thread died".into())),
    }
}

/// Does the work here and turns a panic into an error.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    // Whatever the closure left half done is dropped with it, or was private to it.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        Failure::Panic(message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned())
    })
}
