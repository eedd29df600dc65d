//! What is wrong with settings that only the machine or a model can tell.
//!
//! Such a mistake is found by the command that it stops, and one at a time. When a command was stopped by its settings,
//! [`with_all_others`] looks for everything else that would stop it next, so that one report names all of it.

use crate::commands::Command;
use crate::device;
use crate::hub;
use crate::load;
use crate::serving::Use;
use crate::settings::{Settings, SettingsError};

/// What stopped a command, and what else would.
pub(crate) fn with_all_others(found: SettingsError, command: &Command, settings: &Settings) -> SettingsError {
    let mut all = found;
    all.add(command.problems(settings));
    all
}

/// With the device that the settings ask for.
pub(crate) fn of_device(settings: &Settings) -> Vec<String> {
    device::open(settings).err().map(of_settings).unwrap_or_default()
}

/// With the device, and with a model that is on this machine already.
pub(crate) fn of_model(model: Option<&str>, usage: Use, settings: &Settings) -> Vec<String> {
    let mut found = of_device(settings);
    found.extend(hub::no_such_model(model, settings).ok().flatten().map(of_settings).unwrap_or_default());
    // A report of mistakes pulls no model.
    if !hub::find_local(model, settings).is_ok_and(|found| found.is_some()) {
        return found;
    }
    match load::open(model, settings) {
        // What fits depends on the device.
        Ok(open) if found.is_empty() => load::plan_problems(&open, usage, settings),
        Ok(open) => found.into_iter().chain(load::model_problems(&open, settings).1).collect(),
        Err(_) => found,
    }
}

/// The lines of an error that is about settings; none of any other.
pub(crate) fn of_settings(error: anyhow::Error) -> Vec<String> {
    error.downcast::<SettingsError>().map(|SettingsError(lines)| lines).unwrap_or_default()
}
