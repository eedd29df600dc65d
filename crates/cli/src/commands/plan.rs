//! `frontier plan [MODEL...]`: what models would take of this machine's memory, from their headers alone.

use anyhow::Result;
use serde_json::{Value, json};

use crate::memory;
use crate::output::{human_bytes, print_json, print_text};
use crate::problems;
use crate::serving::Use;
use crate::settings::Settings;
use crate::shelf::{self, Shelf};

/// Predict the memory that serving models takes, without loading them
#[derive(clap::Args, Debug)]
pub(crate) struct Plan {
    /// Paths or names of models, or a directory of them, as `serve` takes them; the default model when none is given
    pub(super) models: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Plan {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let mut shelf = Shelf::new(&self.models, settings)?;
        shelf.read_settings()?;
        shelf.warn_of_unused_settings();
        let plans = shelf.plans()?;
        match plans.as_slice() {
            [(_, Ok(only))] if self.json => print_json(&only.json()),
            [(_, Ok(only))] => print_text(&only.table()),
            several if self.json => print_json(&json_of(several)),
            several => print_text(&tables_of(several)),
        }
    }

    /// What keeps the plans from being made.
    pub(super) fn problems(&self, settings: &Settings) -> Vec<String> {
        if shelf::is_local(&self.models, settings)
            && let Ok(mut shelf) = Shelf::new(&self.models, settings)
        {
            return shelf.problems();
        }
        let asked = shelf::asked(&self.models, settings).unwrap_or_default();
        problems::of_model(asked.first().and_then(shelf::Asked::model), Use::Server, settings)
    }
}

/// A plan of each model, and what all take together.
fn tables_of(plans: &[(&str, Result<memory::Plan>)]) -> String {
    let table = |(name, plan): &(&str, Result<memory::Plan>)| match plan {
        Ok(plan) => plan.table() + "\n",
        Err(problem) => format!("{name}: cannot be served: {problem:#}\n\n"),
    };
    let (total, budget) = together(plans);
    let all = human_bytes(total);
    let together = match budget {
        Some(budget) if total > budget => format!(
            "all at once: {all} exceed the budget of {}: models that are loaded later get a smaller KV cache, or others are \
             unloaded for them\n",
            human_bytes(budget)
        ),
        Some(budget) => format!("all at once: {all}, within the budget of {}\n", human_bytes(budget)),
        None => format!("all at once: {all}\n"),
    };
    plans.iter().map(table).collect::<String>() + &together
}

fn json_of(plans: &[(&str, Result<memory::Plan>)]) -> Value {
    let model = |(name, plan): &(&str, Result<memory::Plan>)| match plan {
        Ok(plan) => plan.json(),
        Err(problem) => json!({ "model": name, "error": format!("{problem:#}") }),
    };
    let (total, budget) = together(plans);
    json!({ "models": plans.iter().map(model).collect::<Vec<_>>(), "total_bytes": total, "budget_bytes": budget })
}

/// What all models take, and what they may: the least budget of any.
fn together(plans: &[(&str, Result<memory::Plan>)]) -> (u64, Option<u64>) {
    let made = || plans.iter().filter_map(|(_, plan)| plan.as_ref().ok());
    (made().map(|plan| plan.bytes.total()).sum(), made().filter_map(|plan| plan.budget.bytes).min())
}
