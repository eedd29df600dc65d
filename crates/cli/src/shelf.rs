//! The models that a server offers, by name, and how each is loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use engine::Observer;
use server::{LoadError, Loader, Metrics, ServedModel, Taken};
use tokenizer::{ChatTemplate, Tokenizer};

use crate::hub;
use crate::load::{self, OpenModel};
use crate::memory::Plan;
use crate::output::human_bytes;
use crate::problems;
use crate::serving::{self, Use};
use crate::settings::{Loaded, Settings, SettingsError, defs};

/// Models by the names under which they are served.
pub(crate) struct Shelf {
    settings: Settings,
    /// In the order in which they were given.
    models: Vec<Shelved>,
}

/// A model on the shelf.
struct Shelved {
    name: String,
    asked: Asked,
    /// Those of the server, with what the model's own file says.
    settings: Settings,
    /// What is odd in that file.
    warnings: Vec<String>,
}

/// How a model came onto the shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What the command line said; `None` is the configured or the default model.
    model: Option<String>,
    /// Found in a directory: when it cannot be loaded, the others are served without it.
    is_found: bool,
}

impl Asked {
    /// The argument.
    pub(crate) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

impl Shelf {
    /// Finds the models that arguments mean; no argument means the configured model. Their own settings are not read
    /// yet.
    ///
    /// # Errors
    /// A model that is not there, two of the same name.
    pub(crate) fn new(arguments: &[String], settings: &Settings) -> Result<Self> {
        let mut shelf = Self { settings: settings.clone(), models: Vec::new() };
        for asked in asked(arguments, settings)? {
            let name = hub::resolve(asked.model(), settings)?.name;
            if shelf.names().any(|known| *known == name) {
                bail!("two models are called {name:?}; each needs a name of its own");
            }
            shelf.models.push(Shelved { name, asked, settings: settings.clone(), warnings: Vec::new() });
        }
        Ok(shelf)
    }

    /// Gives the only model another name.
    ///
    /// # Errors
    /// When there are several.
    pub(crate) fn rename_only(&mut self, name: &str) -> Result<()> {
        let count = self.models.len();
        let [only] = self.models.as_mut_slice() else {
            bail!("--name is for one model, and {count} are served");
        };
        name.clone_into(&mut only.name);
        Ok(())
    }

    /// Reads the models' own settings.
    ///
    /// # Errors
    /// Everything that is wrong in them.
    pub(crate) fn read_settings(&mut self) -> Result<(), SettingsError> {
        let mut found = SettingsError::default();
        // The server's own have been told.
        let known = self.settings.reload().warnings;
        let several = self.models.len() > 1;
        for model in &mut self.models {
            let Loaded { settings, errors, warnings } = self.settings.for_model(&model.name);
            model.warnings = warnings.into_iter().filter(|warning| !known.contains(warning)).collect();
            found.add(errors);
            model.settings = settings;
            if several {
                model.warnings.extend(model.settings.unused_of_model());
                model.settings = model.settings.with_those_of_server(&self.settings);
            }
        }
        found.into_result()
    }

    /// Whether a plan of the models after the first can be made, where they were named; of the first its loading tells.
    ///
    /// # Errors
    /// Everything that keeps it from being made.
    pub(crate) fn check_later(&self) -> Result<(), SettingsError> {
        let mut found = SettingsError::default();
        for model in self.models.iter().skip(1).filter(|model| !model.asked.is_found) {
            // A file that is broken is answered to who asks for it.
            let Ok((open, settings)) = self.open(&model.name) else { continue };
            found.add(load::plan_problems(&open, Use::Server, settings));
        }
        found.into_result()
    }

    /// Tells the log what in models' files has no effect: unknown names, settings of the server where it serves several
    /// models, and files for models that are not served.
    pub(crate) fn warn_of_unused_settings(&self) {
        let names: Vec<String> = self.names().cloned().collect();
        let stray = self.settings.stray_model_files(&names);
        let of_models = self.models.iter().flat_map(|model| model.warnings.clone());
        for warning in of_models.chain(stray) {
            tracing::warn!("{warning}");
        }
    }

    /// Everything that keeps the models from being served with their settings.
    pub(crate) fn problems(&mut self) -> Vec<String> {
        let mut found = problems::lines(self.read_settings());
        found.extend(problems::lines(self.check_later()));
        if let Some(first) = self.models.first() {
            found.extend(problems::of_model(first.asked.model(), Use::Server, &first.settings));
        }
        found
    }

    /// The plan of each model, as if it were alone; for models that were found in a directory, or why there is none.
    ///
    /// # Errors
    /// When a model that was named has no plan, or none has one: everything that is in the way.
    pub(crate) fn plans(&self) -> Result<Vec<(&str, Result<Plan>)>> {
        let (mut plans, mut found) = (Vec::new(), SettingsError::default());
        for Shelved { name, asked, .. } in &self.models {
            let plan = self.open(name).and_then(|(open, settings)| load::plan(&open, Use::Server, settings));
            match plan {
                Err(problem) if !asked.is_found || self.models.len() == 1 => {
                    found.add(problem.downcast::<SettingsError>()?.0);
                }
                plan => plans.push((name.as_str(), plan)),
            }
        }
        found.into_result()?;
        if plans.iter().all(|(_, plan)| plan.is_err())
            && let Some((_, plan)) = plans.pop()
        {
            plan?;
        }
        Ok(plans)
    }

    /// The names, in the order in which the models were given.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.models.iter().map(|model| &model.name)
    }

    /// Loads the first model before there is a server. Of models found in a directory that is the first that can be
    /// loaded; what is wrong with those before is logged, and answered to who asks for them.
    ///
    /// # Errors
    /// When a model that was named cannot be loaded, or none can.
    pub(crate) fn load_first(&self, metrics: &Metrics) -> Result<(ServedModel, u64)> {
        for (index, Shelved { name, asked, .. }) in self.models.iter().enumerate() {
            let prepared = self.open(name).and_then(|(open, settings)| Prepared::read(open, settings));
            let loaded = prepared.and_then(|prepared| prepared.load(0, metrics.observer(name)));
            match loaded {
                Err(problem) if asked.is_found && index + 1 < self.models.len() => {
                    tracing::error!("{name}: not loaded: {problem:#}");
                }
                result => return result,
            }
        }
        bail!("no model to serve")
    }

    /// Opens a model, with the settings that apply to it.
    fn open(&self, name: &str) -> Result<(OpenModel, &Settings)> {
        let found = self.models.iter().find(|model| model.name == name);
        let Shelved { asked, settings, .. } = found.with_context(|| format!("no model {name:?}"))?;
        let mut open = load::open(asked.model(), settings)?;
        name.clone_into(&mut open.name);
        Ok((open, settings))
    }
}

/// Why a model finds no room beside others, although it would without those of them that may go.
///
/// # Errors
/// When it would find none then either.
fn wants_more_room(open: &OpenModel, settings: &Settings, taken: Taken) -> Result<Option<String>> {
    if taken.all == taken.pinned {
        return Ok(None);
    }
    let beside = |bytes: u64| load::plan_beside(open, Use::Server, settings, bytes);
    let at_best = beside(taken.pinned)?;
    let others = format!("other models take {}", human_bytes(taken.all));
    Ok(match beside(taken.all) {
        Ok(now) if now.context < at_best.context => Some(format!("{others} of its context")),
        // Nor shall it be rounded more than it would be alone, for as long as it stays, for the sake of one that idles.
        Ok(now) if now.recipe != at_best.recipe => Some(format!("{others}, and leave room for a smaller recipe")),
        Ok(_) => None,
        Err(problem) => Some(format!("{others}: {problem:#}")),
    })
}

/// A model that is ready to be loaded.
struct Prepared<'a> {
    open: OpenModel,
    settings: &'a Settings,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl<'a> Prepared<'a> {
    /// Reads what may be wrong in a model beside the weights.
    fn read(open: OpenModel, settings: &'a Settings) -> Result<Self> {
        let tokenizer = open.tokenizer()?;
        let template = open.template(&tokenizer)?;
        // Reading a vocabulary takes more than it leaves; the weights shall not come on top of that.
        cpu::memory::release_freed();
        Ok(Self { open, settings, tokenizer, template })
    }

    /// Loads it beside others that take `taken_bytes`. Also returns the bytes that it takes.
    fn load(self, taken_bytes: u64, observer: Arc<dyn Observer>) -> Result<(ServedModel, u64)> {
        let Self { open, settings, tokenizer, template } = self;
        let name = open.name.clone();
        if template.is_none() {
            tracing::warn!("{name} has no chat template: /v1/chat/completions will refuse, /v1/completions works");
        }
        let (loaded, plan) = load::load_beside(open, Use::Server, settings, taken_bytes)?;
        let device = loaded.network.describe_backend();
        let load_time = loaded.load_time;
        tracing::info!("{name}: loaded in {load_time:.2?}");
        let ends = tokenizer.end_of_generation();
        let engine = serving::start_engine(Use::Server, loaded, &plan, ends, settings, observer)?;
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let created = since_1970.map(|time| time.as_secs()).unwrap_or(0);
        cpu::memory::release_freed();
        let served = ServedModel { name, engine, tokenizer, template, device, load_time, created };
        Ok((served, plan.bytes.total()))
    }
}

impl Loader for Shelf {
    fn load(&self, name: &str, taken: Taken, observer: Arc<dyn Observer>) -> Result<(ServedModel, u64), LoadError> {
        let failed = |problem: anyhow::Error| LoadError::Failed(format!("{problem:#}"));
        let (open, settings) = self.open(name).map_err(failed)?;
        let no_room = wants_more_room(&open, settings, taken).map_err(failed)?;
        // What others are unloaded for should not turn out to be broken then. Where there is no memory to find out before,
        // it is found out after.
        if let Some(why) = &no_room
            && !load::can_read_tokenizer(&open, settings, taken.all).map_err(failed)?
        {
            return Err(LoadError::NoRoom(why.clone()));
        }
        let prepared = Prepared::read(open, settings).map_err(failed)?;
        match no_room {
            Some(why) => Err(LoadError::NoRoom(why)),
            None => prepared.load(taken.all, observer).map_err(failed),
        }
    }

    fn max_deadline(&self, name: &str) -> Duration {
        let own = self.models.iter().find(|model| model.name == name).map(|model| &model.settings);
        own.unwrap_or(&self.settings).time(&defs::REQUEST_TIMEOUT)
    }

    fn unloaded(&self) {
        cpu::memory::release_freed();
    }
}

/// The models that arguments mean: themselves, or those in them where they are directories of models.
///
/// # Errors
/// A directory without models.
pub(crate) fn asked(arguments: &[String], settings: &Settings) -> Result<Vec<Asked>> {
    let configured = settings.text(&defs::MODEL).filter(|_| arguments.is_empty());
    if let Some(found) = configured.map(models_in).transpose()?.flatten() {
        return Ok(found);
    }
    if arguments.is_empty() {
        return Ok(vec![Asked { model: None, is_found: false }]);
    }
    let mut models = Vec::new();
    for argument in arguments {
        let itself = || vec![Asked { model: Some(argument.clone()), is_found: false }];
        models.extend(models_in(argument)?.unwrap_or_else(itself));
    }
    Ok(models)
}

/// Whether all models that arguments mean are on this machine: a report of mistakes pulls none.
pub(crate) fn is_local(arguments: &[String], settings: &Settings) -> bool {
    let is_here = |asked: &Asked| hub::find_local(asked.model(), settings).is_ok_and(|found| found.is_some());
    asked(arguments, settings).is_ok_and(|asked| asked.iter().all(is_here))
}

/// The name of the only model that arguments mean; `None` where they mean several, or where that cannot be told.
pub(crate) fn only_name(arguments: &[String], settings: &Settings) -> Option<String> {
    match asked(arguments, settings).ok()?.as_slice() {
        [one] => Some(hub::name_of(one.model(), settings)),
        _ => None,
    }
}

/// The models in a directory of models, by name; `None` where the argument is none.
fn models_in(argument: &str) -> Result<Option<Vec<Asked>>> {
    let dir = Path::new(argument);
    if !dir.is_dir() || dir.join("config.json").is_file() {
        return Ok(None);
    }
    let files = std::fs::read_dir(dir).with_context(|| argument.to_owned())?;
    let mut paths: Vec<PathBuf> = files.flatten().map(|file| file.path()).filter(|path| is_model(path)).collect();
    paths.sort();
    if paths.is_empty() {
        bail!(
            "{argument}: neither a model (no config.json) nor a directory of models (no .gguf files, no directories of models)"
        );
    }
    let found = |path: PathBuf| Asked { model: Some(path.display().to_string()), is_found: true };
    Ok(Some(paths.into_iter().map(found).collect()))
}

/// Whether a path is a model: a GGUF file (of a split set the first part), or a directory of safetensors. Links count as
/// what they lead to.
fn is_model(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.ends_with(".gguf") && path.is_symlink() && !path.exists() {
        tracing::warn!("{}: a link that leads nowhere; not served", path.display());
    }
    let is_later_part = name.rsplit_once("-of-").is_some_and(|(start, _)| !start.ends_with("-00001"));
    (name.ends_with(".gguf") && path.is_file() && !is_later_part) || path.join("config.json").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::test_settings;

    #[test]
    fn a_directory_of_models_is_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        let settings = test_settings(&[]);
        let expand = |model: &str| {
            let asked = asked(&[model.to_owned()], &settings)?;
            anyhow::Ok(asked.into_iter().map(|asked| (asked.model.unwrap(), asked.is_found)).collect::<Vec<_>>())
        };
        assert!(expand(&dir.path().display().to_string()).is_err());
        for name in ["b.gguf", "a/config.json", "c-00001-of-00002.gguf", "c-00002-of-00002.gguf", "notes.txt", "d/x"] {
            write(name);
        }
        let models = expand(&dir.path().display().to_string()).unwrap();
        let names: Vec<&str> = models.iter().map(|(model, _)| model.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["a", "b.gguf", "c-00001-of-00002.gguf"]);
        assert!(models.iter().all(|(_, is_found)| *is_found));
        assert_eq!(expand("some/name").unwrap(), [("some/name".to_owned(), false)]);
        let one = dir.path().join("a").display().to_string();
        assert_eq!(expand(&one).unwrap(), [(one.clone(), false)]);
        // The setting means what the argument would.
        let dir = dir.path().display().to_string();
        let configured = asked(&[], &test_settings(&[("MISTRAL_MODEL", &dir)])).unwrap();
        assert_eq!(configured.len(), 3);
        assert_eq!(asked(&[], &settings).unwrap(), [Asked { model: None, is_found: false }]);
    }

    #[test]
    #[cfg(unix)]
    fn links_have_their_own_names_and_dead_ones_are_no_models() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("5f3a"), "").unwrap();
        symlink(path("5f3a"), path("nice.gguf")).unwrap();
        symlink(path("gone"), path("dead.gguf")).unwrap();
        let argument = [dir.path().display().to_string()];
        let settings = test_settings(&[]);
        let shelf = Shelf::new(&argument, &settings).unwrap();
        assert_eq!(shelf.names().collect::<Vec<_>>(), ["nice"]);
        assert_eq!(only_name(&argument, &settings).as_deref(), Some("nice"));
    }
}
