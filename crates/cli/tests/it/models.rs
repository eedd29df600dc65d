//! Real models for tests, where they are: `scripts/test.sh` fetches them.

use std::path::{Path, PathBuf};

/// SmolLM2-135M-Instruct, or `None` with a visible line.
pub(crate) fn smollm2() -> Option<PathBuf> {
    find("SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// Gemma 3 270M, or `None` with a visible line.
pub(crate) fn gemma3() -> Option<PathBuf> {
    find("gemma-3-270m-q4_k_m.gguf")
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

/// A Python with OpenAI's client, or `None` with a visible line.
pub(crate) fn python() -> Option<PathBuf> {
    let python = std::env::var_os("FRONTIER_PYTHON").map(PathBuf::from);
    if python.is_none() {
        println!("skipped: FRONTIER_PYTHON names no Python with the openai package");
    }
    python
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
