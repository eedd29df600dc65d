//! A conversation as clients send it, made ready for a chat template.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::shown;

/// The roles that a client may name. Templates write a role as it is, so no other may reach them.
const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool", "function"];

/// Checks the messages, of which there may be `max`, and brings them into the form that templates expect: content is
/// text, `developer` is `system`, arguments of tool calls are objects.
pub(super) fn read_messages(value: Option<Value>, max: usize) -> Result<Vec<Value>, ApiError> {
    let wrong = |value: &str| {
        let message = format!("messages is {value}: must be a list of 1 to {max} messages");
        ApiError::invalid("messages", message)
    };
    match value {
        Some(Value::Array(items)) if (1..=max).contains(&items.len()) => {
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
        None => return Err(wrong(".content", "missing", "must be a string or a list of text parts")),
        Some(other) => return Err(wrong(".content", &shown(&other), "must be a string or a list of text parts")),
    };
    message.insert("content".to_owned(), content.into());
    match message.get_mut("tool_calls") {
        None | Some(Value::Null) => {}
        Some(Value::Array(calls)) => {
            if let Some(at) = calls.iter().position(|call| !is_call(call)) {
                let allowed = "must be {\"function\": {\"name\": a string, \"arguments\"}}";
                return Err(wrong(&format!(".tool_calls[{at}]"), &shown(&calls[at]), allowed));
            }
            calls.iter_mut().for_each(arguments_as_object);
        }
        Some(other) => return Err(wrong(".tool_calls", &shown(other), "must be a list of calls")),
    }
    for field in [".name", ".tool_call_id"] {
        match message.get(&field[1..]) {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(other) => return Err(wrong(field, &shown(other), "must be a string")),
        }
    }
    Ok(Value::Object(message))
}

fn read_part(path: &str, index: usize, part: &Value) -> Result<String, ApiError> {
    let path = format!("{path}[{index}]");
    let shown_field = |field: &str| part.get(field).map_or_else(|| "missing".to_owned(), shown);
    if !part.is_object() {
        return Err(ApiError::invalid(path.clone(), format!("{path} is {}: must be an object", shown(part))));
    }
    if part.get("type").and_then(Value::as_str) != Some("text") {
        let message =
            format!("{path}.type is {}: allowed is \"text\"; this server takes text only", shown_field("type"));
        return Err(ApiError::unsupported(&path, message));
    }
    let text = part.get("text").and_then(Value::as_str).map(str::to_owned);
    text.ok_or_else(|| {
        ApiError::invalid(path.clone(), format!("{path}.text is {}: must be a string", shown_field("text")))
    })
}

/// Whether a value is a call of a tool, as far as templates look into it.
fn is_call(call: &Value) -> bool {
    let function = call.get("function").unwrap_or(call);
    function.get("name").is_some_and(Value::is_string)
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

    fn check(messages: Value, expected: Value) {
        let got = read_messages(Some(messages.clone()), 100).map(Value::Array);
        assert_eq!(got.unwrap_or_else(|error| panic!("{messages}: {error:?}")), expected);
    }

    /// Expects an error for a field, that begins with where the value stands and what it is.
    fn check_refused(messages: Value, param: &str, start: &str) {
        let error = read_messages(Some(messages.clone()), 100).expect_err("refused").to_json();
        assert_eq!(error["error"]["param"], param, "{messages}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("{start}: ")), "{message}");
    }

    #[test]
    fn content_becomes_text() {
        check(json!([{"role": "user", "content": "a"}]), json!([{"role": "user", "content": "a"}]));
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        check(json!([{"role": "user", "content": parts}]), json!([{"role": "user", "content": "a\nb"}]));
        check(json!([{"role": "developer", "content": "a"}]), json!([{"role": "system", "content": "a"}]));
    }

    #[test]
    fn arguments_of_tool_calls_become_objects() {
        let call = |arguments: Value| json!([{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]);
        let got = read_messages(Some(call(json!("{\"x\":1}"))), 1).unwrap();
        assert_eq!(got[0]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
        let got = read_messages(Some(call(json!("not json"))), 1).unwrap();
        assert_eq!(got[0]["tool_calls"][0]["function"]["arguments"], "not json");
    }

    #[test]
    fn what_is_wrong_is_named() {
        check_refused(json!([]), "messages", "messages is a list of 0");
        check_refused(json!("hi"), "messages", "messages is \"hi\"");
        check_refused(json!([1]), "messages[0]", "messages[0] is 1");
        check_refused(json!([{"content": "a"}]), "messages[0].role", "messages[0].role is missing");
        check_refused(json!([{"role": "user"}]), "messages[0].content", "messages[0].content is missing");
        let user = |more: Value| {
            let mut message = json!({"role": "user", "content": "a"});
            message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!([message])
        };
        for (more, field, value) in [
            (json!({"role": "root"}), "role", "\"root\""),
            (json!({"role": 5}), "role", "5"),
            (json!({"content": null}), "content", "null"),
            (json!({"content": 5}), "content", "5"),
            (json!({"tool_calls": 7}), "tool_calls", "7"),
            (json!({"tool_calls": [7]}), "tool_calls[0]", "7"),
            (json!({"tool_calls": [{"function": 5}]}), "tool_calls[0]", "an object"),
            (json!({"name": 7}), "name", "7"),
            (json!({"tool_call_id": 7}), "tool_call_id", "7"),
        ] {
            let field = format!("messages[0].{field}");
            check_refused(user(more), &field, &format!("{field} is {value}"));
        }
        for (part, start) in [
            (json!(7), " is 7"),
            (json!({}), ".type is missing"),
            (json!({"type": "image_url"}), ".type is \"image_url\""),
            (json!({"type": "text"}), ".text is missing"),
            (json!({"type": "text", "text": 7}), ".text is 7"),
        ] {
            let place = "messages[0].content[0]";
            check_refused(user(json!({"content": [part]})), place, &format!("{place}{start}"));
        }
    }
}
