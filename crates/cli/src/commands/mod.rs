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

use crate::settings::Settings;

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
    /// The model that the command names, whose settings file applies.
    pub(crate) fn model(&self) -> Option<&str> {
        match self {
            Command::Run(command) => command.model.as_deref(),
            Command::Serve(command) => command.only_model(),
            Command::Inspect(command) => Some(&command.model),
            Command::Imatrix(command) => Some(&command.model),
            Command::Logits(command) => Some(&command.model),
            Command::Perplexity(command) => Some(&command.model),
            Command::Plan(command) => command.model.as_deref(),
            Command::Tokenize(command) => Some(&command.model),
            Command::Detokenize(command) => Some(&command.model),
            Command::Render(command) => Some(&command.model),
            Command::Bench(command) => command.model(),
            #[cfg(feature = "gpu")]
            Command::GpuSelftest(_) => None,
            Command::Config(command) => command.model(),
            Command::Quantize(_) | Command::Pull(_) | Command::List(_) | Command::Doctor(_) => None,
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
