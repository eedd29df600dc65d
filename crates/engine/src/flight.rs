//! A request between submission and end: its choices, its times, its event stream.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::cache_end::CacheEnd;
use crate::event::{Event, Failure, FinishReason, Finished, Link, PromptLogprob, Started, Usage};
use crate::inbox::{RequestId, Submission, Ticket};
use crate::kv::Hit;
use crate::observer::RequestReport;
use crate::request::CachePolicy;
use crate::sampler::{ChoiceState, Sampling};
use crate::scheduler::NewSequence;
use crate::sequence::SeqId;

/// A request between submission and end.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) id: RequestId,
    pub(crate) sampling: Sampling,
    pub(crate) ends: Ends,
    pub(crate) choices_wanted: usize,
    pub(crate) top_logprobs: usize,
    pub(crate) prompt_logprobs: Option<usize>,
    /// Log probabilities of the prompt so far, until they are sent.
    pub(crate) prompt_report: Vec<PromptLogprob>,
    pub(crate) prompt_len: usize,
    pub(crate) choices: Vec<Choice>,
    pub(crate) stream: Stream,
    pub(crate) submitted: Duration,
    pub(crate) deadline: Option<Duration>,
    /// How long before submission it arrived.
    pub(crate) waited: Duration,
    pub(crate) started: Option<Duration>,
    /// Whether it was counted among the finished.
    pub(crate) is_counted: bool,
    ticket: Ticket,
    first_token: Option<Duration>,
    pub(crate) hit: Hit,
}

/// What ends a choice.
#[derive(Debug)]
pub(crate) struct Ends {
    stop_tokens: Vec<u32>,
    /// Ids with which the model ends its text; none if the request ignores them.
    eos_tokens: Arc<[u32]>,
    min_tokens: usize,
    max_tokens: usize,
}

/// One of a request's continuations.
#[derive(Debug)]
pub(crate) struct Choice {
    /// `None` once it is complete.
    pub(crate) seq: Option<SeqId>,
    pub(crate) state: ChoiceState,
    pub(crate) generated: usize,
    last_token: Duration,
}

/// When a token came, relative to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timing {
    /// The first of the request's first choice.
    First { since_submit: Duration, prefill: Duration },
    /// The first of another choice.
    FirstOfChoice,
    /// A later one.
    Later { gap: Duration },
}

impl Flight {
    /// Takes a submission apart: what the scheduler needs, the first choice, and the rest, which is to be given that
    /// choice with its sequence.
    pub(crate) fn new(submission: Submission, eos_tokens: &Arc<[u32]>) -> (Self, Choice, NewSequence) {
        let Submission { id, request, max_tokens, submitted, events, link, ticket } = submission;
        let prompt_len = request.prompt.len();
        let wants_prompt = request.prompt_logprobs.is_some();
        let new = NewSequence {
            request: id,
            max_len: prompt_len + max_tokens,
            prompt: request.prompt,
            priority: request.priority,
            tenant: request.tenant,
            // A cached prefix would have no logits to report.
            cache: if wants_prompt { CachePolicy::Off } else { request.cache },
            prompt_logits: wants_prompt,
        };
        let seed = request.sampling.seed.unwrap_or_else(|| RandomState::new().hash_one(id.0));
        let first = Choice::new(ChoiceState::new(seed, 0, request.mask));
        let prompt_report = if wants_prompt { Vec::with_capacity(prompt_len) } else { Vec::new() };
        let flight = Self {
            id,
            sampling: request.sampling,
            ends: Ends {
                stop_tokens: request.stop_tokens,
                eos_tokens: if request.ignore_eos { Arc::default() } else { Arc::clone(eos_tokens) },
                min_tokens: request.min_tokens,
                max_tokens,
            },
            choices_wanted: request.choices,
            top_logprobs: request.top_logprobs,
            prompt_logprobs: request.prompt_logprobs,
            prompt_report,
            prompt_len,
            choices: Vec::new(),
            stream: Stream { sender: events, link, backlog: VecDeque::new(), paused_since: None },
            submitted,
            deadline: request.deadline,
            waited: request.waited,
            started: None,
            is_counted: false,
            ticket,
            first_token: None,
            hit: Hit { tokens: 0, end: CacheEnd::Disabled },
        };
        (flight, first, new)
    }

    /// Another choice of the request. `fork` makes its sequence, after everything that may panic: a sequence without a
    /// choice would be nobody's.
    pub(crate) fn add_choice(&mut self, fork: impl FnOnce() -> SeqId) {
        let mut choice = Choice::new(self.choices[0].state.fork(self.choices.len()));
        choice.seq = Some(fork());
        self.choices.push(choice);
    }

    /// The request got its first turn.
    pub(crate) fn start(&mut self, hit: Hit, now: Duration) {
        self.started = Some(now);
        self.hit = hit;
        self.ticket.dequeue();
        let (queue, prompt_tokens) = (now.saturating_sub(self.submitted), self.prompt_len);
        let (cached_tokens, cache_end) = (hit.tokens, hit.end);
        self.stream.send(Event::Started(Started { queue, prompt_tokens, cached_tokens, cache_end }));
    }

    /// A choice has a new token. Says when it came, and whether it was the last.
    pub(crate) fn push(&mut self, choice: usize, id: u32, now: Duration) -> (Timing, Option<FinishReason>) {
        let started = self.started.unwrap_or(self.submitted);
        let state = &mut self.choices[choice];
        state.generated += 1;
        let gap = now.saturating_sub(std::mem::replace(&mut state.last_token, now));
        let timing = match self.first_token {
            None => {
                self.first_token = Some(now);
                Timing::First { since_submit: now.saturating_sub(self.submitted), prefill: now.saturating_sub(started) }
            }
            Some(_) if state.generated == 1 => Timing::FirstOfChoice,
            Some(_) => Timing::Later { gap },
        };
        (timing, self.ends.after(id, state.generated))
    }

    /// The event that ends a choice.
    pub(crate) fn finished(&self, choice: usize, reason: FinishReason) -> Event {
        let usage = Usage {
            prompt_tokens: self.prompt_len,
            completion_tokens: self.choices[choice].generated,
            cached_tokens: self.hit.tokens,
            cache_end: self.hit.end,
        };
        Event::Finished(Finished { choice, reason, usage })
    }

    /// Sequences of the choices that are not complete.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = SeqId> + '_ {
        self.choices.iter().filter_map(|choice| choice.seq)
    }

    /// Whether all choices that the request asked for are complete.
    pub(crate) fn is_complete(&self) -> bool {
        self.choices.len() == self.choices_wanted && self.choices.iter().all(|choice| choice.seq.is_none())
    }

    /// What a complete request took.
    pub(crate) fn report(&self, reason: FinishReason, now: Duration) -> RequestReport {
        let started = self.started.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        RequestReport {
            reason,
            prompt_tokens: self.prompt_len,
            completion_tokens: self.choices.iter().map(|choice| choice.generated).sum(),
            cached_tokens: self.hit.tokens,
            choices: self.choices.len(),
            max_tokens: self.ends.max_tokens,
            queue: started.saturating_sub(self.submitted),
            prefill: first_token.saturating_sub(started),
            decode: now.saturating_sub(first_token),
            total: now.saturating_sub(self.submitted),
        }
    }
}

impl Ends {
    /// Why a choice ends with its `generated`th token.
    fn after(&self, id: u32, generated: usize) -> Option<FinishReason> {
        if self.eos_tokens.contains(&id) {
            Some(FinishReason::EndOfText(id))
        } else if self.stop_tokens.contains(&id) {
            Some(FinishReason::StopToken(id))
        } else {
            (generated == self.max_tokens).then_some(FinishReason::Length)
        }
    }

    /// Tokens that must not come after `generated` ones, so that the choice reaches its least length.
    pub(crate) fn banned(&self, generated: usize) -> [&[u32]; 2] {
        if generated < self.min_tokens { [&self.eos_tokens, &self.stop_tokens] } else { [&[], &[]] }
    }

    /// Whether there are such tokens.
    pub(crate) fn bans(&self, generated: usize) -> bool {
        self.banned(generated).iter().any(|ids| !ids.is_empty())
    }
}

impl Choice {
    fn new(state: ChoiceState) -> Self {
        Self { seq: None, state, generated: 0, last_token: Duration::ZERO }
    }
}

/// The sending end of a request's events.
#[derive(Debug)]
pub(crate) struct Stream {
    sender: mpsc::Sender<Event>,
    link: Arc<Link>,
    /// Events that found the stream full. A step adds a few for each choice, and no further step runs meanwhile.
    backlog: VecDeque<Event>,
    pub(crate) paused_since: Option<Duration>,
}

impl Stream {
    /// Sends an event, or keeps it until there is room.
    pub(crate) fn send(&mut self, event: Event) {
        if !self.backlog.is_empty() {
            self.backlog.push_back(event);
            return;
        }
        if let Err(TrySendError::Full(event)) = self.sender.try_send(event) {
            self.backlog.push_back(event);
        }
        // If the receiver is gone, a message to cancel is on its way.
    }

    /// Sends what was kept. Says whether all is sent; if not, the receiver will post a message when it has made room.
    pub(crate) fn flush(&mut self) -> bool {
        if self.backlog.is_empty() {
            return true;
        }
        self.link.paused.send(|| {
            while let Some(event) = self.backlog.pop_front() {
                if let Err(TrySendError::Full(event)) = self.sender.try_send(event) {
                    self.backlog.push_front(event);
                    return false;
                }
            }
            true
        })
    }

    /// Ends the stream with a failure. The receiver hears it after what it has not read yet, however full the stream
    /// is.
    pub(crate) fn fail(self, failure: Failure) {
        // Only this end sets it, and only here, where it ends.
        let _ = self.link.failure.set(failure);
    }
}
