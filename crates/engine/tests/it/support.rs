//! Requests, and what comes of them.

use std::path::{Path, PathBuf};

use engine::{Draft, Engine, Event, Events, Failure, Finished, Request, SamplingDraft};

/// What a choice became.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) tokens: Vec<u32>,
    pub(crate) logprobs: Vec<f32>,
    pub(crate) finished: Option<Finished>,
}

pub(crate) fn greedy(prompt: &[u32], max_tokens: i64) -> Draft {
    let sampling = SamplingDraft { temperature: 0.0, ..SamplingDraft::default() };
    Draft { prompt: prompt.to_vec(), max_tokens: Some(max_tokens), sampling, ..Draft::default() }
}

pub(crate) fn submit(engine: &Engine, draft: Draft) -> Events {
    let request = Request::check(draft, engine.limits()).expect("a valid draft");
    engine.submit(request).expect("room in the queue")
}

/// Waits for the end of a request of one choice.
pub(crate) fn finish(mut events: Events) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    while let Some(event) = events.blocking_recv() {
        match event {
            Event::Started(_) | Event::PromptLogprobs(_) => {}
            Event::Token(token) => {
                outcome.tokens.push(token.id);
                outcome.logprobs.push(token.logprob);
            }
            Event::Finished(finished) => outcome.finished = Some(finished),
            Event::Failed(failure) => return Err(failure),
        }
    }
    Ok(outcome)
}

/// A folder of the shared test data, or `None` with a visible line.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("FRONTIER_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
    let path = root.join("data").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}
