//! `frontier plan MODEL`: what a model would take of this machine's memory, from its headers alone.

use anyhow::Result;

use crate::load;
use crate::output::{print_json, print_text};
use crate::serving::Use;
use crate::settings::Settings;

/// Predict the memory that serving a model takes, without loading it
#[derive(clap::Args, Debug)]
pub(crate) struct Plan {
    /// Path or name of a model; the default model when not given
    pub(super) model: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Plan {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let open = load::open(self.model.as_deref(), settings)?;
        let plan = load::plan(&open, Use::Server, settings)?;
        if self.json { print_json(&plan.json()) } else { print_text(&plan.table()) }
    }
}
