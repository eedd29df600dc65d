//! A place for code that may panic or hang on crafted input: the `tokenizers` crate building itself from a file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::error::TokenizerError;

/// The largest real tokenizers load in a second or two.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs `build` on a thread of its own and turns a panic, or no answer within a minute, into an error. A thread that
/// does not answer cannot be stopped and is left behind.
pub(crate) fn run<T: Send + 'static>(
    build: impl FnOnce() -> Result<T, TokenizerError> + Send + 'static,
) -> Result<T, TokenizerError> {
    let (sender, receiver) = sync_channel(1);
    let spawned = thread::Builder::new().name("tokenizer-load".into()).spawn(move || {
        // When nobody waits any more, the result is of no use.
        let _ = sender.send(catch(build));
    });
    if let Err(error) = spawned {
        return Err(TokenizerError::Rejected(format!("no thread to load on: {error}")));
    }
    match receiver.recv_timeout(DEADLINE) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            Err(TokenizerError::Rejected(format!("loading took more than {} s", DEADLINE.as_secs())))
        }
        Err(RecvTimeoutError::Disconnected) => Err(TokenizerError::Rejected("loading died".into())),
    }
}

/// Runs `work` here and turns a panic into an error.
pub(crate) fn catch<T>(work: impl FnOnce() -> Result<T, TokenizerError>) -> Result<T, TokenizerError> {
    // Whatever the closure left half done is dropped with it or was private to it.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(TokenizerError::Rejected(format!("panic in the tokenizers library: {message}")))
    })
}
