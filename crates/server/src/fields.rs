//! Reads a JSON object field by field: wire values become valid values here, once, and errors name the field, the
//! value and what is allowed. `null` counts as absent, as in OpenAI's API.

use std::ops::RangeInclusive;

use engine::ranges;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// Values longer than this are cut in error messages.
const SHOWN_CHARS: usize = 60;

/// An object whose fields are taken out one by one.
#[derive(Debug)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// In front of names in errors: `stream_options.`.
    path: &'static str,
}

impl Fields {
    /// The fields of a request's body.
    pub(crate) fn of_body(value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { map, path: "" }),
            other => Err(ApiError::invalid("body", format!("the body is {}: must be a JSON object", shown(&other)))),
        }
    }

    /// Takes any value out; `None` where it is absent or null.
    pub(crate) fn value(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Looks at a field that somebody else takes out.
    pub(crate) fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// A whole number within a range.
    pub(crate) fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let read = |value: &Value| value.as_i64().or_else(|| whole(value)).filter(|n| range.contains(n));
        self.read(name, &ranges::of_integers(&range), read)
    }

    /// A number within a range.
    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        self.read(name, &ranges::of_numbers(&range), |value| value.as_f64().filter(|x| range.contains(x)))
    }

    /// A share, `(0, 1]`.
    pub(crate) fn share(&mut self, name: &str) -> Result<Option<f64>, ApiError> {
        self.read(name, ranges::OF_SHARES, |value| value.as_f64().filter(|x| ranges::is_share(*x)))
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.read(name, "must be true or false", Value::as_bool)
    }

    /// A string.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.read(name, "must be a string", |value| value.as_str().map(str::to_owned))
    }

    /// An object.
    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        self.read(name, "must be an object", |value| value.as_object().cloned())
    }

    /// An object whose fields are read in turn; `path` is its name with a dot.
    pub(crate) fn fields(&mut self, name: &str, path: &'static str) -> Result<Option<Fields>, ApiError> {
        Ok(self.object(name)?.map(|map| Fields { map, path }))
    }

    /// A list of at most `max` values.
    pub(crate) fn list(&mut self, name: &str, max: usize) -> Result<Option<Vec<Value>>, ApiError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value {
            Value::Array(items) if items.len() <= max => Ok(Some(items)),
            Value::Array(items) => {
                Err(self.wrong(name, &format!("a list of {}", items.len()), &format!("at most {max} entries")))
            }
            other => Err(self.wrong(name, &shown(&other), "must be a list")),
        }
    }

    /// A list of at most `max` objects.
    pub(crate) fn objects(&mut self, name: &str, max: usize) -> Result<Option<Vec<Value>>, ApiError> {
        let Some(items) = self.list(name, max)? else { return Ok(None) };
        match items.iter().position(|item| !item.is_object()) {
            Some(at) => Err(self.wrong_entry(name, at, &shown(&items[at]), "must be an object")),
            None => Ok(Some(items)),
        }
    }

    /// A list of at most `max` strings of 1 to `max_bytes` bytes.
    pub(crate) fn texts(&mut self, name: &str, max: usize, max_bytes: usize) -> Result<Option<Vec<String>>, ApiError> {
        let Some(items) = self.list(name, max)? else { return Ok(None) };
        let read = |(at, item)| {
            bounded_text(item, max_bytes)
                .map_err(|value| self.wrong_entry(name, at, &value, &of_bounded_texts(max_bytes)))
        };
        items.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// A list of at most `max` token ids of a vocabulary.
    pub(crate) fn token_ids(&mut self, name: &str, max: usize, vocab: usize) -> Result<Option<Vec<u32>>, ApiError> {
        let Some(items) = self.list(name, max)? else { return Ok(None) };
        self.as_token_ids(name, &items, vocab).map(Some)
    }

    /// The token ids that a list holds; `name` says where it stands.
    pub(crate) fn as_token_ids(&self, name: &str, items: &[Value], vocab: usize) -> Result<Vec<u32>, ApiError> {
        let read = |(at, item): (usize, &Value)| {
            let id = item.as_u64().filter(|id| *id < vocab as u64).and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| self.wrong_entry(name, at, &shown(item), &of_token_ids(vocab)))
        };
        items.iter().enumerate().map(read).collect()
    }

    /// 400 for a field.
    pub(crate) fn wrong(&self, name: &str, value: &str, allowed: &str) -> ApiError {
        let path = self.path;
        ApiError::invalid(format!("{path}{name}"), format!("{path}{name} is {value}: {allowed}"))
    }

    /// 400 for an entry of a list: `name`, up to its first bracket, is the field.
    pub(crate) fn wrong_entry(&self, name: &str, at: usize, value: &str, allowed: &str) -> ApiError {
        let path = self.path;
        let field = name.split('[').next().unwrap_or(name);
        ApiError::invalid(format!("{path}{field}"), format!("{path}{name}[{at}] is {value}: {allowed}"))
    }

    /// Ends reading: with `strict`, refuses what is left over, except for names in `ignored`.
    pub(crate) fn finish(self, strict: bool, ignored: &[&str]) -> Result<(), ApiError> {
        let unknown = self.map.keys().find(|name| strict && !ignored.contains(&name.as_str()));
        match unknown {
            Some(name) => {
                let full = format!("{}{name}", self.path);
                Err(ApiError::invalid(full.clone(), format!("{full} is not a known field (the server is strict)")))
            }
            None => Ok(()),
        }
    }

    fn read<T>(
        &mut self,
        name: &str,
        allowed: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match read(&value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(name, &shown(&value), allowed)),
        }
    }
}

/// A string of 1 to `max_bytes` bytes, or what it is instead, in words.
pub(crate) fn bounded_text(value: Value, max_bytes: usize) -> Result<String, String> {
    match value {
        Value::String(text) if (1..=max_bytes).contains(&text.len()) => Ok(text),
        Value::String(text) => Err(format!("a string of {} bytes", text.len())),
        other => Err(shown(&other)),
    }
}

/// What such a string may be, in words.
pub(crate) fn of_bounded_texts(max_bytes: usize) -> String {
    format!("must be a string of 1 to {max_bytes} bytes")
}

/// What a token id may be, in words.
pub(crate) fn of_token_ids(vocab: usize) -> String {
    format!("must be a token id, an integer from 0 to {}", vocab.saturating_sub(1))
}

/// A float that is a whole number (`16.0`) within the range in which floats are exact.
fn whole(value: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() <= EXACT).map(|x| x as i64)
}

/// A value for an error message, cut where it is long.
pub(crate) fn shown(value: &Value) -> String {
    let text = match value {
        Value::Array(items) => return format!("a list of {}", items.len()),
        Value::Object(_) => return "an object".to_owned(),
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// How deep arrays and objects nest in JSON text; brackets in strings do not count.
pub(crate) fn json_depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for &byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        Fields::of_body(value).unwrap()
    }

    #[test]
    fn integers_are_exact_or_refused() {
        for (value, expected) in [
            (json!(5), Ok(Some(5))),
            (json!(5.0), Ok(Some(5))),
            (json!(-1), Ok(Some(-1))),
            (json!(null), Ok(None)),
            (json!(2_147_483_648_u64), Ok(Some(2_147_483_648))),
            (json!(-2), Err("-2")),
            (json!(9_223_372_036_854_775_808_u64), Err("9223372036854775808")),
            (json!(1e308), Err("1e+308")),
            (json!(0.5), Err("0.5")),
            (json!("1"), Err("\"1\"")),
            (json!([1]), Err("a list of 1")),
        ] {
            let got = fields(json!({ "x": value })).integer("x", -1..=i64::MAX);
            let got = got.map_err(|error| error.to_json()["error"]["message"].as_str().unwrap().to_owned());
            let message = |shown| format!("x is {shown}: allowed are integers from -1 to {}", i64::MAX);
            assert_eq!(got, expected.map_err(message), "{value}");
        }
    }

    #[test]
    fn unknown_fields_are_refused_only_when_strict() {
        assert!(fields(json!({ "x": 1 })).finish(false, &[]).is_ok());
        assert!(fields(json!({ "x": 1 })).finish(true, &["x"]).is_ok());
        assert!(fields(json!({ "x": 1 })).finish(true, &[]).is_err());
    }

    #[test]
    fn long_values_are_cut_in_messages() {
        let error = fields(json!({ "x": "y".repeat(10_000) })).integer("x", 0..=1).unwrap_err();
        assert!(error.to_json().to_string().len() < 300);
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        for (text, depth) in
            [("1", 0), ("[]", 1), ("{\"a\":[1,[2]]}", 3), ("\"[[[\"", 0), ("\"\\\"[\"", 0), ("]]][", 1), ("[[[", 3)]
        {
            assert_eq!(json_depth(text.as_bytes()), depth, "{text}");
        }
    }
}
