//! The commands, one file each.

mod config;
mod list;
mod pull;

use anyhow::Result;

use crate::settings::Settings;

/// What to do.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Pull(pull::Pull),
    List(list::List),
    Config(config::Config),
}

impl Command {
    /// The model that the command names, whose settings file applies.
    pub(crate) fn model(&self) -> Option<&str> {
        None
    }

    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        match self {
            Command::Pull(command) => command.run(settings),
            Command::List(command) => command.run(settings),
            Command::Config(command) => command.run(settings),
        }
    }
}
