//! Whether the engine delivers.

use std::time::Duration;

/// What a readiness probe wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether requests should be sent here.
    pub readiness: Readiness,
    /// Time since a step last computed something or delivered an event; zero while there is nothing to do.
    pub last_delivery_age: Duration,
    /// How long the oldest waiting request has waited.
    pub oldest_queued_age: Duration,
}

/// Whether requests should be sent here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Readiness {
    /// Yes.
    Ready,
    /// No: there is work, but nothing has come of it for longer than the watchdog's limit.
    Stalled,
    /// No: several steps in a row have failed, the latest within the watchdog's limit.
    Failing,
    /// No: it finishes what it has and takes no more.
    Draining,
    /// No: the engine thread is gone.
    Dead,
}

impl Readiness {
    /// A stable name: `ready`, `stalled`, `failing`, `draining`, `dead`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Stalled => "stalled",
            Self::Failing => "failing",
            Self::Draining => "draining",
            Self::Dead => "dead",
        }
    }
}
