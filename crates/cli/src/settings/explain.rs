//! `frontier config explain`: every setting with its value, its source and whether it does anything here.

use serde_json::json;

use super::defs::{self, Def, Effect, TABLE};
use super::value::Value;
use super::{Settings, is_loopback};
use crate::memory::{Budget, Plan, clipped_sizes};
use crate::output::human_bytes;

/// What decides about effects besides the settings themselves.
pub(crate) struct Here {
    /// Whether models run on a GPU.
    pub(crate) on_gpu: bool,
    /// What models may take, where the device could tell.
    pub(crate) budget: Option<Budget>,
    /// The plan of the model that was asked about, where it fits.
    pub(crate) plan: Option<Plan>,
}

/// A table for people.
pub(crate) fn explain_table(settings: &Settings, here: &Here) -> String {
    let sizes = sizes(settings, here);
    let rows: Vec<[String; 4]> = TABLE
        .iter()
        .map(|def| {
            let [inert, clipped] = effect(settings, def, here, &sizes);
            [def.env(), settings.shown(def), settings.source(def).to_string(), inert.or(clipped).unwrap_or_default()]
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
    let sizes = sizes(settings, here);
    TABLE
        .iter()
        .map(|def| {
            let [inert, clipped] = effect(settings, def, here, &sizes);
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
                "inert": inert,
                "clipped": clipped,
            })
        })
        .collect()
}

/// Sizes that there is no room for, and how they are clipped: asked once, for the disk is looked at.
fn sizes(settings: &Settings, here: &Here) -> Vec<(&'static Def, String)> {
    let parts = here.plan.as_ref().map(|plan| &plan.bytes);
    here.budget.as_ref().map(|budget| clipped_sizes(settings, budget, parts)).unwrap_or_default()
}

/// Why a setting does nothing here, or else why it is less than it says.
fn effect(settings: &Settings, def: &Def, here: &Here, sizes: &[(&Def, String)]) -> [Option<String>; 2] {
    match inert(settings, def, here) {
        Some(inert) => [Some(inert), None],
        None => [None, clipped(settings, def, here, sizes)],
    }
}

/// Why a setting does nothing here.
fn inert(settings: &Settings, def: &Def, here: &Here) -> Option<String> {
    let by_device = match def.effect {
        Effect::Everywhere => None,
        Effect::Cpu => here.on_gpu.then_some("models run on the GPU"),
        Effect::Gpu => (!here.on_gpu).then_some("models run on the CPU"),
    };
    let why = by_device.map(str::to_owned).or_else(|| by_plan(def, here)).or_else(|| by_setting(settings, def));
    why.map(|why| format!("inert: {why}"))
}

/// Settings of weights that arrive unquantized do nothing for those that do not.
fn by_plan(def: &Def, here: &Here) -> Option<String> {
    const AS_STORED: &str = "the model is quantized already and served as it is";
    here.plan.as_ref().filter(|plan| plan.recipe.is_none())?;
    match def.key {
        "DEFAULT_QUANTIZATION" | "DYNAMIC_QUANTIZATION" | "QUANTIZATION_CACHE_SIZE" => Some(AS_STORED.to_owned()),
        "NUM_THREADS" if here.on_gpu => Some(format!("models run on the GPU, and {AS_STORED}")),
        _ => None,
    }
}

/// Settings that others take the effect from.
fn by_setting(settings: &Settings, def: &Def) -> Option<String> {
    let is = |other: &Def, value: &str| settings.shown(other) == value;
    let is_set = |other: &Def| settings.value(other).is_some();
    let because = |other: &Def| Some(format!("{} is {}", other.env(), settings.shown(other)));
    match def.key {
        "MEMORY_FRACTION" if is_set(&defs::METAL_HEAP_SIZE) => because(&defs::METAL_HEAP_SIZE),
        "MEMORY_POOL_SIZE" if is(&defs::ENABLE_MEMORY_POOLING, "false") => because(&defs::ENABLE_MEMORY_POOLING),
        "ENABLE_MEMORY_POOLING" if is(&defs::MEMORY_POOL_SIZE, "0") => because(&defs::MEMORY_POOL_SIZE),
        "PREFIX_CACHE_SIZE" if is(&defs::ENABLE_PREFIX_CACHING, "false") => because(&defs::ENABLE_PREFIX_CACHING),
        "METAL_COMMAND_QUEUE_SIZE" if is(&defs::METAL_ASYNC_DISPATCH, "false") => because(&defs::METAL_ASYNC_DISPATCH),
        // The smallest that there is.
        "DYNAMIC_QUANTIZATION" if is(&defs::DEFAULT_QUANTIZATION, "q3_k_m") => because(&defs::DEFAULT_QUANTIZATION),
        "INSECURE" if is_set(&defs::API_KEYS) => Some("MISTRAL_API_KEYS is set".to_owned()),
        "INSECURE" if settings.text(&defs::HOST).is_none_or(is_loopback) => because(&defs::HOST),
        "QUEUE_TIMEOUT" | "MAX_QUEUED_TOKENS" if is(&defs::MAX_QUEUED_REQUESTS, "0") => {
            because(&defs::MAX_QUEUED_REQUESTS)
        }
        _ => None,
    }
}

/// Why a setting is less than it says.
fn clipped(settings: &Settings, def: &Def, here: &Here, sizes: &[(&Def, String)]) -> Option<String> {
    let by_plan = |plan: &Plan| {
        let less = |actual: usize| settings.amount(def).is_some_and(|wanted| (actual as u64) < wanted);
        match def.key {
            key if key == defs::MAX_TOTAL_TOKENS.key && less(plan.kv_tokens) => {
                Some(format!("clipped to {} tokens to fit memory", plan.kv_tokens))
            }
            key if key == defs::MAX_SEQ_LEN.key && less(plan.context) => {
                let why = if plan.context < plan.kv_tokens { "the model was trained for" } else { "fit the KV cache" };
                Some(format!("clipped to the {} tokens that {why}", plan.context))
            }
            key if key == defs::DEFAULT_QUANTIZATION.key => {
                let stepped = plan.recipe.filter(|recipe| settings.text(def) != Some(recipe.name()))?;
                Some(format!("stepped down to {} to fit memory", stepped.name()))
            }
            _ => None,
        }
    };
    let by_budget = |budget: &Budget| match def.key {
        "METAL_HEAP_SIZE" => budget.notes.first().cloned(),
        "MEMORY_LIMIT" => {
            budget.below_limit().map(|least| format!("clipped to {}, {}", human_bytes(least.bytes), least.what))
        }
        _ => None,
    };
    let by_room = || sizes.iter().find(|(size, _)| size.key == def.key).map(|(_, how)| how.clone());
    let own = settings.clipped(def).map(str::to_owned).or_else(|| by_whole(settings, def));
    let by_budget = here.budget.as_ref().and_then(by_budget).or_else(by_room);
    own.or(by_budget).or_else(|| here.plan.as_ref().and_then(by_plan))
}

/// The limit of a part is no higher than that of the whole lets it be.
fn by_whole(settings: &Settings, def: &Def) -> Option<String> {
    /// Around a tool's schema: the body, its `tools`, one of them, its `function`.
    const LEVELS_AROUND_SCHEMA: u64 = 4;
    let (whole, most) = match def.key {
        "MAX_SCHEMA_SIZE" => (&defs::MAX_BODY_SIZE, Value::Size(settings.int(&defs::MAX_BODY_SIZE))),
        "MAX_SCHEMA_DEPTH" => {
            (&defs::MAX_JSON_DEPTH, Value::Int(settings.int(&defs::MAX_JSON_DEPTH) - LEVELS_AROUND_SCHEMA))
        }
        _ => return None,
    };
    let is_less = settings.amount(def) > most.amount();
    is_less.then(|| format!("clipped to {most}: {} is {}", whole.env(), settings.shown(whole)))
}

fn value_json(settings: &Settings, def: &Def) -> serde_json::Value {
    match settings.value(def) {
        None => serde_json::Value::Null,
        Some(_) if def.kind.is_secret() => json!("***"),
        Some(Value::Bool(on)) => json!(on),
        Some(Value::Int(n) | Value::Size(n)) => json!(n),
        Some(Value::Fraction(x)) => json!(x),
        Some(Value::Time(time)) => json!(time.as_secs_f64()),
        Some(Value::Text(text)) => json!(text),
    }
}
