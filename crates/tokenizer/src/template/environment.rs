//! The environment that Hugging Face gives its chat templates, built on minijinja.
//!
//! Block trimming, `tojson`, `raise_exception`, `strftime_now`, Python's methods and Python's way of printing. There is
//! no loader, so `include`, `import` and `extends` find nothing.

use std::fmt;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, filters};

use super::clock::CivilTime;
use super::limits;
use super::methods;
use super::python;
use super::source;
use super::tojson::tojson;

/// Where [`now_for`] leaves the time of a render for `strftime_now`: a name that no template can spell.
const NOW_VARIABLE: &str = "\0now";

/// An environment with everything but the template.
pub(super) fn chat_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_recursion_limit(limits::MAX_RECURSION);
    environment.set_debug(false);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, _state, value| {
        if let Some(text) = value.as_str() {
            return Ok(out.write_str(text)?);
        }
        let mut text = String::new();
        python::write_str(&mut text, value)?;
        Ok(out.write_str(&text)?)
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: &Value| text_of(value).map(Value::from));
    environment.add_filter("trim", |value: &Value, chars: Option<Arc<str>>| {
        text_of(value).map(|text| Value::from(methods::strip(&text, chars.as_deref())))
    });
    environment.add_filter("join", join);
    environment.add_filter(source::ITERABLE, iterable);
    environment.add_test("iterable", |value: &Value| !is_scalar(value));
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
            filter.call(state, &args.into_values()).map(generator)
        });
    }
    environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(text_of(message)?)))
    });
    environment.add_function("strftime_now", strftime_now);
    environment.remove_global("debug"); // minijinja's own
    environment
}

/// The context entry that makes `strftime_now` tell this time.
pub(super) fn now_for(time: CivilTime) -> (&'static str, Value) {
    (NOW_VARIABLE, Value::from_object(Now(time)))
}

/// What `raise_exception` carries out of a template.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

#[derive(Debug)]
struct Now(CivilTime);

impl minijinja::value::Object for Now {}

fn strftime_now(state: &State, format: &str) -> Result<String, Error> {
    let now = state.lookup(NOW_VARIABLE);
    let now = now.as_ref().and_then(|value| value.downcast_object_ref::<Now>());
    Ok(now.map_or_else(CivilTime::now, |now| now.0).strftime(format))
}

fn text_of(value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    python::write_str(&mut text, value)?;
    Ok(text)
}

/// Passes on what Python can loop over.
fn iterable(value: Value) -> Result<Value, Error> {
    match is_scalar(&value) {
        false => Ok(value),
        true => Err(Error::new(ErrorKind::InvalidOperation, format!("{} is not iterable", value.kind()))),
    }
}

fn is_scalar(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number)
}

/// What a filter returns that is a generator in Jinja: it can be looped over, but has no length and no place in JSON.
fn generator(items: Value) -> Value {
    Value::make_object_iterable(items, |items| match items.try_iter() {
        Ok(items) => Box::new(items.filter(|_| true)), // the adapter hides the length
        Err(_) => Box::new(std::iter::empty()),
    })
}

/// `join(items, separator="", attribute=None)`, printing each item as Python does.
fn join(
    state: &State,
    items: &Value,
    separator: Option<Arc<str>>,
    attribute: Option<Arc<str>>,
) -> Result<String, Error> {
    let items = iterable(items.clone())?;
    let separator = separator.as_deref().unwrap_or_default();
    let mut joined = String::new();
    let mut paid_bytes = 0;
    for (index, item) in items.try_iter()?.checked().enumerate() {
        let mut item = item?;
        if index > 0 {
            joined.push_str(separator);
        }
        if let Some(attribute) = &attribute {
            item = item.get_attr(attribute)?;
        }
        python::write_str(&mut joined, &item)?;
        state.consume_fuel(1 + (joined.len() - paid_bytes) as u64 / limits::BYTES_PER_FUEL)?;
        paid_bytes = joined.len();
    }
    Ok(joined)
}
