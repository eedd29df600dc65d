//! Real models for tests, where they are: `scripts/test.sh` fetches them.

use std::path::{Path, PathBuf};

/// SmolLM2-135M-Instruct, or `None` with a visible line.
pub(crate) fn smollm2() -> Option<PathBuf> {
    find("SmolLM2-135M-Instruct.Q4_1.gguf")
}

fn find(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("FRONTIER_MODELS").map(PathBuf::from);
    let dir = dir.or_else(|| Some(std::env::home_dir()?.join(".cache/frontier/test-models")))?;
    let path = dir.join(name);
    if !path.is_file() {
        println!("skipped: no {}", path.display());
        return None;
    }
    Some(path)
}

/// A directory of data that other implementations made, or `None` with a visible line.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("FRONTIER_SHARED").map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared")).join(name);
    if !dir.exists() {
        println!("skipped: no {}", dir.display());
        return None;
    }
    Some(dir)
}
