//! Where the tests find files that are not in the repository.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

/// The directory of reference data, or nothing (and a visible line) where there is none.
pub(crate) fn shared() -> Option<PathBuf> {
    let root = match std::env::var_os("FRONTIER_SHARED") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let data = root.join("data");
    if !data.is_dir() {
        println!("skipped: no reference data at {}", data.display());
        return None;
    }
    Some(data)
}

/// All reference vocabularies.
pub(crate) fn vocabularies() -> Vec<PathBuf> {
    let Some(data) = shared() else { return Vec::new() };
    let entries = std::fs::read_dir(data.join("vocab")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    paths.sort();
    assert!(paths.len() >= 8, "{paths:?}");
    paths
}

/// A reference vocabulary by its file name.
pub(crate) fn vocabulary(name: &str) -> Option<PathBuf> {
    shared().map(|data| data.join("vocab").join(name)).filter(|path| path.is_file())
}

/// A real model by its file name, from the directory that `scripts/test.sh` fills.
pub(crate) fn model(name: &str) -> Option<PathBuf> {
    let directory = match std::env::var_os("FRONTIER_MODELS") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cache/frontier/test-models"),
    };
    let path = directory.join(name);
    if !path.is_file() {
        println!("skipped: no model at {}", path.display());
        return None;
    }
    Some(path)
}

/// Peak memory of this process; 0 where the system does not tell.
pub(crate) fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
