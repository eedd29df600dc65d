//! `frontier config explain`: every setting with its value, its source and whether it does anything here.

use serde_json::json;

use super::Settings;
use super::defs::{Def, Effect, TABLE};

/// A table for people.
pub(crate) fn explain_table(settings: &Settings) -> String {
    let rows: Vec<[String; 4]> = TABLE
        .iter()
        .map(|def| {
            let note = inert(def).unwrap_or_default();
            [def.env(), settings.shown(def), settings.source(def).to_string(), note.to_owned()]
        })
        .collect();
    let mut width = ["SETTING", "VALUE", "SOURCE"].map(str::len);
    for row in &rows {
        for (width, cell) in width.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let [a, b, c] = width;
    let line = |name: &str, value: &str, source: &str, note: &str| {
        format!("{name:a$}  {value:b$}  {source:c$}  {note}").trim_end().to_owned() + "\n"
    };
    let mut text = line("SETTING", "VALUE", "SOURCE", "NOTE");
    text.extend(rows.iter().map(|[name, value, source, note]| line(name, value, source, note)));
    text
}

/// An array of objects for scripts. Sizes are in bytes, times in seconds.
pub(crate) fn explain_json(settings: &Settings) -> serde_json::Value {
    TABLE
        .iter()
        .map(|def| {
            json!({
                "name": def.env(),
                "value": value_json(settings, def),
                "text": settings.shown(def),
                "unit": def.kind.unit(),
                "source": settings.source(def).kind(),
                "from": settings.source(def).to_string(),
                "default": def.default,
                "allowed": def.kind.allowed(),
                "inert": inert(def),
            })
        })
        .collect()
}

/// Why a setting does nothing here.
fn inert(def: &Def) -> Option<&'static str> {
    (def.effect == Effect::NotYet).then_some("inert: not acted on in this version")
}

fn value_json(settings: &Settings, def: &Def) -> serde_json::Value {
    use super::value::{Kind, Value};
    match settings.value(def) {
        None => serde_json::Value::Null,
        Some(_) if matches!(def.kind, Kind::Secret) => json!("***"),
        Some(Value::Bool(on)) => json!(on),
        Some(Value::Int(n) | Value::Size(n)) => json!(n),
        Some(Value::Fraction(x)) => json!(x),
        Some(Value::Time(time)) => json!(time.as_secs_f64()),
        Some(Value::Text(text)) => json!(text),
    }
}
