//! Files with the settings of single models: which file is whose, and files that are nobody's.

use std::path::{Path, PathBuf};

use super::defs::TABLE;
use super::names::nearest;
use super::{Settings, Source};

/// The directory of models' files beside the main file, in its directory `dir`.
pub(super) fn directory(dir: &Path) -> PathBuf {
    dir.join("models")
}

/// The models' files in such a directory, sorted.
pub(super) fn all(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|file| file.path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    files
}

/// Name of the file for the model that is served under a name: characters that do not belong in a file name become
/// dashes.
pub(super) fn file_name(model: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name: String = model.chars().map(|c| if safe(c) { c } else { '-' }).collect();
    format!("{name}.toml")
}

impl Settings {
    /// A warning for each model's file that is for none of the models served.
    pub(crate) fn stray_model_files(&self, served: &[String]) -> Vec<String> {
        let Some(dir) = &self.model_dir else { return Vec::new() };
        let is_stray = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            !served.iter().any(|model| name == file_name(model).as_str())
        };
        let warning = |path: PathBuf| {
            // All have the same ending, which would make short names near.
            let stem = |name: &str| name.strip_suffix(".toml").unwrap_or(name).to_owned();
            let name = stem(&path.file_name().unwrap_or_default().to_string_lossy());
            let known = nearest(&name, served.iter().map(|model| stem(&file_name(model))));
            let hint = known.map(|known| format!("; the nearest name of one is {known}.toml")).unwrap_or_default();
            format!("{}: for no model that is served{hint}", path.display())
        };
        all(dir).into_iter().filter(is_stray).map(warning).collect()
    }

    /// A warning for each setting in a model's file that is the server's as a whole, where several models are served.
    pub(crate) fn unused_of_model(&self) -> Vec<String> {
        let unused = TABLE.iter().filter(|def| def.is_of_server());
        let of_file = unused.filter_map(|def| match self.source(def) {
            Source::ModelToml(path) => Some((path, def)),
            _ => None,
        });
        let warning = |(path, def): (&PathBuf, &&super::defs::Def)| {
            format!("{}: {} is the server's, which serves several models: not used", path.display(), def.toml())
        };
        of_file.map(warning).collect()
    }
}
