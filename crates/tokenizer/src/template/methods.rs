//! Python's methods on strings, dictionaries and lists, where `minijinja-contrib` lacks them or differs.

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// The environment's callback for methods that a value does not have by itself.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Map if method == "copy" => Some(value.clone()), // values never change in place
        ValueKind::Seq | ValueKind::Iterable => list_method(value, method, args)?,
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `str.strip(chars)`.
pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>) -> &'a str {
    match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)),
        None => text.trim_matches(is_space),
    }
}

/// `str.isspace` for one character: Unicode's white space and the four ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match method {
        "strip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars))
        }
        "lstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(match chars {
                Some(chars) => text.trim_start_matches(|c| chars.contains(c)),
                None => text.trim_start_matches(is_space),
            })
        }
        "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(match chars {
                Some(chars) => text.trim_end_matches(|c| chars.contains(c)),
                None => text.trim_end_matches(is_space),
            })
        }
        "split" => split(text, args, Side::Left)?,
        "rsplit" => split(text, args, Side::Right)?,
        "splitlines" => {
            let (keep_ends, options): (Option<bool>, Kwargs) = from_args(args)?;
            let keep_ends = match keep_ends {
                Some(keep_ends) => keep_ends,
                None => options.get::<Option<bool>>("keepends")?.unwrap_or(false),
            };
            options.assert_all_used()?;
            split_lines(text, keep_ends).into_iter().map(Value::from).collect()
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let found = if method == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match found {
                _ if separator.is_empty() => return Err(invalid("empty separator")),
                Some((before, after)) => [before, separator, after],
                None if method == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            parts.into_iter().map(Value::from).collect()
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "index" => {
            let (part,): (&str,) = from_args(args)?;
            let at = text.find(part).ok_or_else(|| invalid("substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase())
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn list_method(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "copy" => Ok(Some(list.clone())),
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            for (index, item) in list.try_iter()?.checked().enumerate() {
                if item? == *wanted {
                    return Ok(Some(Value::from(index)));
                }
            }
            Err(invalid("value is not in list"))
        }
        _ => Ok(None),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
}

/// `str.split` and `str.rsplit`: at a separator, or at runs of white space when none is given.
fn split(text: &str, args: &[Value], side: Side) -> Result<Value, Error> {
    let (separator, max_splits, options): (Option<&Value>, Option<i64>, Kwargs) = from_args(args)?;
    let named = options.get::<Option<Value>>("sep")?;
    let max_splits = match max_splits {
        Some(max) => Some(max),
        None => options.get::<Option<i64>>("maxsplit")?,
    };
    options.assert_all_used()?;
    let separator = separator.or(named.as_ref()).filter(|separator| !separator.is_none());
    let limit = max_splits.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = match separator.map(|separator| separator.as_str().ok_or(separator.kind())) {
        Some(Err(kind)) => return Err(invalid(format!("split at a value of type {kind}"))),
        Some(Ok("")) => return Err(invalid("empty separator")),
        Some(Ok(separator)) if side == Side::Left => text.splitn(limit.saturating_add(1), separator).collect(),
        Some(Ok(separator)) => text.rsplitn(limit.saturating_add(1), separator).collect(),
        None => split_white_space(text, limit, side),
    };
    if side == Side::Right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// The parts in the order in which they are cut off.
fn split_white_space(text: &str, limit: usize, side: Side) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_matches(is_space);
    while !rest.is_empty() {
        let cut = match side {
            Side::Left => rest.find(is_space),
            Side::Right => rest.rfind(is_space),
        };
        let Some(cut) = cut.filter(|_| parts.len() < limit) else {
            parts.push(rest);
            break;
        };
        match side {
            Side::Left => {
                parts.push(&rest[..cut]);
                rest = rest[cut..].trim_start_matches(is_space);
            }
            Side::Right => {
                parts.push(rest[cut..].trim_start_matches(is_space));
                rest = rest[..cut].trim_end_matches(is_space);
            }
        }
    }
    parts
}

fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (line, end) = match rest.find(is_end) {
            None => (rest.len(), rest.len()),
            Some(at) if rest[at..].starts_with("\r\n") => (at, at + 2),
            Some(at) => (at, at + rest[at..].chars().next().map_or(0, char::len_utf8)),
        };
        lines.push(&rest[..if keep_ends { end } else { line }]);
        rest = &rest[end..];
    }
    lines
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
