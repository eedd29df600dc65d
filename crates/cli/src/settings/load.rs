//! From sources to settings: who set what, which source is strongest, and everything that is wrong, all at once.
//!
//! Strongest first: flag, process environment, `.env` in the working directory, per-model TOML, main TOML, profile,
//! default. Every value in every source is checked, also one that a stronger source overrides: a mistake is never
//! silent. Start with [`load`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::defs::{self, Def, TABLE};
use super::names::{is_slip, nearest_setting};
use super::value::{Kind, Value};
use super::{Settings, dotenv, model_files, profiles};

/// Largest `.env` or TOML file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What [`load`] reads. Plain data, so that tests need no process environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs {
    /// Flags given on the command line.
    pub(crate) flags: Vec<(&'static Def, String)>,
    /// The process environment; what is no UTF-8 in values is U+FFFD.
    pub(crate) env: Vec<(String, String)>,
    /// Where `.env` and `frontier.toml` are looked for.
    pub(crate) working_dir: PathBuf,
    /// The user's configuration directory, e.g. `~/.config`.
    pub(crate) config_dir: Option<PathBuf>,
    /// The name under which the model is served whose TOML file applies.
    pub(crate) model: Option<String>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    Flag,
    Env(String),
    DotEnv(usize),
    ModelToml(PathBuf),
    MainToml(PathBuf),
    Profile(&'static str),
    Default,
}

/// A setting's value (`None`: decided at run time) and its source.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) value: Option<Value>,
    pub(crate) source: Source,
    /// Why the value is not what its source says.
    pub(crate) clipped: Option<String>,
}

/// Everything that is wrong, each as one line.
#[derive(Debug, Default, thiserror::Error)]
pub(crate) struct SettingsError(pub(crate) Vec<String>);

/// What [`load`] made of the sources.
pub(crate) struct Loaded {
    /// Where a value is wrong, what it would be without.
    pub(crate) settings: Settings,
    pub(crate) warnings: Vec<String>,
    pub(crate) errors: Vec<String>,
}

impl SettingsError {
    /// Adds what has not been told yet.
    pub(crate) fn add(&mut self, problems: impl IntoIterator<Item = String>) {
        for problem in problems {
            if !self.0.contains(&problem) {
                self.0.push(problem);
            }
        }
    }

    /// An error if anything was added.
    pub(crate) fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl Loaded {
    /// Settings and warnings, unless something is wrong.
    #[cfg(test)]
    pub(crate) fn check(self) -> Result<(Settings, Vec<String>), SettingsError> {
        if self.errors.is_empty() { Ok((self.settings, self.warnings)) } else { Err(SettingsError(self.errors)) }
    }
}

impl Entry {
    /// Of a setting that nobody has set.
    pub(crate) fn default_of(def: &Def) -> Entry {
        let value = def.default.map(|text| def.kind.parse(text).expect("defaults are valid, as a test shows"));
        Entry { value, source: Source::Default, clipped: None }
    }
}

/// Reads all sources.
pub(crate) fn load(inputs: &Inputs) -> Loaded {
    let mut loader = Loader::default();
    loader.flags(inputs);
    loader.environment(&inputs.env);
    loader.dotenv(&inputs.working_dir);
    loader.toml_files(inputs);
    loader.profile();
    loader.finish(inputs)
}

#[derive(Default)]
struct Loader {
    /// The strongest valid value so far, by key.
    entries: BTreeMap<&'static str, Entry>,
    errors: Vec<String>,
    /// Settings whose value could not be read: nothing follows from what they are now.
    unread: Vec<&'static str>,
    unknown: Vec<String>,
    /// The directory of models' files.
    model_dir: Option<PathBuf>,
}

impl Loader {
    /// Takes a value unless a stronger source has set it; checks it in any case.
    fn set(&mut self, def: &'static Def, text: &str, source: Source) {
        // Compose files pass `${NAME:-}` for what is not set.
        if text.trim().is_empty() {
            return;
        }
        if text.contains(char::REPLACEMENT_CHARACTER) {
            self.refuse(def, text, &source, "must be UTF-8", &def.kind.allowed());
            return;
        }
        let value = match def.kind.parse(text) {
            Ok(value) => Some(value),
            Err(_) if def.default.is_none() && text.trim() == "auto" => None,
            Err(problem) => {
                self.refuse(def, text, &source, &problem, &def.kind.allowed());
                return;
            }
        };
        self.entries.entry(def.key).or_insert(Entry { value, source, clipped: None });
    }

    /// Reports a value that cannot be used.
    fn refuse(&mut self, def: &'static Def, text: &str, source: &Source, problem: &str, allowed: &str) {
        let shown = if def.kind.is_secret() { "***" } else { text };
        self.errors.push(format!("{}={shown} ({source}): {problem}; allowed: {allowed}", def.env()));
        self.unread.push(def.key);
    }

    fn unknown(&mut self, name: &str, source: &Source, toml: bool) {
        let spell = |def: &Def| if toml { def.toml() } else { def.env() };
        let nearest = misspelled(name).or_else(|| nearest_setting(name)).map(spell);
        let hint = nearest.map(|known| format!("; the nearest known name is {known}")).unwrap_or_default();
        self.unknown.push(format!("unknown setting {name} ({source}){hint}"));
    }

    fn text(&self, def: &Def) -> Option<&str> {
        match self.entries.get(def.key)?.value.as_ref()? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn flags(&mut self, inputs: &Inputs) {
        for (def, text) in &inputs.flags {
            self.set(def, text, Source::Flag);
        }
    }

    fn environment(&mut self, env: &[(String, String)]) {
        for (name, text) in env.iter().filter(|(name, _)| is_ours(name)) {
            match by_variable(name) {
                Some(def) => self.set(def, text, Source::Env(name.clone())),
                None => self.unknown(name, &Source::Env(name.clone()), false),
            }
        }
        for def in TABLE {
            for also in def.also {
                if let Some((name, text)) = env.iter().find(|(name, _)| name == also) {
                    self.set(def, text, Source::Env(name.clone()));
                }
            }
        }
    }

    fn dotenv(&mut self, working_dir: &Path) {
        let Some(text) = self.read_optional(&working_dir.join(".env")) else { return };
        // In a `.env` file the last assignment of a name counts.
        for parsed in dotenv::parse(&text).into_iter().rev() {
            match parsed {
                Ok(assignment) => {
                    let source = Source::DotEnv(assignment.line);
                    match by_variable(&assignment.name) {
                        _ if !is_ours(&assignment.name) => {}
                        Some(def) => self.set(def, &assignment.value, source),
                        None => self.unknown(&assignment.name, &source, false),
                    }
                }
                Err(line) => self.errors.push(format!(".env, line {line}: not of the form NAME=VALUE")),
            }
        }
    }

    fn toml_files(&mut self, inputs: &Inputs) {
        let default_dir = inputs.config_dir.as_ref().map(|dir| dir.join("frontier"));
        let named = self.text(&defs::CONFIG).map(|path| inputs.working_dir.join(path));
        let main = match named {
            Some(path) if path.is_file() => Some(path),
            Some(_) => {
                self.refuse_path(&defs::CONFIG, "no such file", "the path of a TOML file");
                None
            }
            None => {
                let beside = inputs.working_dir.join("frontier.toml");
                let user = default_dir.as_ref().map(|dir| dir.join("config.toml"));
                Some(beside).into_iter().chain(user).find(|path| path.is_file())
            }
        };
        let beside_main = main.as_deref().and_then(Path::parent).map(model_files::directory);
        // Without a main file: where it would be looked for.
        self.model_dir = beside_main.or_else(|| {
            let dirs = [Some(inputs.working_dir.clone()), default_dir].into_iter().flatten();
            let mut dirs = dirs.map(|dir| model_files::directory(&dir));
            dirs.find(|dir| !model_files::all(dir).is_empty())
        });
        if let (Some(dir), Some(model)) = (&self.model_dir, &inputs.model) {
            let path = dir.join(model_files::file_name(model));
            self.toml_file(&path, &Source::ModelToml(path.clone()));
        }
        if let Some(path) = main {
            self.toml_file(&path, &Source::MainToml(path.clone()));
        }
    }

    fn toml_file(&mut self, path: &Path, source: &Source) {
        let Some(text) = self.read_optional(path) else { return };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                let line = error.to_string().lines().next().unwrap_or_default().to_owned();
                self.errors.push(format!("{}: {line}: {}", path.display(), error.message()));
                return;
            }
        };
        for (key, value) in &table {
            let Some(def) = TABLE.iter().find(|def| def.toml() == *key) else {
                self.unknown(key, source, true);
                continue;
            };
            match toml_text(value) {
                _ if def.key == "CONFIG" => {
                    self.errors.push(format!("{}: `config` cannot be set in a configuration file", path.display()));
                }
                _ if def.decides_model() && matches!(source, Source::ModelToml(_)) => {
                    self.errors.push(format!("{}: `{key}` cannot be set in the file of a model", path.display()));
                }
                Some(text) => self.set(def, &text, source.clone()),
                None => {
                    let problem = "not a string, number, boolean or list of strings";
                    self.refuse(def, &value.to_string(), source, problem, &def.kind.allowed());
                }
            }
        }
    }

    fn profile(&mut self) {
        let Some(profile) = self.text(&defs::PROFILE).and_then(profiles::find) else { return };
        for assignment in dotenv::parse(profile.env).into_iter().flatten() {
            let key = assignment.name.strip_prefix("MISTRAL_").expect("profiles set our own names, as a test shows");
            let def = defs::find(key).expect("profiles set known names, as a test shows");
            self.set(def, &assignment.value, Source::Profile(profile.name));
        }
    }

    /// The file's text; `None` where it does not exist or cannot be used, the latter with an error.
    fn read_optional(&mut self, path: &Path) -> Option<String> {
        let size_bytes = std::fs::metadata(path).ok()?.len();
        if size_bytes > MAX_FILE_BYTES {
            self.errors.push(format!("{}: {size_bytes} bytes, at most {MAX_FILE_BYTES} are read", path.display()));
            return None;
        }
        std::fs::read_to_string(path).map_err(|error| self.errors.push(format!("{}: {error}", path.display()))).ok()
    }

    /// A path that is set and leads nowhere.
    fn refuse_path(&mut self, def: &'static Def, problem: &str, allowed: &str) {
        let Some(entry) = self.entries.remove(def.key) else { return };
        let text = entry.value.map(|value| value.to_string()).unwrap_or_default();
        self.refuse(def, &text, &entry.source, problem, allowed);
    }

    fn finish(mut self, inputs: &Inputs) -> Loaded {
        let store = self.text(&defs::MODEL_DIR).map(|dir| inputs.working_dir.join(dir));
        if store.is_some_and(|dir| dir.exists() && !dir.is_dir()) {
            self.refuse_path(&defs::MODEL_DIR, "not a directory", "a directory, which is made where there is none");
        }
        for def in TABLE {
            self.entries.entry(def.key).or_insert_with(|| Entry::default_of(def));
        }
        let inputs = Arc::new(inputs.clone());
        let mut settings = Settings { entries: self.entries, inputs, model_dir: self.model_dir };
        fit_defaults(&mut settings);
        self.errors.extend(contradictions(&settings, &self.unread));
        let mut warnings = Vec::new();
        let into = if settings.on(&defs::STRICT) { &mut self.errors } else { &mut warnings };
        into.append(&mut self.unknown);
        Loaded { settings, warnings, errors: self.errors }
    }
}

/// Whether a variable is meant for this program, in whatever spelling.
fn is_ours(name: &str) -> bool {
    let starts_so = |start: &str| name.get(..8).is_some_and(|found| found.eq_ignore_ascii_case(start));
    starts_so("MISTRAL_") || starts_so("MISTRAL-") || misspelled(name).is_some()
}

/// The setting that a variable such as `MISTRL_PORT` means: its name, but for a slip in the prefix. With any other name
/// behind it, a prefix like ours is another program's.
fn misspelled(name: &str) -> Option<&'static Def> {
    let (prefix, key) = name.split_once(['_', '-'])?;
    let def = defs::find(&key.to_ascii_uppercase().replace('-', "_"))?;
    is_slip(&prefix.to_ascii_uppercase(), "MISTRAL").then_some(def)
}

fn by_variable(name: &str) -> Option<&'static Def> {
    defs::find(name.strip_prefix("MISTRAL_")?)
}

/// Settings of which the first may not exceed the second.
const AT_MOST: [(&Def, &Def); 5] = [
    (&defs::MAX_BATCH_SIZE, &defs::MAX_RUNNING_REQUESTS),
    (&defs::MEMORY_RESERVATION, &defs::MEMORY_LIMIT),
    (&defs::MAX_SEQ_LEN, &defs::MAX_TOTAL_TOKENS),
    (&defs::MEMORY_POOL_SIZE, &defs::METAL_HEAP_SIZE),
    (&defs::PREFIX_CACHE_SIZE, &defs::METAL_HEAP_SIZE),
];

/// A default gives way to a profile, and both to what somebody has set: the lower is clipped, the higher raised.
fn fit_defaults(settings: &mut Settings) {
    let strength = |settings: &Settings, def: &Def| match settings.source(def) {
        Source::Default => 0,
        Source::Profile(_) => 1,
        _ => 2,
    };
    for (low, high) in AT_MOST {
        let [of_low, of_high] = [low, high].map(|def| strength(settings, def));
        let Some((amount, most)) = exceeding(settings, low, high).filter(|_| of_low.min(of_high) < 2) else { continue };
        let (weak, strong, how, fitting) =
            if of_low <= of_high { (low, high, "clipped", most) } else { (high, low, "raised", amount) };
        let value = match weak.kind {
            Kind::Size { .. } => Value::Size(fitting),
            _ => Value::Int(fitting),
        };
        // What the stronger may be and the weaker may not stays a contradiction.
        if weak.kind.parse(&value.to_string()).is_err() {
            continue;
        }
        let entry = settings.entries.get_mut(weak.key).expect("every row has an entry by now");
        let shown = entry.value.as_ref().map_or_else(String::new, Value::to_string);
        entry.clipped = Some(format!("{how} from {shown} to {}", strong.env()));
        entry.value = Some(value);
    }
}

/// Both amounts, where the first exceeds the second.
fn exceeding(settings: &Settings, low: &Def, high: &Def) -> Option<(u64, u64)> {
    let amount = |def| settings.value(def).and_then(Value::amount);
    Some((amount(low)?, amount(high)?)).filter(|(a, b)| a > b)
}

/// Settings that cannot hold together, or not here.
fn contradictions(settings: &Settings, unread: &[&str]) -> Vec<String> {
    let was_read = |def: &Def| !unread.contains(&def.key);
    let both = AT_MOST.iter().filter(|(low, high)| was_read(low) && was_read(high));
    let both = both.filter(|(low, high)| exceeding(settings, low, high).is_some()).map(|(low, high)| {
        let said = |def: &Def| format!("{}={} ({})", def.env(), settings.shown(def), settings.source(def));
        format!("{} exceeds {}; allowed: at most that", said(low), said(high))
    });
    let ranks = [&defs::TENSOR_PARALLEL_SIZE, &defs::PIPELINE_PARALLEL_SIZE];
    let ranks = ranks.into_iter().filter(|def| settings.int(def) > 1).map(|def| {
        format!(
            "{}={} ({}): 1 rank is running, and this version has no way to start more; allowed: 1",
            def.env(),
            settings.shown(def),
            settings.source(def)
        )
    });
    both.chain(ranks).collect()
}

/// A TOML value as it would be written in the environment.
fn toml_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(n) => Some(n.to_string()),
        toml::Value::Float(x) => Some(x.to_string()),
        toml::Value::Boolean(on) => Some(on.to_string()),
        toml::Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

impl Source {
    /// The kind of source, as one word for JSON.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Source::Flag => "flag",
            Source::Env(_) => "env",
            Source::DotEnv(_) => "dotenv",
            Source::ModelToml(_) => "model-toml",
            Source::MainToml(_) => "toml",
            Source::Profile(_) => "profile",
            Source::Default => "default",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("command line"),
            Source::Env(name) if is_ours(name) => f.write_str("environment"),
            Source::Env(name) => write!(f, "environment, {name}"),
            Source::DotEnv(line) => write!(f, ".env, line {line}"),
            Source::ModelToml(path) | Source::MainToml(path) => write!(f, "{}", path.display()),
            Source::Profile(name) => write!(f, "profile {name}"),
            Source::Default => f.write_str("default"),
        }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => f.write_str(one),
            many => {
                write!(f, "{} things are wrong:", many.len())?;
                many.iter().try_for_each(|line| write!(f, "\n  {line}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Loads with only an environment.
    fn from_env(pairs: &[(&str, &str)]) -> Result<(Settings, Vec<String>), SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        load(&Inputs { env: env(pairs), working_dir: dir.path().to_owned(), ..Inputs::default() }).check()
    }

    #[test]
    fn each_source_is_stronger_than_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(".env", "MISTRAL_MAX_BATCH_SIZE=5\n");
        write("models/org-tiny-q8.toml", "max_batch_size = 6\n");
        write("frontier.toml", "max_batch_size = 7\nprofile = 'memory-constrained'\n");
        let mut inputs = Inputs {
            flags: vec![(&defs::MAX_BATCH_SIZE, "3".to_owned())],
            env: env(&[("MISTRAL_MAX_BATCH_SIZE", "4")]),
            working_dir: dir.path().to_owned(),
            model: Some("org/tiny:q8".to_owned()),
            ..Inputs::default()
        };
        let check = |inputs: &Inputs, batch: u64, kind: &str| {
            let (settings, _) = load(inputs).check().unwrap();
            assert_eq!(settings.int(&defs::MAX_BATCH_SIZE), batch);
            assert_eq!(settings.source(&defs::MAX_BATCH_SIZE).kind(), kind);
        };
        check(&inputs, 3, "flag");
        inputs.flags.clear();
        check(&inputs, 4, "env");
        inputs.env.clear();
        check(&inputs, 5, "dotenv");
        write(".env", "");
        check(&inputs, 6, "model-toml");
        inputs.model = None;
        check(&inputs, 7, "toml");
        write("frontier.toml", "profile = 'memory-constrained'\n");
        check(&inputs, 2, "profile");
        write("frontier.toml", "");
        check(&inputs, 8, "default");
    }

    #[test]
    fn all_errors_are_reported_together_with_name_value_source_and_range() {
        let error =
            from_env(&[("MISTRAL_MEMORY_FRACTION", "2"), ("MISTRAL_DEVICE", "toaster"), ("MISTRAL_PORT", "-1")])
                .unwrap_err()
                .to_string();
        for part in [
            "3 things are wrong",
            "MISTRAL_MEMORY_FRACTION=2 (environment): out of range; allowed: above 0, up to 0.95",
            "MISTRAL_DEVICE=toaster",
            "auto, cpu, gpu, metal, vulkan",
            "MISTRAL_PORT=-1",
        ] {
            assert!(error.contains(part), "{part:?} is not in:\n{error}");
        }
    }

    #[test]
    fn contradictions_name_both_settings() {
        let set = [("MISTRAL_MAX_BATCH_SIZE", "32"), ("MISTRAL_MAX_RUNNING_REQUESTS", "16")];
        let error = from_env(&set).unwrap_err().to_string();
        assert!(error.contains("MISTRAL_MAX_BATCH_SIZE=32"), "{error}");
        assert!(error.contains("MISTRAL_MAX_RUNNING_REQUESTS=16"), "{error}");
    }

    #[test]
    fn defaults_give_way_to_what_is_set_and_say_so() {
        let batch = |size| ("MISTRAL_MAX_BATCH_SIZE", size);
        let running = |count| ("MISTRAL_MAX_RUNNING_REQUESTS", count);
        let profile = ("MISTRAL_PROFILE", "memory-constrained");
        for (set, expected, said) in [
            (&[batch("32")][..], [32, 32], [None, Some("raised from 16 to MISTRAL_MAX_BATCH_SIZE")]),
            (&[running("3")], [3, 3], [Some("clipped from 8 to MISTRAL_MAX_RUNNING_REQUESTS"), None]),
            (&[batch("3"), running("7")], [3, 7], [None, None]),
            (&[profile, running("1")], [1, 1], [Some("clipped from 2 to MISTRAL_MAX_RUNNING_REQUESTS"), None]),
        ] {
            let (settings, _) = from_env(set).unwrap();
            let both = [&defs::MAX_BATCH_SIZE, &defs::MAX_RUNNING_REQUESTS];
            assert_eq!(both.map(|def| settings.int(def)), expected, "{set:?}");
            assert_eq!(both.map(|def| settings.clipped(def)), said, "{set:?}");
        }
        let (settings, _) = from_env(&[("MISTRAL_MAX_SEQ_LEN", "200000")]).unwrap();
        assert_eq!(settings.int(&defs::MAX_TOTAL_TOKENS), 200_000);
    }

    #[test]
    fn unknown_names_are_warned_of_with_the_nearest_and_refused_when_strict() {
        let (_, warnings) = from_env(&[("MISTRAL_MAX_BACH_SIZE", "3")]).unwrap();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("MISTRAL_MAX_BATCH_SIZE"), "{}", warnings[0]);
        assert!(from_env(&[("MISTRAL_MAX_BACH_SIZE", "3"), ("MISTRAL_STRICT", "yes")]).is_err());
        let (_, warnings) = from_env(&[("mistral_port", "3")]).unwrap();
        assert!(warnings[0].ends_with("the nearest known name is MISTRAL_PORT"), "{warnings:?}");
    }

    #[test]
    fn names_in_files_are_answered_in_the_files_own_spelling() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("frontier.toml"), "MISTRAL_PORT = 1\n").unwrap();
        std::fs::write(
            dir.path().join(".env"),
            "mistral_port=1\nOTHER=1\nMINSTREL_PORT=1\nMISTRL_COLOUR=1\nMISTRL_PORT=1\nMITSRAL_NUM_THREADS=1\n\
             MISTRAL-HOST=::1\nMISTRL-MAX-SEQ-LEN=1\nMISTRAL_COLOUR=1\nOTHER-NAME=1\n",
        )
        .unwrap();
        let inputs = Inputs { working_dir: dir.path().to_owned(), ..Inputs::default() };
        let (_, warnings) = load(&inputs).check().unwrap();
        assert_eq!(warnings.len(), 7, "{warnings:?}");
        assert!(
            warnings.iter().any(|warning| warning == "unknown setting MISTRAL_COLOUR (.env, line 9)"),
            "{warnings:?}"
        );
        for (name, nearest) in [
            ("MISTRAL-HOST (.env, line 7)", "MISTRAL_HOST"),
            ("MISTRL-MAX-SEQ-LEN (.env, line 8)", "MISTRAL_MAX_SEQ_LEN"),
            ("mistral_port (.env, line 1)", "MISTRAL_PORT"),
            ("MISTRL_PORT (.env, line 5)", "MISTRAL_PORT"),
            ("MITSRAL_NUM_THREADS (.env, line 6)", "MISTRAL_NUM_THREADS"),
            ("MISTRAL_PORT (", "port"),
        ] {
            let warning = warnings.iter().find(|warning| warning.contains(&format!("unknown setting {name}")));
            assert!(warning.is_some_and(|warning| warning.ends_with(&format!(" {nearest}"))), "{warnings:?}");
        }
    }

    #[test]
    fn paths_that_lead_nowhere_are_named_with_source_and_what_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let env = env(&[("MISTRAL_CONFIG", "none.toml"), ("MISTRAL_MODEL_DIR", "file"), ("MISTRAL_HOST", "a b")]);
        let inputs = Inputs { env, working_dir: dir.path().to_owned(), ..Inputs::default() };
        let error = load(&inputs).check().unwrap_err().to_string();
        for part in [
            "3 things are wrong",
            "MISTRAL_CONFIG=none.toml (environment): no such file; allowed: the path of a TOML file",
            "MISTRAL_MODEL_DIR=file (environment): not a directory; allowed: ",
            "MISTRAL_HOST=a b (environment): not a host; allowed: an IP address or a host name",
        ] {
            assert!(error.contains(part), "{part:?} is not in:\n{error}");
        }
    }

    #[test]
    fn models_files_need_no_main_file() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let inputs = Inputs {
            working_dir: dir.path().join("here"),
            config_dir: Some(dir.path().join("user")),
            model: Some("m".into()),
            ..Inputs::default()
        };
        let batch = || load(&inputs).check().unwrap().0.int(&defs::MAX_BATCH_SIZE);
        write("user/frontier/models/m.toml", "max_batch_size = 5\n");
        assert_eq!(batch(), 5, "the user's");
        write("here/models/m.gguf", "");
        assert_eq!(batch(), 5, "models alone are no settings of theirs");
        write("here/models/m.toml", "max_batch_size = 6\n");
        assert_eq!(batch(), 6, "those of the working directory");
        write("user/frontier/config.toml", "");
        assert_eq!(batch(), 5, "those beside the main file, where there is one");
    }

    #[test]
    fn what_decides_the_model_cannot_be_in_its_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("models")).unwrap();
        std::fs::write(dir.path().join("frontier.toml"), "").unwrap();
        std::fs::write(dir.path().join("models/m.toml"), "model = 'x'\n").unwrap();
        let inputs = Inputs { working_dir: dir.path().to_owned(), model: Some("m".into()), ..Inputs::default() };
        let error = load(&inputs).check().unwrap_err().to_string();
        assert!(error.contains("m.toml: `model` cannot be set in the file of a model"), "{error}");
    }

    #[test]
    fn secrets_are_not_printed() {
        let error = from_env(&[("MISTRAL_API_KEYS", "sesame\0")]).unwrap_err().to_string();
        assert!(!error.contains("sesame"), "{error}");
    }

    #[test]
    fn auto_and_empty_leave_a_setting_to_run_time() {
        let (settings, _) = from_env(&[("MISTRAL_MAX_SEQ_LEN", "auto"), ("MISTRAL_PORT", "")]).unwrap();
        assert_eq!(settings.value(&defs::MAX_SEQ_LEN), None);
        assert_eq!(settings.int(&defs::PORT), 8080);
    }

    #[test]
    fn every_profile_sets_known_names_to_valid_values() {
        for profile in profiles::PROFILES {
            let (settings, warnings) = from_env(&[("MISTRAL_PROFILE", profile.name)]).unwrap();
            assert!(warnings.is_empty());
            for assignment in dotenv::parse(profile.env).into_iter().map(Result::unwrap) {
                let def = defs::find(assignment.name.strip_prefix("MISTRAL_").unwrap()).unwrap();
                assert_eq!(settings.source(def), &Source::Profile(profile.name), "{}", def.key);
            }
        }
    }

    #[test]
    fn toml_takes_native_types_and_refuses_tables() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = Inputs { working_dir: dir.path().to_owned(), ..Inputs::default() };
        let with = |text: &str| {
            std::fs::write(dir.path().join("frontier.toml"), text).unwrap();
            load(&inputs).check()
        };
        let (settings, _) =
            with("memory_fraction = 0.5\nuse_graph_capture = false\nport = 1\nallowed_hosts = ['a', 'b']\n").unwrap();
        assert_eq!(settings.fraction(&defs::MEMORY_FRACTION), 0.5);
        assert_eq!(settings.text(&defs::ALLOWED_HOSTS), Some("a,b"));
        for bad in ["port = {}\n", "port = 1.5\n", "port", "config = 'x'\n", "port = 99999\n"] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
}
