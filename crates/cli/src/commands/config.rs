//! `frontier config`: what is set, where it was set, and the generated documentation of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::device;
use crate::load;
use crate::output::{print_json, print_text};
use crate::serving::Use;
use crate::settings::dotenv;
use crate::settings::import::{from_environment, from_process, from_vllm_flags, import};
use crate::settings::{Here, Settings, configuration_md, env_example, explain_json, explain_table};

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
        /// Also say what a model's memory plan makes of the settings
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
}

impl Config {
    /// The model whose settings file applies.
    pub(super) fn model(&self) -> Option<&str> {
        match &self.what {
            What::Explain { model, .. } => model.as_deref(),
            What::Import { .. } | What::Document { .. } => None,
        }
    }

    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        match &self.what {
            What::Explain { model, json } => {
                let here = here(model.as_deref(), settings)?;
                if *json {
                    print_json(&explain_json(settings, &here))
                } else {
                    print_text(&explain_table(settings, &here))
                }
            }
            What::Import { file, flags } => print_text(&imported(file.as_deref(), flags)?),
            What::Document { name: Document::Configuration } => print_text(&configuration_md()),
            What::Document { name: Document::Env } => print_text(&env_example()),
        }
    }
}

/// The device, and the plan of a model.
fn here(model: Option<&str>, settings: &Settings) -> Result<Here> {
    let plan = |model| load::plan(&load::open(Some(model), settings)?, Use::Server, settings);
    Ok(Here { on_gpu: device::is_gpu(settings), plan: model.map(plan).transpose()? })
}

/// The settings of other servers as the text of a `.env` file.
fn imported(file: Option<&Path>, flags: &[String]) -> Result<String> {
    let mut given = match file {
        None => from_process(),
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            let lines = dotenv::parse(&text).into_iter();
            let lines = lines.map(|line| line.map(|assignment| (assignment.name, assignment.value)));
            let lines = lines.collect::<Result<Vec<_>, usize>>();
            let lines = lines.map_err(|line| anyhow!("{}, line {line}: not of the form NAME=VALUE", file.display()))?;
            from_environment(lines.into_iter())
        }
    };
    given.extend(from_vllm_flags(flags));
    if given.is_empty() {
        bail!("nothing to import: no LLAMA_ARG_* or OLLAMA_* variable is set, and no flags follow `--`");
    }
    Ok(import(&given))
}
