//! The `tojson` filter as Hugging Face defines it: `json.dumps(value, ensure_ascii=False, ...)`.
//!
//! Separators, indentation, key order, floats and escapes are Python's, since the text goes into the prompt that the
//! model was trained on.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::python::{PRINTED_BYTES_PER_FUEL, as_float, float_repr};
use crate::control::{self, GUARD};

/// Nesting at which a value is refused; parsed JSON never gets here.
const MAX_DEPTH: usize = 128;

/// Widest indentation a template may ask for.
const MAX_INDENT: usize = 64;

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(
    state: &State,
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let indent = indent.filter(|indent| !indent.is_none()).map(|indent| indent_text(&indent)).transpose()?;
    let (item_separator, key_separator) = match options.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => separator_pair(&pair)?,
        _ if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        _ => (", ".to_owned(), ": ".to_owned()),
    };
    let mut writer = Writer {
        out: String::new(),
        ensure_ascii: match ensure_ascii {
            Some(ensure_ascii) => ensure_ascii,
            None => options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        },
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item_separator,
        key_separator,
        state,
        paid_bytes: 0,
    };
    options.assert_all_used()?;
    writer.value(value, 0)?;
    writer.pay()?;
    Ok(Value::from(writer.out))
}

fn indent_text(indent: &Value) -> Result<String, Error> {
    if let Some(text) = indent.as_str() {
        return Ok(text.to_owned());
    }
    let width = i64::try_from(indent.clone())?.max(0);
    match usize::try_from(width) {
        Ok(width) if width <= MAX_INDENT => Ok(" ".repeat(width)),
        _ => Err(Error::new(ErrorKind::InvalidOperation, format!("tojson indent {width} is above {MAX_INDENT}"))),
    }
}

fn separator_pair(pair: &Value) -> Result<(String, String), Error> {
    let parts: Vec<Value> = pair.try_iter()?.checked().collect::<Result<_, _>>()?;
    match &parts[..] {
        [item, key] if item.as_str().is_some() && key.as_str().is_some() => Ok((item.to_string(), key.to_string())),
        _ => Err(Error::new(ErrorKind::InvalidOperation, "tojson separators must be two strings")),
    }
}

struct Writer<'a, 'env, 'template> {
    out: String,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    state: &'a State<'env, 'template>,
    paid_bytes: usize,
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            let message = format!("value for tojson nests deeper than {MAX_DEPTH}");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        self.pay()?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq => {
                let mut items = value.try_iter()?.checked();
                let Some(first) = items.next() else {
                    self.out.push_str("[]");
                    return Ok(());
                };
                self.out.push('[');
                self.new_line(depth + 1);
                self.value(&first?, depth + 1)?;
                for item in items {
                    self.separate(depth + 1);
                    self.value(&item?, depth + 1)?;
                }
                self.new_line(depth);
                self.out.push(']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                if keys.is_empty() {
                    self.out.push_str("{}");
                    return Ok(());
                }
                if self.sort_keys {
                    keys.sort();
                }
                self.out.push('{');
                for (index, key) in keys.iter().enumerate() {
                    match index {
                        0 => self.new_line(depth + 1),
                        _ => self.separate(depth + 1),
                    }
                    self.key(key)?;
                    self.out.push_str(&self.key_separator);
                    self.value(&value.get_item(key)?, depth + 1)?;
                }
                self.new_line(depth);
                self.out.push('}');
            }
            kind => {
                let message = format!("value of type {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    /// Keys that are no strings become strings, as `json.dumps` does.
    fn key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.out.push('"');
                self.value(key, 0)?;
                self.out.push('"');
            }
            kind => return Err(Error::new(ErrorKind::InvalidOperation, format!("JSON key of type {kind}"))),
        }
        Ok(())
    }

    fn number(&mut self, value: &Value) {
        let text = match as_float(value) {
            Some(float) if float.is_nan() => "NaN".to_owned(),
            Some(float) if float.is_infinite() => if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
            Some(float) => float_repr(float),
            None => value.to_string(),
        };
        self.out.push_str(&text);
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\0'..='\u{1f}' => self.out.push_str(&format!("\\u{:04x}", c as u32)),
                // A guard is no text: it must stay itself, or the encoder could not take it out again.
                GUARD if self.ensure_ascii && !control::take_literal_guard(&mut chars) => self.out.push(GUARD),
                ' '..='~' => self.out.push(c),
                c if self.ensure_ascii => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn separate(&mut self, depth: usize) {
        self.out.push_str(&self.item_separator);
        self.new_line(depth);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    /// Charges what was written since the last call, so that a huge value stops early.
    fn pay(&mut self) -> Result<(), Error> {
        let fuel = (self.out.len() - self.paid_bytes) / PRINTED_BYTES_PER_FUEL;
        self.paid_bytes += fuel * PRINTED_BYTES_PER_FUEL;
        self.state.consume_fuel(fuel as u64)
    }
}
