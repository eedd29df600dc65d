//! The models that a server offers, by name, and how each is loaded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use engine::Observer;
use server::{LoadError, Loader, Metrics, ServedModel};

use crate::hub;
use crate::load::{self, OpenModel};
use crate::output::human_bytes;
use crate::serving::{self, Use};
use crate::settings::Settings;

/// Models by the names under which they are served.
pub(crate) struct Shelf {
    settings: Settings,
    /// In the order in which they were given.
    names: Vec<String>,
    /// What the command line said, by name; `None` is the default model.
    models: BTreeMap<String, Option<String>>,
}

impl Shelf {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), names: Vec::new(), models: BTreeMap::new() }
    }

    /// Adds a model.
    ///
    /// # Errors
    /// One that is not there, and a second one of the same name.
    pub(crate) fn add(&mut self, model: Option<String>) -> Result<()> {
        let name = hub::resolve(model.as_deref(), &self.settings)?.name;
        if self.models.contains_key(&name) {
            bail!("two models are called {name:?}; each needs a name of its own");
        }
        self.names.push(name.clone());
        self.models.insert(name, model);
        Ok(())
    }

    /// Gives the only model another name.
    ///
    /// # Errors
    /// When there are several.
    pub(crate) fn rename_only(&mut self, name: &str) -> Result<()> {
        let [old] = self.names.as_slice() else {
            bail!("--name is for one model, and {} are served", self.names.len());
        };
        let model = self.models.remove(old).flatten();
        self.models.insert(name.to_owned(), model);
        self.names = vec![name.to_owned()];
        Ok(())
    }

    /// The names, in the order in which the models were given.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.iter()
    }

    /// Loads a model before there is a server.
    pub(crate) fn load_first(&self, name: &str, metrics: &Metrics) -> Result<(ServedModel, u64)> {
        self.load_model(name, 0, metrics.observer(name))
    }

    fn load_model(&self, name: &str, taken_bytes: u64, observer: Arc<dyn Observer>) -> Result<(ServedModel, u64)> {
        let (open, settings) = self.open(name)?;
        let tokenizer = open.tokenizer()?;
        let template = open.template(&tokenizer)?;
        if template.is_none() {
            tracing::warn!("{name} has no chat template: /v1/chat/completions will refuse, /v1/completions works");
        }
        let (loaded, plan) = load::load_beside(open, Use::Server, &settings, taken_bytes)?;
        let device = loaded.network.describe_backend();
        let load_time = loaded.load_time;
        tracing::info!("{name}: loaded in {load_time:.2?}");
        let ends = tokenizer.end_of_generation();
        let engine = serving::start_engine(Use::Server, loaded, &plan, ends, &settings, observer)?;
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let created = since_1970.map(|time| time.as_secs()).unwrap_or(0);
        // Reading a vocabulary takes twice what it leaves.
        cpu::memory::release_freed();
        let served = ServedModel { name: name.to_owned(), engine, tokenizer, template, device, load_time, created };
        Ok((served, plan.bytes.total()))
    }

    /// Opens a model, with the settings that apply to it.
    fn open(&self, name: &str) -> Result<(OpenModel, Settings)> {
        let model = self.models.get(name).with_context(|| format!("no model {name:?}"))?.as_deref();
        let settings = match model {
            None => self.settings.clone(),
            Some(model) => self.settings.for_model(model)?.0,
        };
        let open = load::open(model, &settings)?;
        Ok((open, settings))
    }

    /// Why a model finds no room beside others that take `taken_bytes`, although it would without them.
    fn wants_more_room(&self, name: &str, taken_bytes: u64) -> Result<Option<String>> {
        if taken_bytes == 0 {
            return Ok(None);
        }
        let (open, settings) = self.open(name)?;
        let alone = load::plan(&open, Use::Server, &settings)?;
        let others = format!("other models take {}", human_bytes(taken_bytes));
        Ok(match load::plan_beside(&open, Use::Server, &settings, taken_bytes) {
            Ok(beside) if beside.context < alone.context => Some(format!("{others} of its context")),
            Ok(_) => None,
            Err(problem) => Some(format!("{others}: {problem:#}")),
        })
    }
}

impl Loader for Shelf {
    fn load(&self, name: &str, taken_bytes: u64, observer: Arc<dyn Observer>) -> Result<(ServedModel, u64), LoadError> {
        let failed = |problem: anyhow::Error| LoadError::Failed(format!("{problem:#}"));
        if let Some(why) = self.wants_more_room(name, taken_bytes).map_err(failed)? {
            return Err(LoadError::NoRoom(why));
        }
        self.load_model(name, taken_bytes, observer).map_err(failed)
    }

    fn unloaded(&self) {
        cpu::memory::release_freed();
    }
}

/// The models that an argument means: itself, or those in it where it is a directory of models.
///
/// # Errors
/// A directory without models.
pub(crate) fn expand(model: &str) -> Result<Vec<String>> {
    let dir = Path::new(model);
    if !dir.is_dir() || dir.join("config.json").is_file() {
        return Ok(vec![model.to_owned()]);
    }
    let files = std::fs::read_dir(dir).with_context(|| model.to_owned())?;
    let paths = files.flatten().map(|file| file.path()).filter(|path| is_model(path));
    let mut models: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    models.sort();
    if models.is_empty() {
        bail!(
            "{model}: neither a model (no config.json) nor a directory of models (no .gguf files, no directories of models)"
        );
    }
    Ok(models)
}

/// Whether a path is a model: a GGUF file (of a split set the first part), or a directory of safetensors.
fn is_model(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_later_part = name.rsplit_once("-of-").is_some_and(|(start, _)| !start.ends_with("-00001"));
    (name.ends_with(".gguf") && path.is_file() && !is_later_part) || path.join("config.json").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_models_is_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        assert!(expand(&dir.path().display().to_string()).is_err());
        for name in ["b.gguf", "a/config.json", "c-00001-of-00002.gguf", "c-00002-of-00002.gguf", "notes.txt", "d/x"] {
            write(name);
        }
        let models = expand(&dir.path().display().to_string()).unwrap();
        let names: Vec<&str> = models.iter().map(|model| model.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["a", "b.gguf", "c-00001-of-00002.gguf"]);
        assert_eq!(expand("some/name").unwrap(), ["some/name"]);
        let one = dir.path().join("a").display().to_string();
        assert_eq!(expand(&one).unwrap(), [one]);
    }
}
