//! From a model's tokens to text: whole characters, stop strings, one piece at a time.
//!
//! [`Generation`] turns an engine's events into [`Output`]s that a wire format can write down. It knows no wire format.

use std::sync::Arc;
use std::time::Duration;

use engine::{Event, Events, Failure, FinishReason, PromptLogprob, Request, SubmitError, Token, Usage};
use tokenizer::{DecodeStream, StopStrings};
use tokio::time::{Instant, timeout_at};

use crate::fleet::Lease;
use crate::metrics::ActiveRequest;

/// The engine looks at deadlines between steps; a step that takes this much longer hangs, and nobody shall hang with
/// it.
const ENGINE_GRACE: Duration = Duration::from_secs(2);

/// A request that runs. Dropping it cancels it.
pub(crate) struct Generation {
    /// Goes before the lease: who unloads the model shall find the request cancelled.
    events: Events,
    model: Arc<Lease>,
    choices: Vec<Choice>,
    ending: Vec<u32>,
    time: AnswerTime,
    _active: ActiveRequest,
}

/// The time for an answer.
#[derive(Clone, Copy)]
struct AnswerTime {
    deadline: Duration,
    /// When nothing is waited for any more.
    give_up: Instant,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Output {
    /// The request left the queue.
    Started,
    /// One entry a prompt token, when asked for.
    PromptLogprobs(Vec<PromptLogprob>),
    /// More text of a choice.
    Delta(Delta),
    /// The last text of a choice, and its end.
    Finished(Delta, Ending, Usage),
    /// The request is over, complete or not.
    Failed(Failure),
}

/// More text of a choice, with the tokens that it is made of.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    pub(crate) choice: usize,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
}

/// Why a choice is complete, in the words of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Stop,
    Length,
}

impl Ending {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// How a choice's text ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextEnd {
    /// Strings at which the text ends; they are not part of it.
    pub(crate) strings: Vec<String>,
    /// Tokens at which it ends; they have no text.
    pub(crate) tokens: Vec<u32>,
}

struct Choice {
    decode: DecodeStream,
    stop: StopStrings,
    stopped: bool,
    /// Tokens whose text has not come out yet.
    held: Vec<Token>,
}

impl Generation {
    /// Hands a request to the engine.
    pub(crate) fn start(
        model: &Arc<Lease>,
        request: Request,
        end: &TextEnd,
        active: ActiveRequest,
    ) -> Result<Self, SubmitError> {
        let started = Self::start_all(model, vec![(request, active)], end)?;
        Ok(started.into_iter().next().expect("a request that was taken runs"))
    }

    /// Hands the requests of a call to the engine: all of them or none.
    pub(crate) fn start_all(
        model: &Arc<Lease>,
        requests: Vec<(Request, ActiveRequest)>,
        end: &TextEnd,
    ) -> Result<Vec<Self>, SubmitError> {
        let (requests, active): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
        let choices_of = |request: &Request| (0..request.choices()).map(|_| Choice::new(model, end)).collect();
        let choices: Vec<Vec<Choice>> = requests.iter().map(choices_of).collect();
        let times: Vec<AnswerTime> = requests.iter().map(AnswerTime::of).collect();
        let events = model.engine.submit_all(requests)?;
        let started = events.into_iter().zip(choices).zip(times).zip(active);
        let started = started.map(|(((events, choices), time), active)| Self {
            model: Arc::clone(model),
            events,
            choices,
            ending: end.tokens.clone(),
            time,
            _active: active,
        });
        Ok(started.collect())
    }

    /// What happens next; `None` after everything. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Output> {
        loop {
            let Ok(event) = timeout_at(self.time.give_up, self.events.recv()).await else {
                let limit_ms = self.time.deadline.as_millis() as u64;
                return Some(Output::Failed(Failure::Deadline { limit_ms }));
            };
            match event? {
                Event::Started(_) => return Some(Output::Started),
                Event::PromptLogprobs(logprobs) => return Some(Output::PromptLogprobs(logprobs)),
                Event::Token(token) => {
                    if let Some(delta) = self.token(token) {
                        return Some(Output::Delta(delta));
                    }
                }
                Event::Finished(finished) => {
                    let choice = &mut self.choices[finished.choice];
                    let ending = match finished.reason {
                        FinishReason::Length if !choice.stopped => Ending::Length,
                        _ => Ending::Stop,
                    };
                    return Some(Output::Finished(choice.rest(finished.choice), ending, finished.usage));
                }
                Event::Failed(failure) => return Some(Output::Failed(failure)),
            }
        }
    }

    /// The model that runs it.
    pub(crate) fn model(&self) -> &Arc<Lease> {
        &self.model
    }

    fn token(&mut self, token: Token) -> Option<Delta> {
        let index = token.choice;
        let choice = &mut self.choices[index];
        if choice.stopped || self.ending.contains(&token.id) {
            return None;
        }
        let part = choice.decode.push(token.id);
        choice.held.push(token);
        let outcome = choice.stop.push(&part);
        if outcome.matched.is_some() {
            choice.stopped = true;
            self.events.stop(index);
        }
        (!outcome.text.is_empty()).then(|| Delta {
            choice: index,
            text: outcome.text,
            tokens: std::mem::take(&mut choice.held),
        })
    }
}

impl AnswerTime {
    fn of(request: &Request) -> Self {
        let deadline = request.deadline().unwrap_or(Duration::MAX);
        let left = deadline.saturating_sub(request.waited());
        let now = Instant::now();
        // Too far away to be told from never.
        let never = now + Duration::from_secs(86_400 * 365);
        let give_up = left.checked_add(ENGINE_GRACE).and_then(|time| now.checked_add(time)).unwrap_or(never);
        Self { deadline, give_up }
    }
}

impl Choice {
    fn new(model: &Lease, end: &TextEnd) -> Self {
        Self {
            decode: model.tokenizer.continuation(),
            stop: StopStrings::new(end.strings.iter().cloned()),
            stopped: false,
            held: Vec::new(),
        }
    }

    /// Everything that was held back, at the end.
    fn rest(&mut self, index: usize) -> Delta {
        if self.stopped {
            return Delta { choice: index, ..Delta::default() };
        }
        let last = self.decode.finish();
        let outcome = self.stop.push(&last);
        let mut text = outcome.text;
        if outcome.matched.is_none() {
            text += &self.stop.finish();
        }
        Delta { choice: index, text, tokens: std::mem::take(&mut self.held) }
    }
}
