//! `frontier config explain`: every setting with its value, its source and whether it does anything here.

use serde_json::json;

use super::Settings;
use super::defs::{self, Def, Effect, TABLE};
use crate::memory::Plan;

/// What decides about effects besides the settings themselves.
pub(crate) struct Here {
    /// Whether models run on a GPU.
    pub(crate) on_gpu: bool,
    /// The plan of the model that was asked about.
    pub(crate) plan: Option<Plan>,
}

/// A table for people.
pub(crate) fn explain_table(settings: &Settings, here: &Here) -> String {
    let rows: Vec<[String; 4]> = TABLE
        .iter()
        .map(|def| {
            let note = clipped(settings, def, here).or(inert(def, here).map(str::to_owned)).unwrap_or_default();
            [def.env(), settings.shown(def), settings.source(def).to_string(), note]
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
pub(crate) fn explain_json(settings: &Settings, here: &Here) -> serde_json::Value {
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
                "samples": def.kind.samples(),
                "inert": inert(def, here),
                "clipped": clipped(settings, def, here),
            })
        })
        .collect()
}

/// Why a setting does nothing here.
fn inert(def: &Def, here: &Here) -> Option<&'static str> {
    match def.effect {
        Effect::Everywhere if def.key == defs::DEFAULT_QUANTIZATION.key => {
            let as_stored = here.plan.as_ref().is_some_and(|plan| plan.recipe.is_none());
            as_stored.then_some("inert: the model is quantized already and served as it is")
        }
        Effect::Everywhere => None,
        Effect::Cpu => here.on_gpu.then_some("inert: models run on the GPU"),
        Effect::Gpu => (!here.on_gpu).then_some("inert: models run on the CPU"),
    }
}

/// Why a setting is less than it says.
fn clipped(settings: &Settings, def: &Def, here: &Here) -> Option<String> {
    let by_plan = |plan: &Plan| {
        let less = |actual: usize| settings.amount(def).is_some_and(|wanted| (actual as u64) < wanted);
        match def.key {
            key if key == defs::MAX_TOTAL_TOKENS.key && less(plan.kv_tokens) => {
                Some(format!("clipped to {} tokens to fit memory", plan.kv_tokens))
            }
            key if key == defs::MAX_SEQ_LEN.key && less(plan.context) => {
                Some(format!("clipped to {} tokens to fit the KV cache", plan.context))
            }
            key if key == defs::METAL_HEAP_SIZE.key => plan.budget.notes.first().cloned(),
            key if key == defs::DEFAULT_QUANTIZATION.key => {
                let stepped = plan.recipe.filter(|recipe| settings.text(def) != Some(recipe.name()))?;
                Some(format!("stepped down to {} to fit memory", stepped.name()))
            }
            _ => None,
        }
    };
    settings.clipped(def).map(str::to_owned).or_else(|| here.plan.as_ref().and_then(by_plan))
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
