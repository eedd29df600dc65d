//! Settings: the one place that reads the environment, `.env` and configuration files.
//!
//! [`defs`] is the table of all settings, [`load`] finds out who set what, [`Settings`] hands out typed values.
//! Other crates get plain configuration structs and never see a setting. Start with [`defs`].

pub(crate) mod defs;
mod docs;
pub(crate) mod dotenv;
mod explain;
mod flags;
pub(crate) mod import;
mod load;
mod model_files;
pub(crate) mod names;
mod profiles;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use docs::{configuration_md, env_example};
pub(crate) use explain::{Here, explain_json, explain_table};
pub(crate) use flags::SettingFlags;
pub(crate) use load::{Loaded, SettingsError, Source};

use defs::Def;
use load::{Entry, Inputs};
pub(crate) use value::size_text;
use value::{Value, items};

/// Every setting with its value and source, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// One entry for each row of [`defs::TABLE`], by key.
    entries: BTreeMap<&'static str, Entry>,
    /// What they were read from.
    inputs: Arc<Inputs>,
    /// The directory of models' own files, where there could be one.
    model_dir: Option<PathBuf>,
}

impl Settings {
    /// Reads every source of this process but models' files: `flags`, environment, working directory, user's
    /// configuration directory.
    pub(crate) fn from_process(flags: &SettingFlags) -> Loaded {
        load::load(&Inputs {
            flags: flags.values.clone(),
            env: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
                .collect(),
            working_dir: std::env::current_dir().unwrap_or_default(),
            config_dir: user_dir("XDG_CONFIG_HOME", ".config", "Library/Application Support"),
            model: None,
        })
    }

    /// The settings of the model that is served under a name: the same, but for the model's own TOML file.
    pub(crate) fn for_model(&self, name: &str) -> Loaded {
        load::load(&Inputs { model: Some(name.to_owned()), ..Inputs::clone(&self.inputs) })
    }

    /// What reading the same sources again says.
    pub(crate) fn reload(&self) -> Loaded {
        load::load(&self.inputs)
    }

    /// The same with one setting as if nobody had set it, to see what else is wrong.
    pub(crate) fn without(&self, def: &'static Def) -> Settings {
        let mut settings = self.clone();
        settings.entries.insert(def.key, Entry::default_of(def));
        settings
    }

    /// The same with the server's own values of the settings that hold for all models of a server.
    pub(crate) fn with_those_of_server(&self, server: &Settings) -> Settings {
        let mut settings = self.clone();
        for def in defs::TABLE.iter().filter(|def| def.is_of_server()) {
            settings.entries.insert(def.key, server.entry(def).clone());
        }
        settings
    }

    fn entry(&self, def: &Def) -> &Entry {
        self.entries.get(def.key).expect("loading fills in every row of the table")
    }

    pub(crate) fn value(&self, def: &Def) -> Option<&Value> {
        self.entry(def).value.as_ref()
    }

    /// Who set it.
    pub(crate) fn source(&self, def: &Def) -> &Source {
        &self.entry(def).source
    }

    /// Why the value is not what its source says.
    pub(crate) fn clipped(&self, def: &Def) -> Option<&str> {
        self.entry(def).clipped.as_deref()
    }

    /// The value as text; secrets are hidden.
    pub(crate) fn shown(&self, def: &Def) -> String {
        match (self.value(def), def.kind) {
            (None, kind) if kind.is_text() => "unset".to_owned(),
            (None, _) => "auto".to_owned(),
            (Some(_), kind) if kind.is_secret() => "***".to_owned(),
            (Some(value), _) => value.to_string(),
        }
    }

    /// A boolean setting.
    pub(crate) fn on(&self, def: &Def) -> bool {
        matches!(self.value(def), Some(Value::Bool(true)))
    }

    /// A whole number or a size that has a default.
    pub(crate) fn int(&self, def: &Def) -> u64 {
        self.amount(def).expect("asked only of settings with a default")
    }

    /// [`Self::int`] as a size in memory.
    pub(crate) fn len(&self, def: &Def) -> usize {
        usize::try_from(self.int(def)).unwrap_or(usize::MAX)
    }

    /// A whole number or a size, `None` when it is decided at run time.
    pub(crate) fn amount(&self, def: &Def) -> Option<u64> {
        self.value(def).and_then(Value::amount)
    }

    /// A share.
    pub(crate) fn fraction(&self, def: &Def) -> f64 {
        match self.value(def) {
            Some(Value::Fraction(x)) => *x,
            other => unreachable!("{} is no share: {other:?}", def.key),
        }
    }

    /// A time.
    pub(crate) fn time(&self, def: &Def) -> Duration {
        match self.value(def) {
            Some(Value::Time(time)) => *time,
            other => unreachable!("{} is no time: {other:?}", def.key),
        }
    }

    /// A text or word, `None` when it is not set.
    pub(crate) fn text(&self, def: &Def) -> Option<&str> {
        match self.value(def) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A text of items with commas between them.
    pub(crate) fn list(&self, def: &Def) -> Vec<String> {
        items(self.text(def).unwrap_or_default()).map(str::to_owned).collect()
    }
}

impl Value {
    fn amount(&self) -> Option<u64> {
        match self {
            Value::Int(n) | Value::Size(n) => Some(*n),
            _ => None,
        }
    }
}

/// Whether only this machine can reach a host, as far as its name tells.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The user's cache directory for this program's files.
pub(crate) fn cache_dir() -> Option<PathBuf> {
    user_dir("XDG_CACHE_HOME", ".cache", "Library/Caches").map(|dir| dir.join("frontier"))
}

/// A directory of the user: the named variable where it is absolute, else below the home directory.
fn user_dir(variable: &str, linux: &str, macos: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let below = if cfg!(target_os = "macos") { macos } else { linux };
    named.or_else(|| Some(std::env::home_dir().filter(|home| !home.as_os_str().is_empty())?.join(below)))
}

/// Settings from an environment alone, for tests of other modules.
#[cfg(test)]
pub(crate) fn test_settings(env: &[(&str, &str)]) -> Settings {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let inputs = Inputs { env, working_dir: PathBuf::from("/nonexistent"), ..Inputs::default() };
    load::load(&inputs).check().expect("the test's settings are valid").0
}
