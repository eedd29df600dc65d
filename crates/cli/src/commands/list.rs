//! `frontier list`: what the store holds.

use anyhow::Result;
use serde_json::json;

use crate::hub;
use crate::output::{human_bytes, print_json, print_text};
use crate::settings::Settings;

/// List stored models
#[derive(clap::Args, Debug)]
pub(crate) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl List {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let store = hub::open_store(settings)?;
        let models = store.list()?;
        if self.json {
            let rows = models.iter().map(|model| {
                let manifest = &model.manifest;
                json!({
                    "name": manifest.name, "origin": manifest.origin, "revision": manifest.revision,
                    "size_bytes": model.size_bytes(), "path": model.model_path().path, "files": manifest.files,
                })
            });
            return print_json(&rows.collect::<serde_json::Value>());
        }
        if models.is_empty() {
            eprintln!("no models in {}", store.dir().display());
        }
        let width = models.iter().map(|model| model.manifest.name.len()).max().unwrap_or(0);
        for model in &models {
            let (name, revision) = (&model.manifest.name, &model.manifest.revision);
            let short = revision.get(..12).unwrap_or(revision);
            print_text(&format!("{name:width$}  {:>9}  {short}\n", human_bytes(model.size_bytes())))?;
        }
        Ok(())
    }
}
