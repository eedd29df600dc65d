//! The environment that Hugging Face gives its chat templates, built on minijinja.
//!
//! Block trimming, `tojson`, `raise_exception`, `strftime_now`, Python's methods and Python's way of printing. There is
//! no loader, so `include`, `import` and `extends` find nothing.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior};

use super::clock::CivilTime;
use super::{filters, limits, methods, python};

/// Where [`now_for`] leaves the time of a render for `strftime_now`: a name that no template can spell.
const NOW_VARIABLE: &str = "\0now";

/// What every `include` and `import` looks for, so that a template cannot even include itself.
const NO_TEMPLATE: &str = "\0none";

/// An environment with everything but the template.
pub(super) fn chat_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_recursion_limit(limits::MAX_RECURSION);
    environment.set_debug(false);
    environment.set_path_join_callback(|_, _| NO_TEMPLATE.into());
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, state, value| match value.as_str() {
        Some(text) => Ok(out.write_str(text)?),
        None => Ok(out.write_str(&python::text_of(state, value)?)?),
    });
    filters::add_to(&mut environment);
    environment.add_function("raise_exception", |state: &State, message: &Value| -> Result<Value, Error> {
        let message = python::text_of(state, message)?;
        Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
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
