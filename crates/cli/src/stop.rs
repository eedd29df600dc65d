//! Ctrl-C and SIGTERM: how commands hear of them, and what is removed before one ends.

use std::io;
use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Ctrl-C and SIGTERM, from when it is made until the process ends.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Needs a runtime around it.
    ///
    /// # Errors
    /// When the system has no place for a handler.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next. Returns the shell's code for a program that it ended.
    pub(crate) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}

/// Until it is dropped, a signal that ends the process removes a file first.
pub(crate) struct RemovedOnStop {
    /// Dropped, it ends the thread that waits.
    _until: oneshot::Sender<()>,
}

impl RemovedOnStop {
    /// # Errors
    /// When there is no thread or no handler to be had.
    pub(crate) fn new(path: PathBuf) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _inside = runtime.enter();
            StopSignals::new()?
        };
        let (until, dropped) = oneshot::channel();
        let wait = async move {
            tokio::select! {
                code = signals.next() => {
                    std::fs::remove_file(&path).ok();
                    std::process::exit(code);
                }
                _ = dropped => {}
            }
        };
        std::thread::Builder::new().name("stop-signals".to_owned()).spawn(move || runtime.block_on(wait))?;
        Ok(Self { _until: until })
    }
}
