//! `frontier config`: what is set, where it was set, and the generated documentation of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::device;
use crate::hub;
use crate::load;
use crate::memory::{Plan, Room};
use crate::output::{print_json, print_text};
use crate::problems;
use crate::serving::Use;
use crate::settings::dotenv;
use crate::settings::import::{from_environment, from_vllm_flags, import, is_theirs, of_process};
use crate::settings::{Here, Settings, SettingsError, configuration_md, env_example, explain_json, explain_table};
use crate::shelf::Shelf;

/// Show settings and where they come from
#[derive(clap::Args, Debug)]
pub(crate) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Print every setting with its value, its source and whether it does anything here
    Explain {
        /// Model whose memory plan is made with the settings; the configured one, where it is here, when none is given
        model: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the settings of llama.cpp (LLAMA_ARG_*), Ollama (OLLAMA_*) or vLLM (flags) as ours, for a `.env` file
    Import {
        /// Read variables from this file instead of the environment
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// vLLM's command line, after `--`
        #[arg(last = true, value_name = "VLLM")]
        flags: Vec<String>,
    },
    /// Print a generated document
    #[command(hide = true)]
    Document {
        /// Which one
        name: Document,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Document {
    /// docs/configuration.md
    Configuration,
    /// .env.example
    Env,
    /// docs/metrics.md
    Metrics,
}

impl Config {
    /// The model that is asked about: `Some(None)` is the configured one.
    pub(super) fn model(&self) -> Option<Option<&str>> {
        match &self.what {
            What::Explain { model, .. } => Some(model.as_deref()),
            What::Import { .. } | What::Document { .. } => None,
        }
    }

    /// The arguments of a server that would do what is explained.
    pub(super) fn models(&self) -> Option<Vec<String>> {
        Some(self.model()?.map(str::to_owned).into_iter().collect())
    }

    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        match &self.what {
            What::Explain { model, json } => {
                let (here, problems) = here(model.as_deref(), settings)?;
                if *json {
                    print_json(&explain_json(settings, &here))?;
                } else {
                    print_text(&explain_table(settings, &here))?;
                }
                // The table shows what is set, whether or not that can work here.
                problems.iter().for_each(|problem| tracing::warn!("cannot be served: {problem}"));
                Ok(())
            }
            What::Import { file, flags } => print_text(&imported(file.as_deref(), flags)?),
            What::Document { name: Document::Configuration } => print_text(&configuration_md()),
            What::Document { name: Document::Env } => print_text(&env_example()),
            What::Document { name: Document::Metrics } => print_text(&server::metrics_md()),
        }
    }
}

/// The device, and the plan of a model: the one that is named, or the configured one where it is on this machine. Also
/// what keeps it from being served with these settings.
fn here(model: Option<&str>, settings: &Settings) -> Result<(Here, Vec<String>)> {
    let on_gpu = device::is_gpu(settings);
    let budget = match device::budget(settings) {
        Ok(budget) => Some(budget),
        Err(_) => return Ok((Here { on_gpu, budget: None, plan: None }, problems::of_device(settings))),
    };
    let named: Vec<String> = model.map(str::to_owned).into_iter().collect();
    let (mut shelf, mut found) = Shelf::find(&named, settings);
    let Some(only) = shelf.only() else {
        let several = shelf.names().count() > 1;
        if !several && model.is_some() {
            return Err(SettingsError(found).into());
        }
        let (plan, problems) = if several { first_plan(&mut shelf) } else { (None, Vec::new()) };
        return Ok((Here { on_gpu, budget, plan }, [found, problems].concat()));
    };
    let is_here = hub::find_local(only.model(), settings).map(|at| at.is_some());
    if model.is_none() && matches!(is_here, Ok(false)) {
        return Ok((Here { on_gpu, budget, plan: None }, found));
    }
    let open = match is_here.and_then(|_| load::open(only.model(), settings)) {
        Ok(open) => open,
        Err(problem) if model.is_some() => return Err(problem),
        Err(problem) => {
            found.extend(problems::of_any(problem));
            return Ok((Here { on_gpu, budget, plan: None }, found));
        }
    };
    match load::plan(&open, Use::Server, settings) {
        Ok(plan) => Ok((Here { on_gpu, budget, plan: Some(plan) }, found)),
        Err(problem) => match load::plan_problems(&open, Use::Server, settings, Room::default()) {
            of_settings if of_settings.is_empty() => Err(problem),
            of_settings => Ok((Here { on_gpu, budget, plan: None }, [found, of_settings].concat())),
        },
    }
}

/// Of several models the plan of the first that has one, beside the others as a server takes them, which is said; and
/// what keeps any from being served.
fn first_plan(shelf: &mut Shelf) -> (Option<Plan>, Vec<String>) {
    let count = shelf.names().count();
    let mut found = SettingsError(shelf.problems());
    let plans = shelf.plans().unwrap_or_else(|SettingsError(problems)| {
        found.add(problems);
        Vec::new()
    });
    let plan = plans.into_iter().find_map(|(name, plan)| Some((name, plan.ok()?))).map(|(name, plan)| {
        tracing::warn!("{count} models would be served: notes about memory are of {name}");
        plan
    });
    (plan, found.0)
}

/// The settings of other servers as the text of a `.env` file.
fn imported(file: Option<&Path>, flags: &[String]) -> Result<String> {
    let all = file.map_or_else(|| Ok(of_process().collect()), assignments)?;
    let (theirs, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| is_theirs(name));
    let mut given = from_environment(theirs.into_iter());
    given.extend(from_vllm_flags(flags));
    if given.is_empty() {
        bail!(
            "nothing to import: no variable of llama.cpp (LLAMA_ARG_*, LLAMA_*) or Ollama (OLLAMA_*) is {}, and no flags follow `--`",
            file.map_or("set".to_owned(), |file| format!("in {}", file.display()))
        );
    }
    let others: Vec<String> = others.into_iter().map(|(name, _)| name).collect();
    let rest = format!("# names of neither llama.cpp nor Ollama, left out: {}\n", others.join(", "));
    Ok(import(&given) + if others.is_empty() { "" } else { &rest })
}

/// Names and values in a file of the form of `.env`.
fn assignments(file: &Path) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let lines = dotenv::parse(&text).into_iter();
    let lines = lines.map(|line| line.map(|assignment| (assignment.name, assignment.value)));
    let lines = lines.collect::<Result<Vec<_>, usize>>();
    lines.map_err(|line| anyhow!("{}, line {line}: not of the form NAME=VALUE", file.display()))
}
