//! What is wrong with settings that only the machine or a model can tell.
//!
//! Such a mistake is found by the command that it stops, and one at a time. When a command was stopped by its settings,
//! [`with_all_others`] looks for everything else that would stop it next, so that one report names all of it.

use anyhow::Result;

use crate::commands::Command;
use crate::device;
use crate::hub;
use crate::load;
use crate::memory::Room;
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

/// With the CPU, for what runs on it whatever the settings say.
pub(crate) fn of_cpu(settings: &Settings) -> Vec<String> {
    device::open_cpu(settings).err().map(of_settings).unwrap_or_default()
}

/// With the device, and with a model that is on this machine already.
pub(crate) fn of_model(model: Option<&str>, usage: Use, settings: &Settings) -> Vec<String> {
    beside_model(of_device(settings), model, Some(usage), settings)
}

/// Beside what was found with the device, what is wrong with a model that is on this machine already. `usage` is what
/// its memory is planned for, where the command makes a plan.
pub(crate) fn beside_model(
    mut found: Vec<String>,
    model: Option<&str>,
    usage: Option<Use>,
    settings: &Settings,
) -> Vec<String> {
    found.extend(hub::no_such_model(model, settings).ok().flatten().map(of_settings).unwrap_or_default());
    // A report of mistakes pulls no model.
    if !hub::find_local(model, settings).is_ok_and(|found| found.is_some()) {
        return found;
    }
    let Ok(open) = load::open(model, settings) else { return found };
    match usage {
        // What fits depends on the device.
        Some(usage) if found.is_empty() => load::plan_problems(&open, usage, settings, Room::default()),
        _ => found.into_iter().chain(load::model_problems(&open, settings).1).collect(),
    }
}

/// What two checks found that do not depend on one another: both results, or all that is wrong.
///
/// # Errors
/// When one of them has failed.
pub(crate) fn both<A, B>(a: Result<A>, b: Result<B>) -> Result<(A, B)> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(problem), Ok(_)) | (Ok(_), Err(problem)) => Err(problem),
        (Err(first), Err(second)) => {
            let mut all = SettingsError(of_any(first));
            all.add(of_any(second));
            Err(all.into())
        }
    }
}

/// The lines of a check of settings.
pub(crate) fn lines(checked: Result<(), SettingsError>) -> Vec<String> {
    checked.err().map(|SettingsError(lines)| lines).unwrap_or_default()
}

/// An error as lines, whatever it is about.
pub(crate) fn of_any(error: anyhow::Error) -> Vec<String> {
    error.downcast::<SettingsError>().map_or_else(|error| vec![one_text(&error)], |SettingsError(lines)| lines)
}

/// An error with its causes. Many errors of libraries repeat their cause; it is told once.
pub(crate) fn one_text(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        if text.is_empty() {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// The lines of an error that is about settings; none of any other.
pub(crate) fn of_settings(error: anyhow::Error) -> Vec<String> {
    error.downcast::<SettingsError>().map(|SettingsError(lines)| lines).unwrap_or_default()
}
