//! Stands in for `gpu.rs` in a build without GPU support.

use anyhow::Result;

use super::Device;
use crate::settings::{Settings, SettingsError, defs};

/// `auto` finds no GPU; any other name is refused.
pub(super) fn open(wanted: &str, settings: &Settings) -> Result<Option<Device>> {
    if wanted == "auto" {
        return Ok(None);
    }
    Err(SettingsError(vec![format!(
        "MISTRAL_DEVICE={wanted} ({}): this build has no GPU support (cargo feature `gpu`); allowed: auto, cpu",
        settings.source(&defs::DEVICE)
    )])
    .into())
}

/// Whether there is an adapter that `auto` would take.
pub(super) fn has_hardware() -> bool {
    false
}

/// The GPU adapters, a line each.
pub(crate) fn adapters() -> Vec<String> {
    vec!["this build has no GPU support (cargo feature `gpu`)".to_owned()]
}
