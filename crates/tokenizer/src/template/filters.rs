//! Jinja's filters and tests where minijinja's differ: in what they refuse, in how they print, in what they return.

use std::sync::Arc;

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, filters};

use super::tojson::tojson;
use super::{expression, limits, methods, python, source};

/// Puts them in place of minijinja's.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |state: &State, value: &Value| python::text_of(state, value).map(Value::from));
    environment.add_filter("trim", |state: &State, value: &Value, chars: Option<Arc<str>>| {
        python::text_of(state, value).map(|text| Value::from(methods::strip(&text, chars.as_deref())))
    });
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("join", join);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("int", |state: &mut State, args: Rest<ValueOrKwargs>| {
        number(state, args, Value::from_function(filters::int), Value::from(0))
    });
    environment.add_filter("float", |state: &mut State, args: Rest<ValueOrKwargs>| {
        number(state, args, Value::from_function(filters::float), Value::from(0.0))
    });
    environment.add_filter("list", |state: &mut State, items: Value| {
        Value::from_function(filters::list).call(state, &[iterable(items)?])
    });
    environment.add_filter(source::ITERABLE, iterable);
    environment.add_filter(expression::PAID, paid);
    environment.add_filter(expression::TEXT, |state: &State, value: Value| match value.as_object() {
        Some(_) => python::text_of(state, &value).map(Value::from),
        None => Ok(value),
    });
    environment.remove_filter("pprint"); // prints without a limit
    for (name, filter) in [
        ("map", Value::from_function(filters::map)),
        ("select", Value::from_function(filters::select)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("reject", Value::from_function(filters::reject)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("unique", Value::from_function(filters::unique)),
        ("batch", Value::from_function(filters::batch)),
        ("slice", Value::from_function(filters::slice)),
    ] {
        environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            // Some of them compare or nest items.
            args.first().map_or(Ok(()), |items| limits::pay_items(state, items))?;
            filter.call(state, &args).map(generator)
        });
    }
    for (name, filter) in [
        ("sort", Value::from_function(filters::sort)),
        ("groupby", Value::from_function(filters::groupby)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("sum", Value::from_function(filters::sum)),
        ("format", Value::from_function(filters::format)),
    ] {
        environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            args.iter().try_for_each(|value| limits::pay_items(state, value))?;
            filter.call(state, &args)
        });
    }
    environment.add_test("iterable", |value: &Value| !is_scalar(value));
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
    });
}

/// Passes on what Python can loop over.
fn iterable(value: Value) -> Result<Value, Error> {
    match is_scalar(&value) {
        false => Ok(value),
        true => Err(invalid(format!("{} is not iterable", value.kind()))),
    }
}

fn is_scalar(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number)
}

/// Passes a value on after paying for all its items, however deep.
fn paid(state: &State, value: Value) -> Result<Value, Error> {
    limits::pay_items(state, &value)?;
    Ok(value)
}

/// What a filter returns that is a generator in Jinja: it can be looped over, but has no length and no place in JSON.
fn generator(items: Value) -> Value {
    Value::make_object_iterable(items, |items| match items.try_iter() {
        Ok(items) => Box::new(items.filter(|_| true)), // the adapter hides the length
        Err(_) => Box::new(std::iter::empty()),
    })
}

/// `default(value, default_value="", boolean=False)`.
fn default(value: &Value, other: Option<Value>, boolean: Option<bool>, options: Kwargs) -> Result<Value, Error> {
    let other = match other {
        Some(other) => other,
        None => options.get::<Option<Value>>("default_value")?.unwrap_or_else(|| Value::from("")),
    };
    let boolean = match boolean {
        Some(boolean) => boolean,
        None => options.get::<Option<bool>>("boolean")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    Ok(if value.is_undefined() || (boolean && !value.is_true()) { other } else { value.clone() })
}

/// `join(items, separator="", attribute=None)`, printing each item as Python does.
fn join(
    state: &State,
    items: Value,
    separator: Option<Arc<str>>,
    attribute: Option<Arc<str>>,
    options: Kwargs,
) -> Result<String, Error> {
    let separator = match separator {
        Some(separator) => Some(separator),
        None => options.get::<Option<Arc<str>>>("d")?,
    };
    let attribute = match attribute {
        Some(attribute) => Some(attribute),
        None => options.get::<Option<Arc<str>>>("attribute")?,
    };
    options.assert_all_used()?;
    let mut joined = python::Printer::new(state);
    for (index, item) in iterable(items)?.try_iter()?.checked().enumerate() {
        let mut item = item?;
        if index > 0 {
            joined.text(separator.as_deref().unwrap_or_default());
        }
        if let Some(attribute) = &attribute {
            item = item.get_attr(attribute)?;
        }
        joined.str(&item)?;
    }
    joined.finish()
}

/// `escape(value)`, with the character references that MarkupSafe writes.
fn escape(state: &State, value: &Value) -> Result<String, Error> {
    let text = python::text_of(state, value)?;
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    state.consume_fuel(escaped.len() as u64 / limits::BYTES_PER_FUEL)?;
    Ok(escaped)
}

/// `int` and `float`: what cannot be converted becomes the default, white space around a number does not matter.
fn number(state: &mut State, args: Rest<ValueOrKwargs>, convert: Value, default: Value) -> Result<Value, Error> {
    let mut args = args.into_values();
    if let Some(first) = args.first_mut()
        && let Some(text) = first.as_str()
    {
        *first = Value::from(methods::strip(text, None));
    }
    match convert.call(state, &args) {
        Err(error) if error.kind() != ErrorKind::OutOfFuel => Ok(default),
        result => result,
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
