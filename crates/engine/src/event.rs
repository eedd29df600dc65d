//! What a request's owner hears: [`Events`], a bounded stream of [`Event`].

use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::cache_end::CacheEnd;
use crate::inbox::{Inbox, Message, RequestId};
use crate::pause::PauseFlag;
use crate::wakes::Reader;

/// One thing that happened to a request.
///
/// Order: one [`Event::Started`], then [`Event::PromptLogprobs`] if asked for, then for each choice its tokens and its
/// [`Event::Finished`]; choices interleave. [`Event::Failed`] may come at any point and ends all choices.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The request left the queue.
    Started(Started),
    /// One entry a prompt token.
    PromptLogprobs(Vec<PromptLogprob>),
    /// A choice has a new token. A token that ends the choice (end of text, stop id) is reported too.
    Token(Token),
    /// A choice is complete.
    Finished(Finished),
    /// The request is over, complete or not.
    Failed(Failure),
}

/// A request's first turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// From submission to now.
    pub queue: Duration,
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Of those, how many the prefix cache had. [`Usage`] may say more: others may compute the same prompt meanwhile.
    pub cached_tokens: usize,
    /// Why it had no more.
    pub cache_end: CacheEnd,
}

/// A generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Which choice, from 0.
    pub choice: usize,
    /// Token id.
    pub id: u32,
    /// Natural log of its probability in the model's own distribution: at temperature 1, before penalties, biases,
    /// masks and truncation.
    pub logprob: f32,
    /// The likeliest tokens of that same distribution, as many as [`crate::Draft::top_logprobs`] asked for.
    pub top: Vec<TokenLogprob>,
}

/// A token and the natural log of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Token id.
    pub id: u32,
    /// Natural log of its probability.
    pub logprob: f32,
}

/// How likely a prompt token was, after those before it.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptLogprob {
    /// The token; its log probability is `None` for the first, which nothing predicts.
    pub id: u32,
    /// Natural log of its probability.
    pub logprob: Option<f32>,
    /// The likeliest tokens at this place, as many as [`crate::Draft::prompt_logprobs`] asked for.
    pub top: Vec<TokenLogprob>,
}

/// A complete choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Which choice, from 0.
    pub choice: usize,
    /// Why it is complete.
    pub reason: FinishReason,
    /// What it took.
    pub usage: Usage,
}

/// Why a choice is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model ended its text with this id.
    EndOfText(u32),
    /// One of the request's stop ids came.
    StopToken(u32),
    /// As many tokens as it was allowed.
    Length,
    /// The receiver had enough of it ([`Events::stop`]): a stop string, for example.
    Stopped,
}

/// Tokens of one choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated for this choice, a stop token included.
    pub completion_tokens: usize,
    /// Prompt tokens that the prefix cache had.
    pub cached_tokens: usize,
    /// Why it had no more.
    pub cache_end: CacheEnd,
}

/// Why a request ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its deadline passed.
    #[error("the request's deadline of {limit_ms} ms passed")]
    Deadline {
        /// The deadline, from the request's arrival.
        limit_ms: u64,
    },
    /// It got no turn in time.
    #[error("the request waited in the queue for more than {limit_ms} ms")]
    QueueTimeout {
        /// The setting.
        limit_ms: u64,
    },
    /// Nobody read its events.
    #[error("the events of the request were not read for more than {limit_ms} ms")]
    SlowReader {
        /// The setting.
        limit_ms: u64,
    },
    /// The engine shut down.
    #[error("the engine shut down before the request was complete")]
    Shutdown,
    /// The step that it was in failed.
    #[error("the step failed: {message}")]
    Step {
        /// What the runner said, or that something panicked.
        message: String,
    },
    /// No token could be drawn for it.
    #[error("no token could be drawn: {message}")]
    Sampling {
        /// Why not.
        message: String,
    },
    /// The engine thread is gone.
    #[error("the engine has ended")]
    EngineDead,
}

/// The receiving end of a request. Dropping it cancels the request within one step.
///
/// The stream is bounded. When it is full, the request pauses; when it stays full for too long, the request fails with
/// [`Failure::SlowReader`].
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    link: Arc<Link>,
    open_choices: usize,
    /// Who waits in [`Self::recv`].
    reader: Option<Arc<Reader>>,
}

/// What both ends of a stream share.
#[derive(Debug)]
pub(crate) struct Link {
    id: RequestId,
    inbox: Arc<Inbox>,
    /// The engine waits for room in the stream.
    pub(crate) paused: PauseFlag,
    /// Why the stream ended early. Beside the stream, because that may be full.
    pub(crate) failure: OnceLock<Failure>,
}

impl Events {
    /// A stream for request `id` with room for `capacity` events.
    pub(crate) fn channel(
        id: RequestId,
        choices: usize,
        capacity: usize,
        inbox: &Arc<Inbox>,
    ) -> (mpsc::Sender<Event>, Arc<Link>, Self) {
        let (sender, receiver) = mpsc::channel(capacity);
        let link = Arc::new(Link { id, inbox: Arc::clone(inbox), paused: PauseFlag::new(), failure: OnceLock::new() });
        let events = Self { receiver, link: Arc::clone(&link), open_choices: choices, reader: None };
        (sender, link, events)
    }

    /// The next event; `None` after the last. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event> {
        let event = poll_fn(|cx| self.poll_recv(cx)).await;
        self.received(event)
    }

    /// The next event, for threads that are not async tasks; `None` after the last.
    ///
    /// # Panics
    /// If called from within an async task.
    pub fn blocking_recv(&mut self) -> Option<Event> {
        let event = self.receiver.blocking_recv();
        self.received(event)
    }

    /// The next event if there is one already; `None` after the last, too.
    pub fn try_recv(&mut self) -> Option<Event> {
        match self.receiver.try_recv() {
            Ok(event) => self.received(Some(event)),
            Err(TryRecvError::Disconnected) => self.received(None),
            Err(TryRecvError::Empty) => None,
        }
    }

    /// Completes a choice here (a stop string was found). A [`Event::Finished`] with [`FinishReason::Stopped`] follows,
    /// perhaps after some more tokens; none follows if the choice was complete already.
    pub fn stop(&self, choice: usize) {
        self.link.inbox.push(Message::Stop { id: self.link.id, choice });
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let known = self.reader.take().filter(|reader| reader.is_behind(cx.waker()));
        let reader = self.reader.insert(known.unwrap_or_else(|| Reader::new(cx.waker())));
        let waker = Waker::from(Arc::clone(reader));
        self.receiver.poll_recv(&mut Context::from_waker(&waker))
    }

    fn received(&mut self, event: Option<Event>) -> Option<Event> {
        match &event {
            Some(Event::Finished(_)) => self.open_choices -= 1,
            Some(_) => {}
            None if self.open_choices > 0 => {
                self.open_choices = 0;
                let failure = self.link.failure.get().cloned();
                return Some(Event::Failed(failure.unwrap_or(Failure::EngineDead)));
            }
            None => {}
        }
        if self.link.paused.take() {
            self.link.inbox.push(Message::Resume { id: self.link.id });
        }
        event
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if self.open_choices > 0 {
            self.link.inbox.push(Message::Cancel { id: self.link.id });
        }
    }
}
