//! The commands, one file each.

mod bench;
mod config;
mod doctor;
#[cfg(feature = "gpu")]
mod gpu_selftest;
mod imatrix;
mod inspect;
mod list;
mod logits;
mod perplexity;
mod plan;
mod pull;
mod quantize;
mod render;
mod run;
mod serve;
mod tokenize;

use anyhow::Result;

use crate::hub;
use crate::problems;
use crate::serving::Use;
use crate::settings::Settings;
use crate::shelf;

/// What to do.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Run(run::Run),
    Serve(serve::Serve),
    Pull(pull::Pull),
    List(list::List),
    Inspect(inspect::Inspect),
    Logits(logits::Logits),
    Perplexity(perplexity::Perplexity),
    Plan(plan::Plan),
    Quantize(quantize::Quantize),
    Imatrix(imatrix::Imatrix),
    Tokenize(tokenize::Tokenize),
    Detokenize(tokenize::Detokenize),
    Render(render::Render),
    Bench(bench::Bench),
    Doctor(doctor::Doctor),
    #[cfg(feature = "gpu")]
    GpuSelftest(gpu_selftest::GpuSelftest),
    Config(config::Config),
}

impl Command {
    /// The model that the command is about: `None` where it is about none or several, `Some(None)` for the configured
    /// one.
    pub(crate) fn model(&self) -> Option<Option<&str>> {
        match self {
            Command::Run(command) => Some(command.model.as_deref()),
            Command::Serve(_) | Command::Plan(_) => None,
            Command::Inspect(command) => Some(Some(&command.model)),
            Command::Imatrix(command) => Some(Some(&command.model)),
            Command::Logits(command) => Some(Some(&command.model)),
            Command::Perplexity(command) => Some(Some(&command.model)),
            Command::Tokenize(command) => Some(Some(&command.model)),
            Command::Detokenize(command) => Some(Some(&command.model)),
            Command::Render(command) => Some(Some(&command.model)),
            Command::Bench(command) => command.model(),
            Command::Config(command) => command.model(),
            #[cfg(feature = "gpu")]
            Command::GpuSelftest(_) => None,
            Command::Quantize(_) | Command::Pull(_) | Command::List(_) | Command::Doctor(_) => None,
        }
    }

    /// Whether a model must be pulled for it before it runs. `serve` and `plan` look for problems and pull by
    /// themselves ([`shelf::Shelf::prepare`]).
    pub(crate) fn would_pull(&self, settings: &Settings) -> bool {
        let model = match self {
            // What is configured is explained with the model or without it.
            Command::Config(command) => command.model().filter(Option::is_some),
            _ => self.model(),
        };
        model.is_some_and(|model| hub::would_pull(model, settings))
    }

    /// The name under which the command's only model is served, whose settings file applies to all that it does.
    pub(crate) fn served_name(&self, settings: &Settings) -> Option<String> {
        match self {
            Command::Serve(command) => command.only_name(settings),
            Command::Plan(command) => shelf::only_name(&command.models, settings),
            // What is explained is what a server would do.
            Command::Config(command) => shelf::only_name(&command.models()?, settings),
            _ => self.model().map(|model| hub::name_of(model, settings)),
        }
    }

    /// What is wrong with settings that only the machine or a model can tell.
    pub(crate) fn problems(&self, settings: &Settings) -> Vec<String> {
        match self {
            Command::Serve(command) => command.problems(settings),
            Command::Run(command) => problems::of_model(command.model.as_deref(), Use::Terminal, settings),
            Command::Plan(command) => command.problems(settings),
            Command::Config(command) => match command.model() {
                Some(model) => problems::of_model(model, Use::Server, settings),
                None => Vec::new(),
            },
            Command::Logits(logits::Logits { model, .. })
            | Command::Perplexity(perplexity::Perplexity { model, .. }) => {
                problems::beside_model(problems::of_device(settings), Some(model), None, settings)
            }
            Command::Imatrix(command) => {
                problems::beside_model(problems::of_cpu(settings), Some(&command.model), None, settings)
            }
            Command::Bench(command) => match command.model() {
                Some(model) => problems::beside_model(problems::of_device(settings), model, None, settings),
                None => problems::of_device(settings),
            },
            _ => Vec::new(),
        }
    }

    /// What is logged unless a setting says otherwise: a server tells what it does, other commands only what is odd.
    pub(crate) fn default_log(&self) -> &'static str {
        if matches!(self, Command::Serve(_)) { "info" } else { "warn" }
    }

    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        match self {
            Command::Run(command) => command.run(settings),
            Command::Serve(command) => command.run(settings),
            Command::Pull(command) => command.run(settings),
            Command::List(command) => command.run(settings),
            Command::Inspect(command) => command.run(settings),
            Command::Logits(command) => command.run(settings),
            Command::Perplexity(command) => command.run(settings),
            Command::Plan(command) => command.run(settings),
            Command::Quantize(command) => command.run(settings),
            Command::Imatrix(command) => command.run(settings),
            Command::Tokenize(command) => command.run(settings),
            Command::Detokenize(command) => command.run(settings),
            Command::Render(command) => command.run(settings),
            Command::Bench(command) => command.run(settings),
            Command::Doctor(command) => command.run(settings),
            #[cfg(feature = "gpu")]
            Command::GpuSelftest(command) => command.run(settings),
            Command::Config(command) => command.run(settings),
        }
    }
}
