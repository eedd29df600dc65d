//! Chat templates: a conversation in, the prompt that the model was trained on out.
//!
//! [`ChatTemplate`] renders the Jinja templates that come with models exactly as Hugging Face does, within fixed
//! limits, and keeps clients' text from turning into control tokens (see [`crate::control`]). It does not tokenize,
//! does not add a start token of its own, and takes no template from a request.
//!
//! Start at [`ChatTemplate::render`]; the Jinja dialect is in `environment`, Python's text forms in `python` and
//! `tojson`, the bounds in `limits`.

mod case;
mod clock;
mod context;
mod environment;
mod expression;
mod filters;
mod limits;
mod load;
mod methods;
mod python;
mod source;
mod tojson;

use std::collections::BTreeMap;
use std::error::Error as _;

use checkpoint::Checkpoint;
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value as Json};
use thiserror::Error;

pub use case::RenderCase;
pub use clock::CivilTime;
pub use limits::{BASE_OUTPUT_BYTES, MAX_SOURCE_BYTES, OUTPUT_PER_INPUT};

use crate::control::{ControlTexts, Prompt};
use crate::sandbox;
use crate::tokenizer::Tokenizer;
use context::ContextBuilder;
use environment::Raised;
use limits::BoundedOutput;

/// The names under which templates are compiled; they show in error messages.
const CHAT: &str = "chat_template";
const TOOL_USE: &str = "tool_use_template";

/// Longest part of an engine's message that goes into an error: nested includes repeat themselves.
const MAX_ERROR_CHARS: usize = 300;

/// Names that the server sets or that the environment defines; extra arguments cannot replace them.
const RESERVED_NAMES: &[&str] = &[
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "conversation",
    "tokenize",
    "raise_exception",
    "strftime_now",
    "tojson",
    "range",
    "dict",
    "namespace",
    "loop",
    "self",
    "caller",
];

/// Why a template was not accepted or did not render.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// The file that holds the template, or the conversation, is faulty.
    #[error("{0}")]
    Unreadable(String),
    /// The source is longer than [`MAX_SOURCE_BYTES`].
    #[error("chat template has {bytes} bytes, the limit is {limit}")]
    SourceTooLong {
        /// Length of the source.
        bytes: usize,
        /// [`MAX_SOURCE_BYTES`].
        limit: usize,
    },
    /// The source is not valid Jinja.
    #[error("chat template is invalid: {0}")]
    Syntax(String),
    /// The template called `raise_exception`: it does not accept this conversation.
    #[error("the chat template refuses this conversation: {0}")]
    Refused(String),
    /// The template failed on these values.
    #[error("chat template failed: {0}")]
    Failed(String),
    /// The template used up its budget of steps and memory.
    #[error("chat template ran out of its budget of {limit} steps")]
    OutOfFuel {
        /// The budget.
        limit: u64,
    },
    /// The output grew beyond its limit.
    #[error("chat template wrote more than {limit} bytes")]
    OutputTooLong {
        /// The limit for this input.
        limit: usize,
    },
    /// An extra argument has a name that the server sets itself.
    #[error("chat template argument {0:?} is reserved")]
    ReservedName(String),
    /// A value nests deeper than a template may see.
    #[error("chat template input nests deeper than {limit} levels")]
    TooDeep {
        /// The deepest nesting.
        limit: usize,
    },
}

/// What a conversation gives to the template.
#[derive(Debug, Clone, Copy, Default)]
pub struct RenderInput<'a> {
    /// The messages, each an object with `role`, `content` and so on.
    pub messages: &'a [Json],
    /// The tools on offer, each an object as in the OpenAI API.
    pub tools: Option<&'a [Json]>,
    /// Documents for retrieval-augmented templates.
    pub documents: Option<&'a [Json]>,
    /// Whether the prompt ends with the start of the assistant's turn.
    pub add_generation_prompt: bool,
    /// More variables for the template (`chat_template_kwargs`).
    pub extra: Option<&'a Map<String, Json>>,
    /// What `strftime_now` tells; the system clock in UTC when absent.
    pub now: Option<CivilTime>,
}

/// A compiled chat template, with the special tokens of its model.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source_bytes: usize,
    has_tool_template: bool,
    special_tokens: BTreeMap<String, String>,
    control: ControlTexts,
}

impl ChatTemplate {
    /// The template of a model, if it has one.
    ///
    /// # Errors
    /// When its source is faulty or too long.
    pub fn from_checkpoint(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Option<Self>, TemplateError> {
        load::load(checkpoint, tokenizer)
    }

    /// Compiles a template.
    ///
    /// `special_tokens` are variables such as `bos_token`; `control` are the texts that clients must not be able to
    /// turn into control tokens (none for a bare template file).
    pub fn parse(
        source: &str,
        special_tokens: BTreeMap<String, String>,
        control: ControlTexts,
    ) -> Result<Self, TemplateError> {
        let environment = environment::chat_environment();
        let mut template = Self { environment, source_bytes: 0, has_tool_template: false, special_tokens, control };
        template.add(CHAT, source)?;
        Ok(template)
    }

    /// Adds a template for conversations with tools.
    pub(crate) fn with_tool_template(mut self, source: &str) -> Result<Self, TemplateError> {
        self.add(TOOL_USE, source)?;
        self.has_tool_template = true;
        Ok(self)
    }

    fn add(&mut self, name: &'static str, source: &str) -> Result<(), TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError::SourceTooLong { bytes: source.len(), limit: MAX_SOURCE_BYTES });
        }
        self.source_bytes += source.len();
        let adapted = source::adapt(source).map_err(TemplateError::Syntax)?;
        let mut environment = self.environment.clone();
        let added = sandbox::run(move || environment.add_template_owned(name, adapted).map(|()| environment));
        self.environment = added
            .map_err(|failure| TemplateError::Syntax(failure.to_string()))?
            .map_err(|error| TemplateError::Syntax(one_line(&error)))?;
        Ok(())
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// When the template refuses the conversation, fails on it, or needs more than its limits.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<Prompt, TemplateError> {
        let mut context = ContextBuilder::new(&self.control);
        for (name, value) in input.extra.into_iter().flatten() {
            if RESERVED_NAMES.contains(&name.as_str()) || self.special_tokens.contains_key(name) {
                return Err(TemplateError::ReservedName(name.clone()));
            }
            context.insert(name, value)?;
        }
        context.insert_list("messages", Some(input.messages))?;
        context.insert_list("tools", input.tools)?;
        context.insert_list("documents", input.documents)?;
        context.insert_trusted("add_generation_prompt", input.add_generation_prompt.into());
        for (name, text) in &self.special_tokens {
            context.insert_trusted(name, text.as_str().into());
        }
        if let Some(now) = input.now {
            let (name, value) = environment::now_for(now);
            context.insert_trusted(name, value);
        }
        let name = if self.has_tool_template && input.tools.is_some() { TOOL_USE } else { CHAT };
        self.run(name, context)
    }

    fn run(&self, name: &str, context: ContextBuilder<'_>) -> Result<Prompt, TemplateError> {
        let input_bytes = self.source_bytes.saturating_add(context.bytes());
        let fuel = limits::fuel(input_bytes);
        let limit = limits::output_bytes(input_bytes);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let mut output = BoundedOutput { bytes: Vec::new(), limit, overflowed: false };
        let rendered = sandbox::catch(|| {
            let template = environment.get_template(name)?;
            template.render_captured_to(context.finish(), &mut output).map(drop)
        });
        let result = match rendered {
            Ok(result) => result,
            Err(panic) => return Err(TemplateError::Failed(panic.to_string())),
        };
        match result {
            Ok(()) => Ok(Prompt::from_guarded(&String::from_utf8_lossy(&output.bytes))),
            Err(_) if output.overflowed => Err(TemplateError::OutputTooLong { limit }),
            Err(error) if error.kind() == ErrorKind::OutOfFuel => Err(TemplateError::OutOfFuel { limit: fuel }),
            Err(error) => Err(match raised(&error) {
                Some(message) => TemplateError::Refused(message),
                None => TemplateError::Failed(one_line(&error)),
            }),
        }
    }
}

/// The message of a `raise_exception` anywhere below this error, without guards.
fn raised(error: &minijinja::Error) -> Option<String> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(Prompt::from_guarded(message).text().to_owned());
        }
        source = error.source();
    }
    None
}

/// An error with its position, on one line and without guards.
fn one_line(error: &minijinja::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    let mut line = Prompt::from_guarded(&message).text().split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(MAX_ERROR_CHARS) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}
