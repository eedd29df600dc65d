//! Models by name: what a name means, the local store, and pulling from a hub.
//!
//! A pulled file becomes visible only when all of its bytes are there and its hash is right; a model becomes visible
//! only when all of its files are. Nothing here opens a model. Start with [`resolve`].

mod client;
mod default_model;
mod download;
mod listing;
mod reference;
mod store;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::settings::{Settings, SettingsError, cache_dir, defs};

pub(crate) use default_model::DEFAULT_MODEL;
pub(crate) use reference::Reference;
pub(crate) use store::{Store, StoredModel};

/// Where a model is and what it is called.
#[derive(Clone, Debug)]
pub(crate) struct ModelPath {
    pub(crate) path: PathBuf,
    /// As `/v1/models` shows it.
    pub(crate) name: String,
}

/// Finds the model that `model` means: a path, a stored name or a hub repository, in this order; the latter is pulled
/// when it is not stored yet. `None` is the configured default.
pub(crate) fn resolve(model: Option<&str>, settings: &Settings) -> Result<ModelPath> {
    if let Some(found) = find_local(model, settings)? {
        return Ok(found);
    }
    if let Some(problem) = no_such_model(model, settings)? {
        return Err(problem);
    }
    let name = asked_for(model, settings);
    if name == DEFAULT_MODEL {
        return Ok(default_model::fetch(&open_store(settings)?, settings)?.model_path());
    }
    Ok(pull(&Reference::parse(name)?, settings)?.model_path())
}

/// [`resolve`] without asking any hub; `None` for a model that would have to be pulled, or that nobody knows.
pub(crate) fn find_local(model: Option<&str>, settings: &Settings) -> Result<Option<ModelPath>> {
    let name = asked_for(model, settings);
    let path = Path::new(name);
    if path.exists() {
        return Ok(Some(ModelPath { path: path.to_owned(), name: name_of_path(path) }));
    }
    let store = open_store(settings)?;
    if let Some(stored) = store.find(name)? {
        return Ok(Some(stored.model_path()));
    }
    let Ok(reference) = Reference::parse(name) else { return Ok(None) };
    let stored = store.find(&reference.stored_name())?;
    Ok(stored.filter(|stored| stored.manifest.revision == reference.revision).map(|stored| stored.model_path()))
}

/// Whether [`resolve`] would pull it.
pub(crate) fn would_pull(model: Option<&str>, settings: &Settings) -> bool {
    let is_absent = find_local(model, settings).is_ok_and(|found| found.is_none());
    is_absent && no_such_model(model, settings).is_ok_and(|problem| problem.is_none())
}

/// The name under which a model is served, whether it is there or would have to be pulled first.
pub(crate) fn name_of(model: Option<&str>, settings: &Settings) -> String {
    let name = asked_for(model, settings);
    match (find_local(model, settings), Reference::parse(name)) {
        (Ok(Some(found)), _) => found.name,
        (_, Ok(reference)) => reference.stored_name(),
        (_, Err(_)) => name.to_owned(),
    }
}

/// What was asked for: the argument, MISTRAL_MODEL, or the default model.
fn asked_for<'a>(model: Option<&'a str>, settings: &'a Settings) -> &'a str {
    full_name(model.or(settings.text(&defs::MODEL)).unwrap_or(DEFAULT_MODEL))
}

/// That what was asked for is neither on this machine nor the name of something on a hub.
pub(crate) fn no_such_model(model: Option<&str>, settings: &Settings) -> Result<Option<anyhow::Error>> {
    let name = asked_for(model, settings);
    if name == DEFAULT_MODEL || Reference::parse(name).is_ok() || find_local(model, settings)?.is_some() {
        return Ok(None);
    }
    let hint = if name.contains(' ') { "; for a prompt alone: frontier run default PROMPT" } else { "" };
    let store = open_store(settings)?;
    let problem = format!(
        "no such file or directory, not in the store ({}), and not of the form org/repo[:quant]{hint}",
        store.dir().display()
    );
    let what = match model {
        Some(_) => format!("model {name:?}"),
        None => format!("MISTRAL_MODEL={name} ({})", settings.source(&defs::MODEL)),
    };
    Ok(Some(SettingsError(vec![format!("{what}: {problem}")]).into()))
}

/// Pulls a model, the default one by its name as well. Does nothing when it is stored at the same revision already.
pub(crate) fn pull_named(name: &str, settings: &Settings) -> Result<StoredModel> {
    let name = full_name(name);
    if name == DEFAULT_MODEL {
        let store = open_store(settings)?;
        return match store.find(DEFAULT_MODEL)? {
            Some(stored) => Ok(stored),
            None => default_model::fetch(&store, settings),
        };
    }
    pull(&Reference::parse(name)?, settings)
}

/// `default` stands for the default model's name.
fn full_name(name: &str) -> &str {
    if name == "default" { DEFAULT_MODEL } else { name }
}

fn pull(reference: &Reference, settings: &Settings) -> Result<StoredModel> {
    let hub = client::Hub::new(settings)?;
    let store = open_store(settings)?;
    download::pull(&hub, &store, reference, &reference.stored_name(), settings.int(&defs::MAX_PULL_SIZE))
}

/// The store that the settings name.
pub(crate) fn open_store(settings: &Settings) -> Result<Store> {
    let configured = settings.text(&defs::MODEL_DIR).map(PathBuf::from);
    let dir = configured
        .or_else(|| cache_dir().map(|dir| dir.join("models")))
        .context("no home directory: set MISTRAL_MODEL_DIR to where models shall be kept")?;
    Ok(Store::open(dir))
}

/// A file's name without `.gguf`, a directory's name. A link counts by its own name, not by what it leads to.
fn name_of_path(path: &Path) -> String {
    // `.` and `..` have no names of their own.
    let full = if path.file_name().is_some() { Ok(path.to_owned()) } else { path.canonicalize() };
    let full = full.unwrap_or_default();
    let name = full.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match name.strip_suffix(".gguf").or_else(|| name.strip_suffix(".safetensors")) {
        Some(stem) => stem.to_owned(),
        None => name,
    }
}
