//! How Python prints values: `str`, `repr` and the shortest text of a float.
//!
//! Templates were written against Jinja on Python, and what `{{ x }}` prints ends up in the prompt, so lists,
//! dictionaries, floats and strings inside containers must come out as Python writes them.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::control::{self, GUARD};

/// Bytes of printed text paid by one unit of fuel: printing walks values, which is slower than copying bytes.
pub(super) const PRINTED_BYTES_PER_FUEL: usize = 8;

/// Nesting at which printing a value gives up; parsed JSON never gets here.
const MAX_DEPTH: usize = 128;

/// `str(value)`, paid with the fuel of the render: a value may be far larger printed than it is in memory.
pub(super) fn text_of(state: &State, value: &Value) -> Result<String, Error> {
    let mut printer = Printer::new(state);
    printer.str(value)?;
    printer.finish()
}

/// Text that grows by printed values.
pub(super) struct Printer<'a, 'env, 'template> {
    out: String,
    state: &'a State<'env, 'template>,
    paid_bytes: usize,
}

impl<'a, 'env, 'template> Printer<'a, 'env, 'template> {
    pub(super) fn new(state: &'a State<'env, 'template>) -> Self {
        Self { out: String::new(), state, paid_bytes: 0 }
    }

    pub(super) fn finish(mut self) -> Result<String, Error> {
        self.pay()?;
        Ok(self.out)
    }

    /// Appends plain text.
    pub(super) fn text(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Appends `str(value)`.
    pub(super) fn str(&mut self, value: &Value) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => self.out.push_str(text),
            None if value.is_undefined() => {}
            None => self.repr(value, 0)?,
        }
        self.pay()
    }

    fn repr(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("value nests deeper than {MAX_DEPTH}")));
        }
        self.pay()?;
        match value.kind() {
            ValueKind::String => write_string_repr(&mut self.out, value.as_str().unwrap_or_default()),
            ValueKind::Number => match as_float(value) {
                Some(float) => self.out.push_str(&float_repr(float)),
                None => self.out.push_str(&value.to_string()),
            },
            ValueKind::Seq | ValueKind::Iterable => {
                let tuple = value.is_tuple();
                self.out.push(if tuple { '(' } else { '[' });
                let mut len = 0;
                for item in value.try_iter()?.checked() {
                    if len > 0 {
                        self.out.push_str(", ");
                    }
                    self.repr(&item?, depth + 1)?;
                    len += 1;
                }
                self.out.push_str(match (tuple, len) {
                    (true, 1) => ",)",
                    (true, _) => ")",
                    (false, _) => "]",
                });
            }
            ValueKind::Map => {
                self.out.push('{');
                for (index, key) in value.try_iter()?.checked().enumerate() {
                    if index > 0 {
                        self.out.push_str(", ");
                    }
                    let key = key?;
                    self.repr(&key, depth + 1)?;
                    self.out.push_str(": ");
                    self.repr(&value.get_item(&key)?, depth + 1)?;
                }
                self.out.push('}');
            }
            ValueKind::Undefined => self.out.push_str("Undefined"),
            _ => self.out.push_str(&value.to_string()),
        }
        Ok(())
    }

    /// Charges what was written since the last call.
    fn pay(&mut self) -> Result<(), Error> {
        let fuel = (self.out.len() - self.paid_bytes) / PRINTED_BYTES_PER_FUEL;
        self.paid_bytes += fuel * PRINTED_BYTES_PER_FUEL;
        self.state.consume_fuel(fuel as u64)
    }
}

/// The text of a float as `repr` writes it: the shortest digits that read back, an exponent from 1e16 and below 1e-4.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("`{:e}` always writes an exponent");
    let exponent: i32 = exponent.parse().expect("`{:e}` writes a decimal exponent");
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

/// Whether a number is a Python `float` (and not an `int`).
pub(super) fn as_float(value: &Value) -> Option<f64> {
    if value.is_number() && !value.is_integer() { f64::try_from(value.clone()).ok() } else { None }
}

/// A string literal: single quotes unless only the other kind avoids escapes.
fn write_string_repr(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            GUARD if !control::take_literal_guard(&mut chars) => out.push(GUARD),
            c if is_printable(c) => out.push(c),
            c => {
                let code = c as u32;
                out.push_str(&match code {
                    0..=0xFF => format!("\\x{code:02x}"),
                    0x100..=0xFFFF => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                });
            }
        }
    }
    out.push(quote);
}

/// `str.isprintable` for one character, without the unassigned code points.
fn is_printable(c: char) -> bool {
    let code = c as u32;
    let separator_or_format = matches!(code,
        0xA0 | 0xAD | 0x0600..=0x0605 | 0x061C | 0x06DD | 0x070F | 0x0890..=0x0891 | 0x08E2 | 0x1680 | 0x180E
        | 0x2000..=0x200F | 0x2028..=0x202F | 0x205F..=0x206F | 0x3000 | 0xFEFF | 0xFFF9..=0xFFFB
        | 0xE000..=0xF8FF | 0x110BD | 0x110CD | 0x13430..=0x1343F | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A
        | 0xE0000..=0xE007F | 0xF0000..=0x10FFFF);
    let noncharacter = (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE;
    !(c.is_control() || separator_or_format || noncharacter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_python_repr() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (123456.789, "123456.789"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float_repr(value), expected);
        }
    }

    #[test]
    fn strings_quote_as_python_repr() {
        for (text, expected) in [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("\"it's\"", "'\"it\\'s\"'"),
            ("a\n\t\\\u{7f}\u{a0}", "'a\\n\\t\\\\\\x7f\\xa0'"),
            ("é😀\u{200b}\u{E0001}", "'é😀\\u200b\\U000e0001'"),
        ] {
            let mut out = String::new();
            write_string_repr(&mut out, text);
            assert_eq!(out, expected);
        }
    }
}
