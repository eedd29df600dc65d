//! `POST /v1/completions`: text or token ids in, one prompt or several.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use engine::{Draft, Engine, Tenant};
use futures_util::stream::{SelectAll, select_all, unfold};
use futures_util::{Stream, StreamExt};
use serde_json::Value;
use std::pin::Pin;
use tokenizer::ControlTokens;

use super::overflow::{cut_tokens, prompt_room, refuse_hopeless};
use super::params::{IGNORED, Params, read_model};
use super::sse::{self, DONE};
use super::wire::{CompletionChoice, CompletionJson, CompletionLogprobs, TracedPrompt, UsageJson};
use crate::app::App;
use crate::edge::read_json;
use crate::error::ApiError;
use crate::fields::{Fields, shown};
use crate::fleet::Lease;
use crate::generate::{Delta, Generation, Output};
use crate::ids::{new_id, unix_seconds};

pub(super) async fn completions(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = read_json(request, &app.config.requests).await?;
    let is_stream = sse::is_asked_for(&body);
    let answer = async move {
        let mut fields = Fields::of_body(body)?;
        let model = read_model(&mut fields, &app).await?;
        let completion = CompletionRequest::read(fields, model, &app, tenant)?;
        completion.start(&app).await?.respond().await
    };
    sse::patiently(is_stream, answer).await
}

/// A prompt as it came.
enum PromptInput {
    Text(String),
    Ids(Vec<u32>),
}

/// A prompt as the model sees it, and its text.
struct PromptTokens {
    ids: Vec<u32>,
    text: String,
    /// Tokens at the start that were left out because the context had no room.
    dropped: usize,
}

/// A request that may be tokenized.
struct CompletionRequest {
    model: Arc<Lease>,
    prompts: Vec<PromptInput>,
    echo: bool,
    logprobs: Option<i64>,
    params: Params,
}

impl CompletionRequest {
    fn read(mut fields: Fields, model: Arc<Lease>, app: &App, tenant: Tenant) -> Result<Self, ApiError> {
        let limits = &app.config.requests;
        let prompts = read_prompts(&mut fields, limits.max_prompts, &model.engine)?;
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let logprobs = fields.integer("logprobs", 0..=limits.max_completion_logprobs as i64)?;
        let best_of = fields.value("best_of");
        if let Some(suffix) = fields.text("suffix")?.filter(|suffix| !suffix.is_empty()) {
            let message = format!("suffix is {}: this server does not fill in the middle", shown(&suffix.into()));
            return Err(ApiError::unsupported("suffix", message));
        }
        let mut params = Params::read(&mut fields, app, &model, tenant)?;
        let n = params.draft.n.unwrap_or(1);
        if let Some(best_of) = best_of.filter(|best_of| best_of.as_f64() != Some(n as f64)) {
            let message =
                format!("best_of is {}: must equal n, {n}: this server does not rank choices", shown(&best_of));
            return Err(ApiError::unsupported("best_of", message));
        }
        if params.cache_debug && prompts.len() > 1 {
            return Err(fields.wrong("cache_debug", "true", "allowed only with one prompt"));
        }
        params.draft.top_logprobs = logprobs.unwrap_or(0);
        params.draft.prompt_logprobs = logprobs.filter(|_| echo);
        fields.finish(app.config.strict, IGNORED)?;
        Ok(Self { model, prompts, echo, logprobs, params })
    }

    /// Tokenizes every prompt and submits them together.
    async fn start(self, app: &App) -> Result<Answer, ApiError> {
        let Self { model, prompts, echo, logprobs, mut params } = self;
        let (tokenizer, room) = (Arc::clone(&model), prompt_room(&params, &model));
        let prompts = app.text_job(&mut params.draft, move || tokenize(&tokenizer, prompts, echo, room)).await?;
        let dropped = prompts.iter().map(|prompt| prompt.dropped).sum();
        let hidden =
            |ids: &[u32]| usize::from(model.tokenizer.adds_bos() && ids.first().copied() == model.tokenizer.bos());
        let traced = prompts.first().filter(|_| params.cache_debug);
        let traced = traced.map(|prompt| TracedPrompt::new(&model, &prompt.ids, hidden(&prompt.ids)));
        let mut requests = Vec::new();
        let mut parts = Vec::new();
        let mut choices_per_prompt = 0;
        for prompt in prompts {
            let request =
                engine::Request::check(Draft { prompt: prompt.ids, ..copy(&params.draft) }, model.engine.limits())?;
            choices_per_prompt = request.choices();
            parts.extend((0..choices_per_prompt).map(|_| Part::new(&prompt.text)));
            requests.push((request, app.metrics.active_request()));
        }
        let generations = Generation::start_all(&model, requests, &params.end)
            .map_err(|error| ApiError::not_submitted(error, "prompt", params.max_tokens_field))?;
        let outputs = (0..).step_by(choices_per_prompt).zip(generations);
        let outputs = select_all(outputs.map(|(first, generation)| numbered(generation, first)));
        Ok(Answer {
            open: parts.len(),
            parts,
            choices_per_prompt,
            outputs,
            model,
            id: new_id("cmpl"),
            created: unix_seconds(),
            logprobs: logprobs.is_some(),
            stream: params.stream,
            include_usage: params.include_usage,
            traced,
            usage: UsageJson::with_dropped(dropped),
        })
    }
}

/// `prompt`: a string, a list of strings, a list of token ids, or a list of such lists.
fn read_prompts(fields: &mut Fields, max: usize, engine: &Engine) -> Result<Vec<PromptInput>, ApiError> {
    const NAME: &str = "prompt";
    const ALLOWED: &str = "must be a string, a list of strings, a list of token ids, or a list of such lists";
    let (vocab, capacity) = (engine.limits().vocab, engine.capacity());
    let items = match fields.value(NAME) {
        Some(Value::String(text)) => return Ok(vec![PromptInput::Text(text)]),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(fields.wrong(NAME, &shown(&other), ALLOWED)),
        None => return Err(fields.wrong(NAME, "missing", ALLOWED)),
    };
    if items.first().is_some_and(Value::is_number) {
        return Ok(vec![PromptInput::Ids(fields.as_token_ids(NAME, &items, vocab)?)]);
    }
    if !(1..=max).contains(&items.len()) {
        let value = format!("a list of {}", items.len());
        return Err(fields.wrong(NAME, &value, &format!("allowed are 1 to {max} prompts")));
    }
    if items.len() > capacity {
        let value = format!("a list of {}", items.len());
        return Err(fields.wrong(
            NAME,
            &value,
            &format!("at most {capacity} requests can run and wait here at a time"),
        ));
    }
    let read = |(at, item): (usize, Value)| match item {
        Value::String(text) => Ok(PromptInput::Text(text)),
        Value::Array(ids) => fields.as_token_ids(&format!("{NAME}[{at}]"), &ids, vocab).map(PromptInput::Ids),
        other => Err(fields.wrong_entry(NAME, at, &shown(&other), "must be a string or a list of token ids")),
    };
    items.into_iter().enumerate().map(read).collect()
}

/// The prompts' tokens; with `echo` their texts, too; cut to `room` tokens if there is such a bound.
fn tokenize(
    model: &Lease,
    prompts: Vec<PromptInput>,
    echo: bool,
    room: Option<usize>,
) -> Result<Vec<PromptTokens>, ApiError> {
    let tokenizer = &model.tokenizer;
    let tokenize = |prompt: PromptInput| {
        let (mut ids, text) = match prompt {
            PromptInput::Ids(ids) => (ids, None),
            PromptInput::Text(text) => {
                if room.is_none() {
                    refuse_hopeless("prompt", text.len(), model)?;
                }
                let ids = tokenizer.encode_completion(&text, ControlTokens::Parse);
                (ids.map_err(|error| ApiError::invalid("prompt", error.to_string()))?, Some(text))
            }
        };
        let dropped = room.map_or(0, |room| cut_tokens(&mut ids, room, tokenizer.bos()));
        let text = match text {
            _ if !echo => String::new(),
            Some(text) if dropped == 0 => text,
            _ => tokenizer.decode_with_control(&ids),
        };
        Ok(PromptTokens { ids, text, dropped })
    };
    prompts.into_iter().map(tokenize).collect()
}

/// The draft again, for another prompt.
fn copy(draft: &Draft) -> Draft {
    Draft {
        prompt: Vec::new(),
        max_tokens: draft.max_tokens,
        min_tokens: draft.min_tokens,
        deadline: draft.deadline,
        waited: draft.waited,
        stop_tokens: draft.stop_tokens.clone(),
        ignore_eos: draft.ignore_eos,
        n: draft.n,
        top_logprobs: draft.top_logprobs,
        prompt_logprobs: draft.prompt_logprobs,
        priority: draft.priority,
        tenant: draft.tenant,
        no_cache: draft.no_cache,
        cache_salt: draft.cache_salt.clone(),
        sampling: draft.sampling.clone(),
        mask: None,
    }
}

/// What happened, and the number of the first choice of the prompt to which it happened.
type NumberedOutputs = Pin<Box<dyn Stream<Item = (usize, Output)> + Send>>;

fn numbered(generation: Generation, first: usize) -> NumberedOutputs {
    Box::pin(unfold(generation, move |mut generation| async move {
        let output = generation.next().await?;
        Some(((first, output), generation))
    }))
}

/// A choice so far.
struct Part {
    /// The echoed prompt, until it is written.
    echo: String,
    text: String,
    logprobs: CompletionLogprobs,
    /// Where in the text the next token starts, in characters.
    offset: usize,
    finish_reason: Option<&'static str>,
}

impl Part {
    fn new(echo: &str) -> Self {
        Self {
            echo: echo.to_owned(),
            text: String::new(),
            logprobs: CompletionLogprobs::default(),
            offset: 0,
            finish_reason: None,
        }
    }
}

/// An answer on its way.
struct Answer {
    model: Arc<Lease>,
    outputs: SelectAll<NumberedOutputs>,
    /// One a choice, prompt by prompt.
    parts: Vec<Part>,
    choices_per_prompt: usize,
    /// Choices that are not complete.
    open: usize,
    id: String,
    created: u64,
    logprobs: bool,
    stream: bool,
    include_usage: bool,
    /// The prompt, when the usage is to tell why the prefix cache had no more.
    traced: Option<TracedPrompt>,
    usage: UsageJson,
}

impl Answer {
    async fn respond(mut self) -> Result<Response, ApiError> {
        if !self.stream {
            while let Some((first, output)) = self.outputs.next().await {
                self.take(first, output)?;
            }
            return Ok(Json(self.whole()).into_response());
        }
        // What fails before the first token still has a status of its own.
        let first = match self.outputs.next().await {
            Some((_, Output::Failed(failure))) => return Err(failure.into()),
            first => first,
        };
        let frames = unfold(Some((self, first)), async |state| {
            let (mut answer, pending) = state?;
            let (first, output) = match pending {
                Some(pending) => pending,
                None => answer.outputs.next().await?,
            };
            match answer.take(first, output) {
                Ok(choice) => {
                    let mut frames = choice.map(|choice| answer.chunk(choice)).unwrap_or_default();
                    if answer.open > 0 {
                        return Some((frames, Some((answer, None))));
                    }
                    if answer.include_usage {
                        frames += &sse::frame(&answer.json(Vec::new(), Some(Some(&answer.usage))));
                    }
                    Some((frames + DONE, None))
                }
                Err(error) => Some((sse::error_frame(&error), None)),
            }
        });
        Ok(sse::response(Box::pin(frames)))
    }

    /// Adds what happened to its choice; returns that choice when there is something new to write.
    fn take(&mut self, first: usize, output: Output) -> Result<Option<usize>, ApiError> {
        let (delta, finished) = match output {
            Output::Started => return Ok(None),
            Output::PromptLogprobs(prompt) => {
                let part = &mut self.parts[first];
                part.logprobs.extend_prompt(&prompt, &self.model.tokenizer, &mut part.offset);
                let (logprobs, offset) = (part.logprobs.clone(), part.offset);
                for sibling in &mut self.parts[first + 1..first + self.choices_per_prompt] {
                    (sibling.logprobs, sibling.offset) = (logprobs.clone(), offset);
                }
                return Ok(None);
            }
            Output::Delta(delta) => (delta, None),
            Output::Finished(delta, ending, usage) => (delta, Some((ending, usage))),
            Output::Failed(failure) => return Err(failure.into()),
        };
        let Delta { choice, text, tokens } = delta;
        let part = &mut self.parts[first + choice];
        if !part.echo.is_empty() {
            part.text = std::mem::take(&mut part.echo);
            part.offset = part.offset.max(part.text.chars().count());
        }
        part.text += &text;
        if self.logprobs {
            part.logprobs.extend(&tokens, &self.model.tokenizer, &mut part.offset);
        }
        if let Some((ending, usage)) = finished {
            part.finish_reason = Some(ending.name());
            self.usage.add_choice(&usage, choice == 0, self.traced.as_ref());
            self.open -= 1;
        }
        Ok(Some(first + choice))
    }

    fn whole(&mut self) -> CompletionJson<'_> {
        let with_logprobs = self.logprobs;
        let parts = std::mem::take(&mut self.parts).into_iter().enumerate();
        let choices = parts.map(|(index, part)| CompletionChoice {
            index,
            text: part.text,
            logprobs: with_logprobs.then_some(part.logprobs),
            finish_reason: part.finish_reason,
        });
        let choices = choices.collect();
        self.json(choices, Some(Some(&self.usage)))
    }

    /// A frame with what is new of a choice.
    fn chunk(&mut self, index: usize) -> String {
        let part = &mut self.parts[index];
        let choice = CompletionChoice {
            index,
            text: std::mem::take(&mut part.text),
            logprobs: self.logprobs.then(|| std::mem::take(&mut part.logprobs)),
            finish_reason: part.finish_reason,
        };
        let usage = self.include_usage.then_some(None);
        sse::frame(&self.json(vec![choice], usage))
    }

    fn json<'a>(&'a self, choices: Vec<CompletionChoice>, usage: Option<Option<&'a UsageJson>>) -> CompletionJson<'a> {
        CompletionJson {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model.name,
            choices,
            usage,
        }
    }
}
