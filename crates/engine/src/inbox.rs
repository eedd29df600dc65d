//! What other threads tell the engine thread, and the count that bounds it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::engine::SubmitError;
use crate::event::{Event, Link};
use crate::request::Request;

/// Weight of the newest departure in the estimate that [`SubmitError::QueueFull`] carries.
const DEPARTURE_WEIGHT: f64 = 0.1;
/// Shortest and longest hint in [`SubmitError::QueueFull`].
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Number of a request; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RequestId(pub(crate) u64);

/// Something for the engine thread to do.
#[derive(Debug)]
pub(crate) enum Message {
    Submit(Box<Submission>),
    /// The client went away.
    Cancel {
        id: RequestId,
    },
    /// The client has enough of one choice.
    Stop {
        id: RequestId,
        choice: usize,
    },
    /// A full event stream has room again.
    Resume {
        id: RequestId,
    },
}

/// A request on its way to the engine thread.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) id: RequestId,
    pub(crate) request: Request,
    /// Most tokens for each choice, so that prompt and output fit the context.
    pub(crate) max_tokens: usize,
    pub(crate) submitted: Duration,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) link: Arc<Link>,
    pub(crate) ticket: Ticket,
}

/// A request's place in the inbox's count. Dropping it counts the request out, whatever became of it.
pub(crate) struct Ticket {
    inbox: Arc<Inbox>,
    clock: Arc<dyn Clock>,
    /// Its prompt, while it had no turn.
    waiting_tokens: usize,
}

/// The engine thread's letter box. Submissions are bounded by [`Inbox::new`]'s limits, other messages by the number of
/// requests.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
    max_requests: usize,
    max_running: usize,
    max_queued_tokens: usize,
}

#[derive(Debug)]
struct State {
    messages: VecDeque<Message>,
    next_id: u64,
    /// Requests submitted and not yet over.
    requests: usize,
    /// Prompt tokens of requests that had no turn yet.
    queued_tokens: usize,
    life: Life,
    /// Moving average of the time between two requests' ends.
    departure_gap: Duration,
    last_departure: Option<Duration>,
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

impl Inbox {
    pub(crate) fn new(max_running: usize, max_queued: usize, max_queued_tokens: usize) -> Self {
        Self {
            state: Mutex::new(State {
                messages: VecDeque::new(),
                next_id: 0,
                requests: 0,
                queued_tokens: 0,
                life: Life::Accepting,
                departure_gap: Duration::from_secs(1),
                last_departure: None,
            }),
            arrived: Condvar::new(),
            max_requests: max_running + max_queued,
            max_running,
            max_queued_tokens,
        }
    }

    /// Counts a request in and posts what `make` makes of its id and ticket, or says why not.
    pub(crate) fn submit(
        self: &Arc<Self>,
        prompt_tokens: usize,
        clock: &Arc<dyn Clock>,
        make: impl FnOnce(RequestId, Ticket) -> Box<Submission>,
    ) -> Result<(), SubmitError> {
        let mut state = self.lock();
        match state.life {
            Life::Accepting => {}
            Life::Draining { .. } => return Err(SubmitError::ShuttingDown),
            Life::Dead => return Err(SubmitError::Dead),
        }
        // One prompt always gets in, however long: otherwise it never could.
        let tokens_full = state.queued_tokens > 0 && state.queued_tokens + prompt_tokens > self.max_queued_tokens;
        if state.requests >= self.max_requests || tokens_full {
            return Err(self.queue_full(&state));
        }
        let id = RequestId(state.next_id);
        state.next_id += 1;
        state.requests += 1;
        state.queued_tokens += prompt_tokens;
        drop(state);
        let ticket = Ticket { inbox: Arc::clone(self), clock: Arc::clone(clock), waiting_tokens: prompt_tokens };
        self.push(Message::Submit(make(id, ticket)));
        Ok(())
    }

    /// Posts a message, unless nobody is there to read it.
    pub(crate) fn push(&self, message: Message) {
        let mut state = self.lock();
        if state.life != Life::Dead {
            state.messages.push_back(message);
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// Moves all messages to `into`. Waits for the first one for up to `wait`.
    pub(crate) fn drain(&self, wait: Duration, into: &mut VecDeque<Message>) -> Life {
        let mut state = self.lock();
        if state.messages.is_empty() && !wait.is_zero() {
            let life = state.life;
            let idle = |state: &mut State| state.messages.is_empty() && state.life == life;
            state = self.arrived.wait_timeout_while(state, wait, idle).unwrap_or_else(PoisonError::into_inner).0;
        }
        into.append(&mut state.messages);
        state.life
    }

    /// A request is over; `waiting_tokens` of its prompt were still in the queue.
    fn departed(&self, waiting_tokens: usize, now: Duration) {
        let mut state = self.lock();
        state.requests -= 1;
        state.queued_tokens -= waiting_tokens;
        if let Some(last) = state.last_departure.replace(now) {
            let gap = now.saturating_sub(last).as_secs_f64();
            let average = state.departure_gap.as_secs_f64();
            state.departure_gap = Duration::from_secs_f64(average + DEPARTURE_WEIGHT * (gap - average));
        }
    }

    /// Takes no more requests; those it has may run until `until`.
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

    /// The engine thread is gone.
    pub(crate) fn die(&self) {
        let mut state = self.lock();
        state.life = Life::Dead;
        let unread = std::mem::take(&mut state.messages);
        drop(state);
        // Requests in it count themselves out, for which they need the lock.
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

    /// Requests submitted and not yet over.
    pub(crate) fn requests(&self) -> usize {
        self.lock().requests
    }

    fn queue_full(&self, state: &State) -> SubmitError {
        let queued = state.requests.saturating_sub(self.max_running);
        let wait = state.departure_gap.saturating_mul(queued.max(1) as u32);
        SubmitError::QueueFull {
            queued,
            limit: self.max_requests - self.max_running,
            queued_tokens: state.queued_tokens,
            limit_tokens: self.max_queued_tokens,
            retry_after: wait.clamp(RETRY_AFTER.0, RETRY_AFTER.1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The request got its first turn.
    pub(crate) fn dequeue(&mut self) {
        self.inbox.lock().queued_tokens -= std::mem::take(&mut self.waiting_tokens);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.inbox.departed(self.waiting_tokens, self.clock.now());
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("waiting_tokens", &self.waiting_tokens).finish_non_exhaustive()
    }
}
