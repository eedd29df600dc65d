//! `frontier config`: what is set, where it was set, and the generated documentation of it.

use anyhow::Result;

use crate::output::{print_json, print_text};
use crate::settings::{Settings, configuration_md, env_example, explain_json, explain_table};

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
        /// Print JSON
        #[arg(long)]
        json: bool,
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
}

impl Config {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        match self.what {
            What::Explain { json: true } => print_json(&explain_json(settings)),
            What::Explain { json: false } => print_text(&explain_table(settings)),
            What::Document { name: Document::Configuration } => print_text(&configuration_md()),
            What::Document { name: Document::Env } => print_text(&env_example()),
        }
    }
}
