//! A conversation in a JSON file, as the command line takes it.

use serde_json::{Map, Value as Json};

use super::{CivilTime, RenderInput, TemplateError};

/// An owned conversation: `messages`, and optionally `tools`, `documents` and `add_generation_prompt` (true unless
/// given). All other fields are further variables for the template.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderCase {
    messages: Vec<Json>,
    tools: Option<Vec<Json>>,
    documents: Option<Vec<Json>>,
    add_generation_prompt: bool,
    extra: Map<String, Json>,
}

impl RenderCase {
    /// Reads a conversation; a bare list counts as its messages.
    ///
    /// # Errors
    /// When a field has the wrong type, or the messages are missing.
    pub fn from_json(json: Json) -> Result<Self, TemplateError> {
        let mut fields = match json {
            Json::Object(fields) => fields,
            Json::Array(messages) => Map::from_iter([("messages".to_owned(), Json::Array(messages))]),
            other => return Err(wrong("conversation", "an object or a list of messages", &other)),
        };
        let mut list = |name: &str| match fields.remove(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong(name, "a list", &other)),
        };
        let messages = list("messages")?.ok_or_else(|| wrong("messages", "a list", &Json::Null))?;
        let (tools, documents) = (list("tools")?, list("documents")?);
        let add_generation_prompt = match fields.remove("add_generation_prompt") {
            None => true,
            Some(Json::Bool(add)) => add,
            Some(other) => return Err(wrong("add_generation_prompt", "true or false", &other)),
        };
        Ok(Self { messages, tools, documents, add_generation_prompt, extra: fields })
    }

    /// What the template gets, at a given time (the system clock's when absent).
    pub fn input(&self, now: Option<CivilTime>) -> RenderInput<'_> {
        RenderInput {
            messages: &self.messages,
            tools: self.tools.as_deref(),
            documents: self.documents.as_deref(),
            add_generation_prompt: self.add_generation_prompt,
            extra: Some(&self.extra),
            now,
        }
    }
}

fn wrong(name: &str, wanted: &str, found: &Json) -> TemplateError {
    let found = match found {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    };
    TemplateError::Unreadable(format!("{name} must be {wanted}, not {found}"))
}
