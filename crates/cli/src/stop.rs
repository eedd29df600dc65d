//! Ctrl-C, SIGTERM and, on Linux, SIGHUP: how commands hear of them, and what is removed before one ends.

use std::io;
use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Ctrl-C, SIGTERM and, on Linux, the end of the terminal (SIGHUP), from when it is made until the process ends.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where the process shall outlive its terminal, and once that has ended.
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Needs a runtime around it.
    ///
    /// # Errors
    /// When the system has no place for a handler.
    pub(crate) fn new() -> io::Result<Self> {
        let hangup = (!outlives_terminal()).then(|| signal(SignalKind::hangup())).transpose()?;
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, hangup })
    }

    /// Waits for the next; a terminal ends once. Returns the shell's code for a program that it ended.
    pub(crate) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
            Some(_) = async { self.hangup.as_mut()?.recv().await } => {
                // The shell tells its jobs, and when it has ended the kernel tells those in the foreground once more.
                self.hangup = None;
                129
            }
        }
    }
}

/// Whether `nohup` has made the process ignore SIGHUP, or may have where the system does not tell: a handler would undo
/// that.
fn outlives_terminal() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores_hangup(&status).unwrap_or(true)
}

/// The lowest bit of the signals that are ignored, as `/proc/PID/status` has them in hexadecimal.
fn ignores_hangup(status: &str) -> Option<bool> {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    Some(u64::from_str_radix(ignored.trim(), 16).ok()? & 1 == 1)
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

#[cfg(test)]
mod tests {
    use super::ignores_hangup;

    #[test]
    fn an_ignored_hangup_is_seen() {
        for (status, expected) in [
            ("Name:\tfrontier\nSigIgn:\t0000000000000001\nSigCgt:\t0000000000000000\n", Some(true)),
            ("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n", Some(false)),
            ("SigBlk:\t0000000000000001\n", None),
            ("", None),
        ] {
            assert_eq!(ignores_hangup(status), expected, "{status}");
        }
    }
}
