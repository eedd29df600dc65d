//! `frontier plan [MODEL...]`: what models would take of this machine's memory, from their headers alone.

use anyhow::Result;
use serde_json::{Value, json};

use crate::memory;
use crate::output::{human_bytes_apart, print_json, print_text};
use crate::problems;
use crate::settings::Settings;
use crate::shelf::Shelf;

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
        shelf.prepare()?;
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
        let (mut shelf, mut found) = Shelf::find(&self.models, settings);
        found.extend(shelf.problems());
        found.extend(problems::lines(shelf.plans().map(drop)));
        found
    }
}

/// A plan of each model, and what all take together.
fn tables_of(plans: &[(&str, Result<memory::Plan>)]) -> String {
    let table = |(name, plan): &(&str, Result<memory::Plan>)| match plan {
        Ok(plan) => plan.table() + "\n",
        Err(problem) => format!("{name}: cannot be served: {problem:#}\n\n"),
    };
    let memories = memories(plans);
    let together = |Memory { name, total, budget }: &Memory<'_>| {
        let place = if memories.len() > 1 { format!(" in {name}") } else { String::new() };
        let [all, most] = human_bytes_apart([*total, budget.unwrap_or(u64::MAX)]);
        let how = match budget {
            Some(budget) if total > budget => {
                format!(" exceed the budget of {most}: models are unloaded for others, those unused for longest first")
            }
            Some(_) => format!(", within the budget of {most}"),
            None => String::new(),
        };
        format!("all at once{place}: {all}{how}\n")
    };
    plans.iter().map(table).chain(memories.iter().map(together)).collect()
}

fn json_of(plans: &[(&str, Result<memory::Plan>)]) -> Value {
    let model = |(name, plan): &(&str, Result<memory::Plan>)| match plan {
        Ok(plan) => plan.json(),
        Err(problem) => json!({ "model": name, "error": format!("{problem:#}") }),
    };
    let memory = |Memory { name, total, budget }: Memory<'_>| json!({ "memory": name, "total_bytes": total, "budget_bytes": budget });
    json!({
        "models": plans.iter().map(model).collect::<Vec<_>>(),
        "memories": memories(plans).into_iter().map(memory).collect::<Vec<_>>(),
    })
}

/// A memory that models are in.
struct Memory<'a> {
    name: &'a str,
    /// What they take of it, all at once.
    total: u64,
    /// What they may take: the least budget of any of them.
    budget: Option<u64>,
}

/// The memories that models are in, each once.
fn memories<'a>(plans: &'a [(&str, Result<memory::Plan>)]) -> Vec<Memory<'a>> {
    let mut memories: Vec<Memory<'a>> = Vec::new();
    for plan in plans.iter().filter_map(|(_, plan)| plan.as_ref().ok()) {
        let (name, total, whole) = (plan.budget.memory.as_str(), plan.bytes.total(), plan.budget.whole_bytes);
        match memories.iter_mut().find(|memory| memory.name == name) {
            Some(memory) => {
                memory.total += total;
                memory.budget = memory.budget.into_iter().chain(whole).min();
            }
            None => memories.push(Memory { name, total, budget: whole }),
        }
    }
    memories
}
