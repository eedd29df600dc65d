//! The variables of one render: a client's JSON with guards in its strings, and what the server adds.

use std::collections::BTreeMap;

use minijinja::Value;
use serde_json::Value as Json;

use super::TemplateError;
use super::limits::MAX_VALUE_DEPTH;
use crate::control::ControlTexts;

/// What a number, a literal or the frame of a container counts towards the size of the input.
const SCALAR_BYTES: usize = 8;

pub(super) struct ContextBuilder<'a> {
    control: &'a ControlTexts,
    variables: BTreeMap<String, Value>,
    bytes: usize,
}

impl<'a> ContextBuilder<'a> {
    pub(super) fn new(control: &'a ControlTexts) -> Self {
        Self { control, variables: BTreeMap::new(), bytes: 0 }
    }

    /// Adds a client's value.
    pub(super) fn insert(&mut self, name: &str, json: &Json) -> Result<(), TemplateError> {
        let value = self.value(json, 0)?;
        self.insert_trusted(name, value);
        Ok(())
    }

    /// Adds a client's list, or `None`.
    pub(super) fn insert_list(&mut self, name: &str, items: Option<&[Json]>) -> Result<(), TemplateError> {
        let value = match items {
            Some(items) => self.list(items, 0)?,
            None => Value::from(()),
        };
        self.insert_trusted(name, value);
        Ok(())
    }

    /// Adds a value as it is.
    pub(super) fn insert_trusted(&mut self, name: &str, value: Value) {
        self.variables.insert(name.to_owned(), value);
    }

    /// Size of the clients' values so far, roughly that of their JSON.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn finish(self) -> Value {
        Value::from(self.variables)
    }

    fn value(&mut self, json: &Json, depth: usize) -> Result<Value, TemplateError> {
        if depth > MAX_VALUE_DEPTH {
            return Err(TemplateError::TooDeep { limit: MAX_VALUE_DEPTH });
        }
        self.bytes += SCALAR_BYTES;
        Ok(match json {
            Json::Null => Value::from(()),
            Json::Bool(value) => Value::from(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(integer), _) => Value::from(integer),
                (None, Some(integer)) => Value::from(integer),
                (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => self.text(text),
            Json::Array(items) => self.list(items, depth)?,
            Json::Object(fields) => {
                let mut pairs = Vec::with_capacity(fields.len());
                for (key, field) in fields {
                    let value = match field {
                        Json::String(role) if key == "role" && is_word(role) => Value::from(role),
                        _ => self.value(field, depth + 1)?,
                    };
                    pairs.push((self.text(key), value));
                }
                Value::from_pairs(pairs)
            }
        })
    }

    fn list(&mut self, items: &[Json], depth: usize) -> Result<Value, TemplateError> {
        Ok(Value::from(items.iter().map(|item| self.value(item, depth + 1)).collect::<Result<Vec<_>, _>>()?))
    }

    fn text(&mut self, text: &str) -> Value {
        self.bytes += text.len();
        Value::from(self.control.guard(text))
    }
}

/// A role that is one word may itself be a control token (`user`), and templates must still be able to compare it.
fn is_word(role: &str) -> bool {
    role.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
