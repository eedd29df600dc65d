//! `frontier pull NAME`: brings a model into the store.

use anyhow::Result;

use crate::hub;
use crate::output::{human_bytes, print_text};
use crate::settings::Settings;

/// Bring a model from the hub into the store
#[derive(clap::Args, Debug)]
pub(crate) struct Pull {
    /// org/repo, org/repo:QUANT or org/repo/FILE, each with an optional @REVISION
    name: String,
}

impl Pull {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let stored = hub::pull_named(&self.name, settings)?;
        let manifest = &stored.manifest;
        let path = stored.model_path().path;
        print_text(&format!("{}  {}  {}\n", manifest.name, human_bytes(stored.size_bytes()), path.display()))
    }
}
