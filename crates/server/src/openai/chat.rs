//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use engine::Tenant;
use futures_util::stream::unfold;
use serde_json::{Map, Value};
use tokenizer::RenderInput;

use super::messages::read_messages;
use super::overflow::{encode_within, prompt_room, refuse_hopeless};
use super::params::{IGNORED, Params, read_model};
use super::sse::{self, DONE};
use super::wire::{ChatChoice, ChatJson, ChatLogprobs, ChatMessage, ChunkChoice, ChunkDelta, TracedPrompt, UsageJson};
use crate::app::App;
use crate::config::RequestLimits;
use crate::edge::read_json;
use crate::error::ApiError;
use crate::fields::{Fields, json_depth, shown};
use crate::fleet::Lease;
use crate::generate::{Delta, Ending, Generation, Output};
use crate::ids::{new_id, unix_seconds};

/// Fields that change nothing here, besides those of [`IGNORED`].
const CHAT_IGNORED: &[&str] = &["parallel_tool_calls", "reasoning_effort", "verbosity", "prediction"];

pub(super) async fn chat_completions(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = read_json(request, &app.config.requests).await?;
    let is_stream = sse::is_asked_for(&body);
    let answer = async move {
        let mut fields = Fields::of_body(body)?;
        let model = read_model(&mut fields, &app).await?;
        let chat = ChatRequest::read(fields, model, &app, tenant)?;
        chat.start(&app).await?.respond().await
    };
    sse::patiently(is_stream, answer).await
}

/// A request that may be rendered.
struct ChatRequest {
    model: Arc<Lease>,
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    template_arguments: Option<Map<String, Value>>,
    add_generation_prompt: bool,
    logprobs: bool,
    params: Params,
}

impl ChatRequest {
    fn read(mut fields: Fields, model: Arc<Lease>, app: &App, tenant: Tenant) -> Result<Self, ApiError> {
        let limits = &app.config.requests;
        let messages = read_messages(fields.value("messages"), limits.max_messages)?;
        refuse_unsupported(&mut fields)?;
        let tools = read_tools(&mut fields, limits)?;
        let logprobs = fields.boolean("logprobs")?.unwrap_or(false);
        let top_logprobs = fields.integer("top_logprobs", 0..=limits.max_top_logprobs as i64)?;
        if let Some(top) = top_logprobs.filter(|top| *top > 0 && !logprobs) {
            return Err(fields.wrong("top_logprobs", &top.to_string(), "allowed only together with logprobs: true"));
        }
        let mut params = Params::read(&mut fields, app, &model, tenant)?;
        params.draft.top_logprobs = top_logprobs.unwrap_or(0);
        let request = Self {
            model,
            messages,
            tools,
            documents: fields.objects("documents", limits.max_documents)?,
            template_arguments: fields.object("chat_template_kwargs")?,
            add_generation_prompt: fields.boolean("add_generation_prompt")?.unwrap_or(true),
            logprobs,
            params,
        };
        fields.finish(app.config.strict, &[IGNORED, CHAT_IGNORED].concat())?;
        Ok(request)
    }

    /// Renders, tokenizes and submits.
    async fn start(self, app: &App) -> Result<Answer, ApiError> {
        let active = app.metrics.active_request();
        let Self { model, messages, tools, documents, template_arguments, add_generation_prompt, logprobs, mut params } =
            self;
        let (renderer, room) = (Arc::clone(&model), prompt_room(&params, &model));
        let (prompt, dropped) = app
            .text_job(&mut params.draft, move || {
                let template = renderer.template.as_ref().ok_or_else(|| {
                    ApiError::unsupported("messages", "the model has no chat template; use /v1/completions")
                })?;
                encode_within(&messages, room, |messages| {
                    let prompt = template.render(&RenderInput {
                        messages,
                        tools: tools.as_deref(),
                        documents: documents.as_deref(),
                        add_generation_prompt,
                        extra: template_arguments.as_ref(),
                        now: None,
                    })?;
                    if room.is_none() {
                        refuse_hopeless("messages", prompt.text().len(), &renderer)?;
                    }
                    let ids = renderer.tokenizer.encode_prompt(&prompt);
                    ids.map_err(|error| ApiError::invalid("messages", error.to_string()))
                })
            })
            .await?;
        let traced = params.cache_debug.then(|| TracedPrompt::new(&model, &prompt, 0));
        let draft = engine::Draft { prompt, ..params.draft };
        let request = engine::Request::check(draft, model.engine.limits())?;
        let choices = request.choices();
        let generation = Generation::start(&model, request, &params.end, active);
        let generation =
            generation.map_err(|error| ApiError::not_submitted(error, "messages", params.max_tokens_field))?;
        Ok(Answer {
            generation,
            id: new_id("chatcmpl"),
            created: unix_seconds(),
            choices,
            open: choices,
            logprobs,
            stream: params.stream,
            include_usage: params.include_usage,
            traced,
            usage: UsageJson::with_dropped(dropped),
        })
    }
}

/// `tools`: functions, each with a schema of its parameters within limits.
fn read_tools(fields: &mut Fields, limits: &RequestLimits) -> Result<Option<Vec<Value>>, ApiError> {
    const NAME: &str = "tools";
    let (max_bytes, max_depth) = (limits.max_schema_bytes, limits.max_schema_depth);
    let tools = fields.objects(NAME, limits.max_tools)?.filter(|tools| !tools.is_empty());
    for (at, tool) in tools.iter().flatten().enumerate() {
        if !is_function(tool) {
            let allowed = "must be {\"type\": \"function\", \"function\": {\"name\": a string, ...}}";
            return Err(fields.wrong_entry(NAME, at, &shown(tool), allowed));
        }
        let Some(schema) = tool["function"].get("parameters").map(Value::to_string) else { continue };
        if schema.len() > max_bytes {
            let value = format!("a function with parameters of {} bytes", schema.len());
            return Err(fields.wrong_entry(NAME, at, &value, &format!("at most {max_bytes} are allowed")));
        }
        let depth = json_depth(schema.as_bytes());
        if depth > max_depth {
            let value = format!("a function with parameters that nest {depth} levels deep");
            return Err(fields.wrong_entry(NAME, at, &value, &format!("at most {max_depth} are allowed")));
        }
    }
    Ok(tools)
}

/// Whether an entry of `tools` has what templates take for granted.
fn is_function(tool: &Value) -> bool {
    tool.get("type").is_none_or(|kind| kind == "function") && tool["function"]["name"].is_string()
}

/// What the API knows and this server does not do yet is refused by name, not passed over.
fn refuse_unsupported(fields: &mut Fields) -> Result<(), ApiError> {
    let refuse = |name: &str, value: &Value, allowed: &str| {
        Err(ApiError::unsupported(name, format!("{name} is {}: {allowed}", shown(value))))
    };
    for (name, allowed) in [
        ("functions", "must be absent: use tools"),
        ("function_call", "must be absent: use tool_choice"),
        ("audio", "must be absent: this server answers with text only"),
        ("web_search_options", "must be absent: this server searches nothing"),
    ] {
        if let Some(value) = fields.value(name) {
            return refuse(name, &value, allowed);
        }
    }
    if let Some(template) = fields.value("chat_template") {
        return refuse("chat_template", &template, "must be absent: templates come with models only");
    }
    match fields.value("tool_choice") {
        Some(choice) if choice != "auto" && choice != "none" => {
            return refuse("tool_choice", &choice, "allowed are auto and none: calls cannot be forced");
        }
        _ => {}
    }
    if let Some(mut format) = fields.fields("response_format", "response_format.")?
        && let Some(kind) = format.text("type")?
        && kind != "text"
    {
        let message = format!("response_format.type is {}: this server answers with text only", shown(&kind.into()));
        return Err(ApiError::unsupported("response_format", message));
    }
    match fields.value("modalities") {
        Some(list) if list != serde_json::json!(["text"]) => refuse("modalities", &list, "allowed is [\"text\"]"),
        _ => Ok(()),
    }
}

/// An answer on its way.
struct Answer {
    generation: Generation,
    id: String,
    created: u64,
    choices: usize,
    /// Choices that are not complete.
    open: usize,
    logprobs: bool,
    stream: bool,
    include_usage: bool,
    /// The prompt, when the usage is to tell why the prefix cache had no more.
    traced: Option<TracedPrompt>,
    usage: UsageJson,
}

/// What [`Answer`]'s stream does next.
enum Next {
    /// Write what has happened.
    Output(Output),
    /// Wait for more.
    Wait,
    /// Nothing follows.
    End,
}

impl Answer {
    async fn respond(mut self) -> Result<Response, ApiError> {
        // What fails before the first token still has a status of its own.
        let first = match self.generation.next().await {
            Some(Output::Failed(failure)) => return Err(failure.into()),
            Some(first) => first,
            None => return Err(ApiError::internal("the engine has nothing to say")),
        };
        if !self.stream {
            return self.whole(first).await;
        }
        let frames = unfold((self, Next::Output(first)), async |(mut answer, next)| {
            let output = match next {
                Next::Output(output) => output,
                Next::Wait => answer.generation.next().await?,
                Next::End => return None,
            };
            let (frames, next) = answer.frames(output);
            Some((frames, (answer, next)))
        });
        Ok(sse::response(Box::pin(frames)))
    }

    async fn whole(mut self, first: Output) -> Result<Response, ApiError> {
        let mut texts = vec![String::new(); self.choices];
        let mut logprobs: Vec<ChatLogprobs> = (0..self.choices).map(|_| ChatLogprobs::default()).collect();
        let mut endings = vec![Ending::Length; self.choices];
        let model = Arc::clone(self.generation.model());
        let mut next = Some(first);
        while let Some(output) = next {
            let delta = match output {
                Output::Started | Output::PromptLogprobs(_) => None,
                Output::Delta(delta) => Some(delta),
                Output::Finished(delta, ending, usage) => {
                    self.usage.add_choice(&usage, self.open == self.choices, self.traced.as_ref());
                    self.open -= 1;
                    endings[delta.choice] = ending;
                    Some(delta)
                }
                Output::Failed(failure) => return Err(failure.into()),
            };
            if let Some(Delta { choice, text, tokens }) = delta {
                texts[choice] += &text;
                if self.logprobs {
                    logprobs[choice].extend(&tokens, &model.tokenizer);
                }
            }
            next = self.generation.next().await;
        }
        let choices = texts.into_iter().zip(logprobs).zip(endings).enumerate();
        let choices = choices.map(|(index, ((content, logprobs), ending))| ChatChoice {
            index,
            message: ChatMessage { role: "assistant", content, refusal: None },
            logprobs: self.logprobs.then_some(logprobs),
            finish_reason: ending.name(),
        });
        let answer = ChatJson {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: &model.name,
            choices: choices.collect(),
            usage: Some(Some(&self.usage)),
        };
        Ok(Json(answer).into_response())
    }

    /// The frames for what has happened.
    fn frames(&mut self, output: Output) -> (String, Next) {
        match output {
            Output::Started => {
                let role = |index| (index, ChunkDelta { role: Some("assistant"), content: Some("") });
                let frames = (0..self.choices).map(|index| {
                    let (index, delta) = role(index);
                    self.chunk(index, delta, None, None)
                });
                (frames.collect(), Next::Wait)
            }
            Output::PromptLogprobs(_) => (String::new(), Next::Wait),
            Output::Delta(delta) => (self.delta(&delta), Next::Wait),
            Output::Finished(delta, ending, usage) => {
                self.usage.add_choice(&usage, self.open == self.choices, self.traced.as_ref());
                self.open -= 1;
                let mut frames = if delta.text.is_empty() { String::new() } else { self.delta(&delta) };
                frames += &self.chunk(delta.choice, ChunkDelta::default(), None, Some(ending.name()));
                if self.open > 0 {
                    return (frames, Next::Wait);
                }
                if self.include_usage {
                    frames += &self.frame(Vec::new(), Some(Some(&self.usage)));
                }
                (frames + DONE, Next::End)
            }
            Output::Failed(failure) => (sse::error_frame(&failure.into()), Next::End),
        }
    }

    fn delta(&self, delta: &Delta) -> String {
        let logprobs = self.logprobs.then(|| {
            let mut logprobs = ChatLogprobs::default();
            logprobs.extend(&delta.tokens, &self.generation.model().tokenizer);
            logprobs
        });
        self.chunk(delta.choice, ChunkDelta { role: None, content: Some(&delta.text) }, logprobs, None)
    }

    fn chunk(
        &self,
        index: usize,
        delta: ChunkDelta<'_>,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<&'static str>,
    ) -> String {
        let usage = self.include_usage.then_some(None);
        self.frame(vec![ChunkChoice { index, delta, logprobs, finish_reason }], usage)
    }

    fn frame(&self, choices: Vec<ChunkChoice<'_>>, usage: Option<Option<&UsageJson>>) -> String {
        sse::frame(&ChatJson {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.generation.model().name,
            choices,
            usage,
        })
    }
}
