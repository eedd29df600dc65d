//! A conversation as clients send it, made ready for a chat template.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::shown;

/// More messages than this are a mistake: templates run in time that grows with them.
const MAX_MESSAGES: usize = 10_000;

/// The roles that a client may name. Templates write a role as it is, so no other may reach them.
const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool", "function"];

/// Checks the messages and brings them into the form that templates expect: content is text, `developer` is `system`,
/// arguments of tool calls are objects.
pub(super) fn read_messages(value: Option<Value>) -> Result<Vec<Value>, ApiError> {
    let wrong = |value: &str| {
        let message = format!("messages is {value}: must be a list of 1 to {MAX_MESSAGES} messages");
        ApiError::invalid("messages", message)
    };
    match value {
        Some(Value::Array(items)) if (1..=MAX_MESSAGES).contains(&items.len()) => {
            items.into_iter().enumerate().map(|(i, item)| read_message(i, item)).collect()
        }
        Some(other) => Err(wrong(&shown(&other))),
        None => Err(wrong("missing")),
    }
}

fn read_message(index: usize, item: Value) -> Result<Value, ApiError> {
    let path = |field: &str| format!("messages[{index}]{field}");
    let wrong = |field: &str, value: &str, allowed: &str| {
        ApiError::invalid(path(field), format!("{} is {value}: {allowed}", path(field)))
    };
    let Value::Object(mut message) = item else { return Err(wrong("", &shown(&item), "must be an object")) };
    let role = match message.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.clone(),
        Some(other) => return Err(wrong(".role", &shown(other), &format!("allowed are {}", ROLES.join(", ")))),
        None => return Err(wrong(".role", "missing", &format!("allowed are {}", ROLES.join(", ")))),
    };
    if role == "developer" {
        message.insert("role".to_owned(), "system".into());
    }
    let calls_tools = message.get("tool_calls").is_some_and(|calls| !calls.is_null());
    let content = match message.remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            let texts = parts.iter().enumerate().map(|(part, value)| read_part(&path(".content"), part, value));
            texts.collect::<Result<Vec<_>, _>>()?.join("\n")
        }
        None | Some(Value::Null) if calls_tools || role == "assistant" => String::new(),
        None | Some(Value::Null) => {
            return Err(wrong(".content", "missing", "must be a string or a list of text parts"));
        }
        Some(other) => return Err(wrong(".content", &shown(&other), "must be a string or a list of text parts")),
    };
    message.insert("content".to_owned(), content.into());
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        calls.iter_mut().for_each(arguments_as_object);
    }
    Ok(Value::Object(message))
}

fn read_part(path: &str, index: usize, part: &Value) -> Result<String, ApiError> {
    let path = format!("{path}[{index}]");
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    match (kind, part.get("text").and_then(Value::as_str)) {
        ("text", Some(text)) => Ok(text.to_owned()),
        ("text", None) => Err(ApiError::invalid(path.clone(), format!("{path} has no text: must be a string"))),
        _ => Err(ApiError::unsupported(&path, format!("{path} is of type {kind:?}: this server takes text only"))),
    }
}

/// Clients send a call's arguments as JSON text; templates want the object.
fn arguments_as_object(call: &mut Value) {
    let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments")) else { return };
    let parsed = arguments.as_str().and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    if let Some(object) = parsed {
        *arguments = Value::Object(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(messages: Value, expected: Result<Value, &str>) {
        let got = read_messages(Some(messages.clone())).map(Value::Array);
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected),
            (Err(error), Err(param)) => assert_eq!(error.to_json()["error"]["param"], param, "{messages}"),
            (got, _) => panic!("{messages}: {got:?}"),
        }
    }

    #[test]
    fn content_becomes_text() {
        check(json!([{"role": "user", "content": "a"}]), Ok(json!([{"role": "user", "content": "a"}])));
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        check(json!([{"role": "user", "content": parts}]), Ok(json!([{"role": "user", "content": "a\nb"}])));
        check(json!([{"role": "developer", "content": "a"}]), Ok(json!([{"role": "system", "content": "a"}])));
    }

    #[test]
    fn arguments_of_tool_calls_become_objects() {
        let call = |arguments: Value| json!([{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]);
        let got = read_messages(Some(call(json!("{\"x\":1}")))).unwrap();
        assert_eq!(got[0]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
        let got = read_messages(Some(call(json!("not json")))).unwrap();
        assert_eq!(got[0]["tool_calls"][0]["function"]["arguments"], "not json");
    }

    #[test]
    fn what_is_wrong_is_named() {
        check(json!([]), Err("messages"));
        check(json!("hi"), Err("messages"));
        check(json!([1]), Err("messages[0]"));
        check(json!([{"content": "a"}]), Err("messages[0].role"));
        check(json!([{"role": "root", "content": "a"}]), Err("messages[0].role"));
        check(json!([{"role": 5, "content": "a"}]), Err("messages[0].role"));
        check(json!([{"role": "user"}]), Err("messages[0].content"));
        check(json!([{"role": "user", "content": 5}]), Err("messages[0].content"));
        check(json!([{"role": "user", "content": [{"type": "image_url"}]}]), Err("messages[0].content[0]"));
        check(json!([{"role": "user", "content": [{"type": "text"}]}]), Err("messages[0].content[0]"));
    }
}
