//! The models that a server offers, by name, and how each is loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use engine::Observer;
use server::{LoadError, Loader, Metrics, ServedModel, Taken};
use tokenizer::{ChatTemplate, Tokenizer};

use crate::device;
use crate::hub;
use crate::load::{self, OpenModel};
use crate::memory::{self, Part, Plan, Room};
use crate::output::human_bytes;
use crate::problems;
use crate::serving::{self, Use};
use crate::settings::names::nearest;
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
    /// Which memory it is in, where there are several models.
    memory: String,
    /// What the others leave it of that, when none is loaded.
    room: Room,
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
    /// Finds the models that arguments mean, on this machine or by names of a hub; no argument means the configured
    /// model. Nothing is pulled, and their own settings are not read yet.
    ///
    /// # Errors
    /// Models that are not there, several of one name.
    pub(crate) fn new(arguments: &[String], settings: &Settings) -> Result<Self, SettingsError> {
        let (shelf, found) = Self::find(arguments, settings);
        SettingsError(found).into_result()?;
        Ok(shelf)
    }

    /// The same with what is wrong with others.
    pub(crate) fn find(arguments: &[String], settings: &Settings) -> (Self, Vec<String>) {
        let mut shelf = Self { settings: settings.clone(), models: Vec::new() };
        let mut found = SettingsError::default();
        let each: Vec<&[String]> = if arguments.is_empty() { vec![&[]] } else { arguments.chunks(1).collect() };
        for asked in each.into_iter().map(|argument| asked(argument, settings)) {
            let models = asked.map_err(|problem| found.add(problems::of_any(problem))).unwrap_or_default();
            for asked in models {
                let problem = hub::no_such_model(asked.model(), settings).unwrap_or_else(Some);
                let name = hub::name_of(asked.model(), settings);
                if let Some(problem) = problem {
                    found.add(problems::of_any(problem));
                } else if shelf.names().any(|known| *known == name) {
                    found.add([format!("two models are called {name:?}; each needs a name of its own")]);
                } else {
                    shelf.models.push(Shelved::new(name, asked, settings));
                }
            }
        }
        (shelf, found.0)
    }

    /// The only model; `None` where there are several, or none.
    pub(crate) fn only(&self) -> Option<&Asked> {
        match self.models.as_slice() {
            [only] => Some(&only.asked),
            _ => None,
        }
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

    /// Brings the models onto this machine, reads their own settings, and gives several their shares of memory. Of a
    /// single model its plan tells whether it fits.
    ///
    /// # Errors
    /// A model that cannot be pulled, and everything in the settings that keeps models that were named from being
    /// served, and pinned ones from being so together.
    pub(crate) fn prepare(&mut self) -> Result<()> {
        // A pull may take hours: what is wrong without it is found out before.
        self.check()?;
        if self.are_all_here() {
            return Ok(());
        }
        SettingsError(problems::of_device(&self.settings)).into_result()?;
        for model in &self.models {
            hub::resolve(model.asked.model(), &model.settings)?;
        }
        Ok(self.check()?)
    }

    /// [`Self::prepare`] without pulling: of models that are not on this machine yet only what is told without them.
    fn check(&mut self) -> Result<(), SettingsError> {
        let mut found = SettingsError(self.unknown_pins());
        found.add(self.read_settings());
        if self.models.len() > 1 {
            found.add(self.share_memory());
        }
        found.into_result()
    }

    /// Everything that keeps the models from being served with their settings, of those that are on this machine.
    pub(crate) fn problems(&mut self) -> Vec<String> {
        let mut found = problems::lines(self.check());
        match self.models.as_slice() {
            [only] => found.extend(problems::of_model(only.asked.model(), Use::Server, &only.settings)),
            _ => found.extend(problems::of_device(&self.settings)),
        }
        if self.models.len() > 1 && self.are_all_here() && self.each_plan().all(|(_, plan)| plan.is_err()) {
            found.extend(self.none_served());
        }
        found
    }

    /// Whether none is still to be pulled, which may be served where no other is.
    fn are_all_here(&self) -> bool {
        self.models.iter().all(Shelved::is_here)
    }

    /// Every model that is pinned must be served.
    fn unknown_pins(&self) -> Vec<String> {
        let served: Vec<String> = self.names().cloned().collect();
        let unknown = self.settings.list(&defs::MODEL_PIN).into_iter().filter(|pin| !served.contains(pin));
        let problem = |pin: String| {
            let hint = nearest(&pin, served.iter().cloned()).map(|known| format!("; the nearest is {known}"));
            let (hint, source) = (hint.unwrap_or_default(), self.settings.source(&defs::MODEL_PIN));
            format!("MISTRAL_MODEL_PIN={pin} ({source}): no such model is served{hint}; allowed: {}", served.join(", "))
        };
        unknown.map(problem).collect()
    }

    /// Reads the models' own settings; returns what is wrong in them.
    fn read_settings(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        // The server's own have been told.
        let known = self.settings.reload().warnings;
        let several = self.models.len() > 1;
        for model in &mut self.models {
            let Loaded { settings, errors, warnings } = self.settings.for_model(&model.name);
            model.warnings = warnings.into_iter().filter(|warning| !known.contains(warning)).collect();
            found.extend(errors);
            model.settings = settings;
            if several {
                model.warnings.extend(model.settings.unused_of_model());
                model.settings = model.settings.with_those_of_server(&self.settings);
            }
        }
        found
    }

    /// Gives each model its room in memory; returns what is wrong with those that were named, be it as pinned, and with
    /// pinned ones together.
    fn share_memory(&mut self) -> Vec<String> {
        let pins = self.settings.list(&defs::MODEL_PIN);
        let (mut found, mut shared, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for model in &mut self.models {
            model.memory = device::budget(&model.settings).map(|budget| budget.memory).unwrap_or_default();
            let demand = model.open_local().and_then(|open| load::demand(&open, Use::Server, &model.settings));
            let is_pinned = pins.contains(&model.name);
            let (budget, demand, lengths) = match demand {
                Ok(demand) => demand,
                // One that shall always be there must be right; another is answered to who asks for it.
                Err(problem) => {
                    found.extend(problems::of_any(problem).into_iter().filter(|_| is_pinned && model.is_here()));
                    continue;
                }
            };
            let (name, is_named) = (model.name.clone(), is_pinned || !model.asked.is_found);
            parts.push(Part { name, is_named, is_pinned, budget, demand, lengths, context: None });
            shared.push(model);
        }
        memory::shorten_contexts(&mut parts);
        for (model, room) in shared.into_iter().zip(memory::rooms(&parts)) {
            model.room = room;
        }
        found.extend(memory::pins_beyond_memory(&parts, &self.settings));
        let named = self.models.iter().filter(|model| self.is_named(model));
        for model in named.filter(|model| model.room.share_bytes.is_none()) {
            let Ok(open) = model.open_local() else { continue };
            found.extend(load::plan_problems(&open, Use::Server, &model.settings, model.room.clone()));
        }
        found
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

    /// The plan of each model on this machine, made as if no other were loaded; of models found in a directory, or why
    /// there is none.
    ///
    /// # Errors
    /// When models that were named, be it as pinned, have no plan, or none has one.
    pub(crate) fn plans(&self) -> Result<Vec<(&str, Result<Plan>)>, SettingsError> {
        let (mut plans, mut found) = (Vec::new(), SettingsError::default());
        for (model, plan) in self.each_plan() {
            match plan {
                Err(problem) if self.is_named(model) => found.add(problems::of_any(problem)),
                plan => plans.push((model.name.as_str(), plan)),
            }
        }
        if found.0.is_empty() && self.are_all_here() && plans.iter().all(|(_, plan)| plan.is_err()) {
            found.add(self.none_served());
        }
        found.into_result()?;
        Ok(plans)
    }

    fn each_plan(&self) -> impl Iterator<Item = (&Shelved, Result<Plan>)> {
        self.models.iter().filter(|model| model.is_here()).map(|model| {
            let plan = |open| load::plan_beside(&open, Use::Server, &model.settings, model.room.clone());
            (model, model.open_local().and_then(plan))
        })
    }

    /// What is wrong where no model can be served: with the settings; where that is nothing, with the models.
    fn none_served(&self) -> Vec<String> {
        let in_settings = self.models.iter().filter_map(|model| {
            let open = model.open_local().ok()?;
            Some(load::plan_problems(&open, Use::Server, &model.settings, model.room.clone()))
        });
        let in_settings: Vec<String> = in_settings.flatten().collect();
        if !in_settings.is_empty() {
            return in_settings;
        }
        self.each_plan().filter_map(|(_, plan)| plan.err()).flat_map(problems::of_any).collect()
    }

    /// Whether a model was asked for by its name, be it as pinned: it is not left out for what is wrong with it.
    fn is_named(&self, model: &Shelved) -> bool {
        !model.asked.is_found || self.settings.list(&defs::MODEL_PIN).contains(&model.name)
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
        for (index, model) in self.models.iter().enumerate() {
            let name = &model.name;
            let prepared = model.open().and_then(|open| Prepared::read(open, &model.settings));
            let loaded = prepared.and_then(|prepared| prepared.load(model.room.clone(), metrics.observer(name)));
            match loaded {
                Err(problem) if !self.is_named(model) && index + 1 < self.models.len() => {
                    tracing::error!("{name}: not loaded: {problem:#}");
                }
                result => return result,
            }
        }
        bail!("no model to serve")
    }

    fn model(&self, name: &str) -> Result<&Shelved> {
        self.models.iter().find(|model| model.name == name).with_context(|| format!("no model {name:?}"))
    }
}

impl Shelved {
    fn new(name: String, asked: Asked, settings: &Settings) -> Self {
        let settings = settings.clone();
        Self { name, asked, settings, warnings: Vec::new(), memory: String::new(), room: Room::default() }
    }

    /// Whether it is on this machine.
    fn is_here(&self) -> bool {
        hub::find_local(self.asked.model(), &self.settings).is_ok_and(|at| at.is_some())
    }

    fn open(&self) -> Result<OpenModel> {
        let mut open = load::open(self.asked.model(), &self.settings)?;
        self.name.clone_into(&mut open.name);
        Ok(open)
    }

    /// [`Self::open`] without pulling it.
    fn open_local(&self) -> Result<OpenModel> {
        hub::find_local(self.asked.model(), &self.settings)?.with_context(|| format!("{}: not here yet", self.name))?;
        self.open()
    }
}

/// Why a model finds no room beside others, although it would without those of them that may go.
///
/// # Errors
/// When it would find none then either.
fn wants_more_room(open: &OpenModel, model: &Shelved, taken: Taken) -> Result<Option<String>> {
    if taken.all == taken.pinned {
        return Ok(None);
    }
    let beside = |taken_bytes: u64| {
        let room = Room { taken_bytes, ..model.room.clone() };
        load::plan_beside(open, Use::Server, &model.settings, room)
    };
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

    /// Loads it in the room that others leave. Also returns the bytes that it takes.
    fn load(self, room: Room, observer: Arc<dyn Observer>) -> Result<(ServedModel, u64)> {
        let Self { open, settings, tokenizer, template } = self;
        let name = open.name.clone();
        if template.is_none() {
            tracing::warn!("{name} has no chat template: /v1/chat/completions will refuse, /v1/completions works");
        }
        let (loaded, plan) = load::load_beside(open, Use::Server, settings, room)?;
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
        let model = self.model(name).map_err(failed)?;
        let room = Room { taken_bytes: taken.all, ..model.room.clone() };
        let open = model.open().map_err(failed)?;
        let no_room = wants_more_room(&open, model, taken).map_err(failed)?;
        // What others are unloaded for should not turn out to be broken then. Where there is no memory to find out
        // before, it is found out after.
        if let Some(why) = &no_room
            && !load::can_read_tokenizer(&open, &model.settings, room.clone()).map_err(failed)?
        {
            return Err(LoadError::NoRoom(why.clone()));
        }
        let prepared = Prepared::read(open, &model.settings).map_err(failed)?;
        match no_room {
            Some(why) => Err(LoadError::NoRoom(why)),
            None => prepared.load(room, observer).map_err(failed),
        }
    }

    fn max_deadline(&self, name: &str) -> Duration {
        let own = self.model(name).map_or(&self.settings, |model| &model.settings);
        own.time(&defs::REQUEST_TIMEOUT)
    }

    fn memory(&self, name: &str) -> &str {
        self.model(name).map_or("", |model| &model.memory)
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

/// Whether a path is a model: a GGUF file (of a split set the first part), or a directory of safetensors. Links count
/// as what they lead to.
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
