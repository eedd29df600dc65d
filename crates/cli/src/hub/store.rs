//! The local store: one directory for each model, which counts once its manifest is written.
//!
//! `<store>/<org>--<repo>--<what>/manifest.json` beside the model's files. The manifest is written last and by rename,
//! so that a directory without one (an interrupted pull) is never listed nor opened.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::ModelPath;
use crate::work_dir::{self, WorkDir};

const MANIFEST: &str = "manifest.json";
/// Directories of half-finished work begin like this.
const WORK: &str = ".work-";
/// A manifest names a handful of files.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// A directory of pulled models.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

/// What a pull has stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// E.g. `org/repo:Q4_K_M`.
    pub(crate) name: String,
    /// Where it came from.
    pub(crate) origin: String,
    /// The commit.
    pub(crate) revision: String,
    pub(crate) files: Vec<StoredFile>,
}

/// A file of a stored model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredFile {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) sha256: String,
}

/// A model in the store.
#[derive(Clone, Debug)]
pub(crate) struct StoredModel {
    pub(crate) dir: PathBuf,
    pub(crate) manifest: Manifest,
}

impl Store {
    /// The store in a directory, existing or not. What processes that were killed have left in it is removed.
    pub(crate) fn open(dir: PathBuf) -> Self {
        work_dir::remove_abandoned(&dir, WORK);
        Self { dir }
    }

    /// A directory for work on a model that is not complete, in the store's own file system.
    pub(crate) fn work_dir(&self) -> Result<WorkDir> {
        WorkDir::create(&self.dir, WORK)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory for a model of this name, existing or not.
    pub(crate) fn model_dir(&self, name: &str) -> PathBuf {
        self.dir.join(name.replace(['/', ':'], "--"))
    }

    /// Every complete model, by name.
    pub(crate) fn list(&self) -> Result<Vec<StoredModel>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("model store {}", self.dir.display())),
        };
        let mut models: Vec<StoredModel> = entries.flatten().filter_map(|entry| read(&entry.path())).collect();
        models.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
        Ok(models)
    }

    /// The complete model of this name. The name's case does not matter, and a bare repository name finds the only
    /// stored variant of it.
    pub(crate) fn find(&self, name: &str) -> Result<Option<StoredModel>> {
        let mut models = self.list()?;
        if let Some(i) = models.iter().position(|model| model.manifest.name.eq_ignore_ascii_case(name)) {
            return Ok(Some(models.swap_remove(i)));
        }
        let of_repo = |model: &StoredModel| {
            let rest = model.manifest.name.get(..name.len()).filter(|start| start.eq_ignore_ascii_case(name));
            rest.is_some() && model.manifest.name[name.len()..].starts_with([':', '/'])
        };
        let mut variants: Vec<StoredModel> =
            models.into_iter().filter(|model| name.contains('/') && of_repo(model)).collect();
        Ok(if variants.len() == 1 { variants.pop() } else { None })
    }

    /// Makes a model invisible while its files change.
    pub(crate) fn withdraw(&self, dir: &Path) -> Result<()> {
        match fs::remove_file(dir.join(MANIFEST)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| dir.display().to_string())
            }
            _ => Ok(()),
        }
    }

    /// Makes a model visible: its files are complete in `dir`. What else lies there, of an earlier commit or of a pull
    /// that was given up, is removed.
    pub(crate) fn publish(&self, dir: &Path, manifest: Manifest) -> Result<StoredModel> {
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
        let temporary = dir.join(format!(".{MANIFEST}.{}", std::process::id()));
        let mut file = fs::File::create(&temporary).with_context(|| temporary.display().to_string())?;
        file.write_all(&text).and_then(|()| file.sync_all()).with_context(|| temporary.display().to_string())?;
        fs::rename(&temporary, dir.join(MANIFEST)).with_context(|| dir.display().to_string())?;
        remove_others(dir, &manifest);
        Ok(StoredModel { dir: dir.to_owned(), manifest })
    }
}

impl StoredModel {
    /// The file to open: the GGUF (its first part), or the directory of safetensors.
    pub(crate) fn model_path(&self) -> ModelPath {
        let gguf = self.manifest.files.iter().map(|file| &file.name).filter(|name| name.ends_with(".gguf")).min();
        let path = gguf.map_or_else(|| self.dir.clone(), |name| self.dir.join(name));
        ModelPath { path, name: self.manifest.name.clone() }
    }

    /// Bytes of all files.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.size_bytes).sum()
    }
}

/// Removes the files in `dir` that a manifest does not name, as far as that is possible.
fn remove_others(dir: &Path, manifest: &Manifest) {
    let named = |path: &Path| {
        let is = |name: &str| path.file_name().is_some_and(|found| found == name);
        is(MANIFEST) || manifest.files.iter().any(|file| is(&file.name))
    };
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        // Another process that still writes a file has locked it.
        if path.is_file() && !named(&path) && fs::File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            fs::remove_file(&path).ok();
        }
    }
}

/// The model in `dir`, when its manifest can be read and every file has its size.
fn read(dir: &Path) -> Option<StoredModel> {
    let path = dir.join(MANIFEST);
    if fs::metadata(&path).ok()?.len() > MAX_MANIFEST_BYTES {
        return None;
    }
    let manifest: Manifest = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let complete = |file: &StoredFile| {
        super::reference::is_plain(&file.name)
            && fs::metadata(dir.join(&file.name)).is_ok_and(|found| found.len() == file.size_bytes)
    };
    manifest.files.iter().all(complete).then(|| StoredModel { dir: dir.to_owned(), manifest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(store: &Store, name: &str, file: &str) {
        let dir = store.model_dir(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(file), b"abc").unwrap();
        let files = vec![StoredFile { name: file.into(), size_bytes: 3, sha256: String::new() }];
        let manifest = Manifest { name: name.into(), origin: "test".into(), revision: "1".into(), files };
        store.publish(&dir, manifest).unwrap();
    }

    #[test]
    fn models_are_found_by_full_name_or_by_a_unique_repository() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("models"));
        assert!(store.list().unwrap().is_empty());
        publish(&store, "a/b:q4", "x.gguf");
        let found = |name: &str| store.find(name).unwrap().map(|model| model.manifest.name);
        for name in ["a/b:q4", "A/B:Q4", "a/b"] {
            assert_eq!(found(name).as_deref(), Some("a/b:q4"), "{name}");
        }
        publish(&store, "a/b:q8", "y.gguf");
        for name in ["a/b", "a", "a/", "b", "a/b:q"] {
            assert_eq!(found(name), None, "{name}");
        }
    }

    #[test]
    fn publishing_removes_what_is_not_of_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_owned());
        publish(&store, "a/b", "old.gguf");
        let of = |name: &str| store.model_dir("a/b").join(name);
        for name in [".0123.part", ".4567.part"] {
            fs::write(of(name), b"half").unwrap();
        }
        let busy = fs::File::open(of(".4567.part")).unwrap();
        busy.lock().unwrap();
        store.withdraw(&store.model_dir("a/b")).unwrap();
        assert!(store.list().unwrap().is_empty());
        publish(&store, "a/b", "new.gguf");
        let left = [("new.gguf", true), ("old.gguf", false), (".0123.part", false), (".4567.part", true)];
        for (name, is_there) in left {
            assert_eq!(of(name).exists(), is_there, "{name}");
        }
    }

    #[test]
    fn a_model_with_a_short_or_missing_file_or_without_manifest_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_owned());
        publish(&store, "a/short", "x.gguf");
        publish(&store, "a/gone", "x.gguf");
        fs::write(store.model_dir("a/short").join("x.gguf"), b"ab").unwrap();
        fs::remove_file(store.model_dir("a/gone").join("x.gguf")).unwrap();
        fs::create_dir_all(store.model_dir("a/none")).unwrap();
        assert!(store.list().unwrap().is_empty());
    }
}
