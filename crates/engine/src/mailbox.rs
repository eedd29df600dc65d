//! The engine thread's letter box: any thread posts, one thread reads and may wait. It bounds nothing by itself.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use super::sync::{Condvar, Mutex, MutexGuard};

/// A letter box.
#[derive(Debug)]
pub(crate) struct Mailbox<M> {
    state: Mutex<State<M>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct State<M> {
    messages: VecDeque<M>,
    life: Life,
    /// The life that the reader knows of: it does not sleep on another one.
    told: Life,
}

/// What the engine still does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Accepting,
    /// Finishes what it has; at the given time it gives up on the rest.
    Draining {
        until: Duration,
    },
    Dead,
}

impl<M> Mailbox<M> {
    pub(crate) fn new() -> Self {
        let state = State { messages: VecDeque::new(), life: Life::Accepting, told: Life::Accepting };
        Self { state: Mutex::new(state), arrived: Condvar::new() }
    }

    /// Posts a message, unless nobody is there to read it.
    pub(crate) fn push(&self, message: M) {
        let mut state = self.lock();
        if state.life != Life::Dead {
            state.messages.push_back(message);
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// Moves all messages to `into`. Waits for the first one, or for another life than the last call returned, for up
    /// to `wait`.
    pub(crate) fn drain(&self, wait: Duration, into: &mut VecDeque<M>) -> Life {
        let mut state = self.lock();
        if !wait.is_zero() {
            while state.messages.is_empty() && state.life == state.told {
                let (again, timeout) = self.arrived.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
                state = again;
                if timeout.timed_out() {
                    break;
                }
            }
        }
        into.append(&mut state.messages);
        state.told = state.life;
        state.life
    }

    /// From now on the reader only finishes what it has, until `until` or an earlier time that was said before.
    pub(crate) fn begin_drain(&self, until: Duration) {
        let mut state = self.lock();
        match state.life {
            Life::Dead => {}
            Life::Draining { until: earlier } if earlier <= until => {}
            _ => state.life = Life::Draining { until },
        }
        drop(state);
        self.arrived.notify_all();
    }

    /// The reader is gone. Drops what nobody will read.
    pub(crate) fn die(&self) {
        let mut state = self.lock();
        state.life = Life::Dead;
        let unread = std::mem::take(&mut state.messages);
        drop(state);
        // Messages may post others when they are dropped, for which they need the lock.
        drop(unread);
        self.arrived.notify_all();
    }

    pub(crate) fn life(&self) -> Life {
        self.lock().life
    }

    /// Whether there are messages that nobody has read yet.
    pub(crate) fn has_mail(&self) -> bool {
        !self.lock().messages.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
