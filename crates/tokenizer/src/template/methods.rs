//! Python's methods on strings, dictionaries and lists, where `minijinja-contrib` lacks them or differs.

use minijinja::formatting::{self, FormatStyle};
use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::{limits, python};

/// Widest field of `str.format`.
const MAX_WIDTH: usize = 1000;

/// The environment's callback for methods that a value does not have by itself.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => string_method(state, value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Map if method == "copy" => Some(value.clone()), // values never change in place
        ValueKind::Seq | ValueKind::Iterable => list_method(state, value, method, args)?,
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

fn string_method(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
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
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "format" => return format(state, text, args).map(Some),
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            join(text, items)?
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
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

fn list_method(state: &State, list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "copy" => Ok(Some(list.clone())),
        "index" | "count" => {
            let (wanted,): (&Value,) = from_args(args)?;
            limits::pay_items(state, list)?;
            limits::pay_items(state, wanted)?;
            if method == "count" {
                return Ok(None); // the same as in `pycompat`
            }
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

/// `str.format`. What it prints is paid first, and widths are limited.
fn format(state: &State, template: &str, args: &[Value]) -> Result<Value, Error> {
    let looks_inside = check_fields(template)?;
    let prepared = |value: &Value| match value.as_object() {
        Some(_) if looks_inside || value.is_kwargs() => limits::pay_items(state, value).map(|()| value.clone()),
        Some(_) => python::text_of(state, value).map(Value::from),
        None => Ok(value.clone()),
    };
    let args = args.iter().map(prepared).collect::<Result<Vec<_>, _>>()?;
    formatting::format(FormatStyle::StrFormat, template, &args).map(Value::from)
}

/// Refuses fields that ask for much space or hold further fields. Returns whether one looks into its argument.
fn check_fields(template: &str) -> Result<bool, Error> {
    let mut looks_inside = false;
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        rest = &rest[open + 1..];
        if let Some(escaped) = rest.strip_prefix('{') {
            rest = escaped;
            continue;
        }
        let field = &rest[..rest.find('}').unwrap_or(rest.len())];
        rest = &rest[field.len()..];
        let (name, spec) = field.split_once(':').unwrap_or((field, ""));
        looks_inside |= name.contains(['.', '[']);
        let mut numbers = spec.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        let fits = |digits: &str| digits.parse().is_ok_and(|width: usize| width <= MAX_WIDTH);
        if field.contains('{') || !numbers.all(fits) {
            return Err(invalid(format!("format field {field:?} is nested or wider than {MAX_WIDTH}")));
        }
    }
    Ok(looks_inside)
}

/// `str.join`: only strings can be joined.
fn join(separator: &str, items: &Value) -> Result<Value, Error> {
    let mut joined = String::new();
    for (index, item) in items.try_iter()?.checked().enumerate() {
        let item = item?;
        let text = item.as_str().ok_or_else(|| invalid(format!("join of a value of type {}", item.kind())))?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(text);
    }
    Ok(Value::from(joined))
}

/// `str.title`: a letter is upper case unless it follows a letter.
fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        match in_word {
            true => titled.extend(c.to_lowercase()),
            false => titled.extend(c.to_uppercase()),
        }
        in_word = c.is_alphabetic();
    }
    titled
}

/// The parts in the order in which they are cut off.
fn split_white_space(text: &str, limit: usize, side: Side) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = match side {
            Side::Left => rest.trim_start_matches(is_space),
            Side::Right => rest.trim_end_matches(is_space),
        };
        if rest.is_empty() {
            return parts;
        }
        let cut = match side {
            Side::Left => rest.find(is_space),
            Side::Right => rest.char_indices().rfind(|(_, c)| is_space(*c)).map(|(at, c)| at + c.len_utf8()),
        };
        let Some(cut) = cut.filter(|_| parts.len() < limit) else {
            parts.push(rest);
            return parts;
        };
        let (left, right) = rest.split_at(cut);
        let (part, remainder) = if side == Side::Left { (left, right) } else { (right, left) };
        parts.push(part);
        rest = remainder;
    }
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
