//! What other threads tell the engine thread, and the count that bounds it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::engine::SubmitError;
use crate::event::{Event, Link};
use crate::mailbox::{Life, Mailbox};
use crate::relief::Relief;
use crate::request::{Request, Tenant};

/// Weight of the newest departure in the estimate of when to retry.
const DEPARTURE_WEIGHT: f64 = 0.1;
/// The gap between two departures while none is known.
const FIRST_GAP: Duration = Duration::from_secs(1);
/// Shortest and longest hint of when to retry.
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
    /// The machine is short of memory, or not any more.
    Relieve(Relief),
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
    id: RequestId,
    tenant: Tenant,
}

/// The engine thread's letter box. Submissions are bounded by [`Bounds`], other messages by the number of requests.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) mailbox: Mailbox<Message>,
    count: Mutex<Count>,
    bounds: Bounds,
}

/// How much may be submitted and not yet over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Requests that the engine admits.
    pub(crate) running: usize,
    /// Requests beyond those.
    pub(crate) queued: usize,
    /// Prompt tokens of requests that had no turn yet.
    pub(crate) queued_tokens: usize,
    /// Requests of one tenant, running and waiting.
    pub(crate) of_tenant: usize,
}

/// What was submitted and is not yet over.
#[derive(Debug, Default)]
struct Count {
    next_id: u64,
    /// Requests submitted and not yet over.
    requests: usize,
    /// The same by tenant; none is zero.
    by_tenant: HashMap<Tenant, usize>,
    /// Requests that had no turn yet, the oldest first.
    waiting: BTreeMap<RequestId, Queued>,
    /// Their prompt tokens.
    queued_tokens: usize,
    /// Moving average of the time between two requests' ends.
    departure_gap: Option<Duration>,
    last_departure: Option<Duration>,
}

/// A request that had no turn yet.
#[derive(Debug)]
struct Queued {
    since: Duration,
    prompt_tokens: usize,
}

impl Inbox {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { mailbox: Mailbox::new(), count: Mutex::new(Count::default()), bounds }
    }

    /// Counts the requests of a call in, all or none, as `submitted` then, and posts what `make` makes of each with its
    /// id and ticket; or says why not. They are of one tenant.
    pub(crate) fn submit(
        self: &Arc<Self>,
        requests: Vec<Request>,
        submitted: Duration,
        clock: &Arc<dyn Clock>,
        mut make: impl FnMut(Request, RequestId, Ticket) -> Box<Submission>,
    ) -> Result<(), SubmitError> {
        let Some(tenant) = requests.first().map(|request| request.tenant) else { return Ok(()) };
        let prompt_tokens: usize = requests.iter().map(|request| request.prompt.len()).sum();
        match self.mailbox.life() {
            Life::Accepting => {}
            Life::Draining { .. } => return Err(SubmitError::ShuttingDown),
            Life::Dead => return Err(SubmitError::Dead),
        }
        let mut count = self.lock();
        let of_tenant = count.by_tenant.get(&tenant).copied().unwrap_or(0);
        if of_tenant + requests.len() > self.bounds.of_tenant {
            let retry_after = count.time_for_departures(requests.len());
            return Err(SubmitError::TenantFull { requests: of_tenant, limit: self.bounds.of_tenant, retry_after });
        }
        // The prompts of one call always get in, however long: otherwise they never could.
        let tokens_full = count.queued_tokens > 0 && count.queued_tokens + prompt_tokens > self.bounds.queued_tokens;
        if count.requests + requests.len() > self.bounds.running + self.bounds.queued || tokens_full {
            return Err(self.queue_full(&count, requests.len()));
        }
        let first_id = count.next_id;
        count.next_id += requests.len() as u64;
        count.requests += requests.len();
        *count.by_tenant.entry(tenant).or_default() += requests.len();
        count.queued_tokens += prompt_tokens;
        for (id, request) in (first_id..).map(RequestId).zip(&requests) {
            count.waiting.insert(id, Queued { since: submitted, prompt_tokens: request.prompt.len() });
        }
        drop(count);
        for (id, request) in (first_id..).map(RequestId).zip(requests) {
            let ticket = Ticket { inbox: Arc::clone(self), clock: Arc::clone(clock), id, tenant };
            self.push(Message::Submit(make(request, id, ticket)));
        }
        Ok(())
    }

    /// Most requests that one call may have: more could never run and wait together.
    pub(crate) fn capacity(&self) -> usize {
        self.bounds.of_tenant.min(self.bounds.running + self.bounds.queued)
    }

    /// Posts a message, unless nobody is there to read it.
    pub(crate) fn push(&self, message: Message) {
        self.mailbox.push(message);
    }

    /// Since when the oldest request waits that had no turn yet. Known while a step runs as well, however long.
    pub(crate) fn oldest_waiting(&self) -> Option<Duration> {
        self.lock().waiting.first_key_value().map(|(_, waiting)| waiting.since)
    }

    /// A request of `tenant` is over, whether or not it had a turn.
    fn departed(&self, id: RequestId, tenant: Tenant, now: Duration) {
        let mut count = self.lock();
        count.dequeue(id);
        count.requests -= 1;
        let of_tenant = count.by_tenant.get_mut(&tenant).expect("a request is counted for its tenant");
        *of_tenant -= 1;
        if *of_tenant == 0 {
            count.by_tenant.remove(&tenant);
        }
        if let Some(last) = count.last_departure.replace(now) {
            let gap = now.saturating_sub(last).as_secs_f64();
            let average = count.departure_gap.unwrap_or(FIRST_GAP).as_secs_f64();
            count.departure_gap = Some(Duration::from_secs_f64(average + DEPARTURE_WEIGHT * (gap - average)));
        }
    }

    /// Requests submitted and not yet over.
    pub(crate) fn requests(&self) -> usize {
        self.lock().requests
    }

    /// The error for a call of so many requests.
    fn queue_full(&self, count: &Count, requests: usize) -> SubmitError {
        let queued = count.requests.saturating_sub(self.bounds.running);
        SubmitError::QueueFull {
            queued,
            limit: self.bounds.queued,
            queued_tokens: count.queued_tokens,
            limit_tokens: self.bounds.queued_tokens,
            retry_after: count.time_for_departures(queued.max(requests)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    /// The request waits no longer, if it did.
    fn dequeue(&mut self, id: RequestId) {
        if let Some(waiting) = self.waiting.remove(&id) {
            self.queued_tokens -= waiting.prompt_tokens;
        }
    }

    /// When so many requests will have ended, by the pace of late.
    fn time_for_departures(&self, requests: usize) -> Duration {
        self.departure_gap.unwrap_or(FIRST_GAP).saturating_mul(requests as u32).clamp(RETRY_AFTER.0, RETRY_AFTER.1)
    }
}

impl Ticket {
    /// The request got its first turn.
    pub(crate) fn dequeue(&mut self) {
        self.inbox.lock().dequeue(self.id);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.inbox.departed(self.id, self.tenant, self.clock.now());
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).finish_non_exhaustive()
    }
}
