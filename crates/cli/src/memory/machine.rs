//! What limits this process: the machine's memory and its control groups.

use std::fs;
use std::path::{Path, PathBuf};

/// What limits this process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Memory of the machine; `None` where the system does not tell.
    pub(crate) total_bytes: Option<u64>,
    /// Limit of the control group.
    pub(crate) cgroup_bytes: Option<u64>,
}

impl Machine {
    /// Asks the system.
    pub(crate) fn read() -> Self {
        Self { total_bytes: total_bytes(), cgroup_bytes: cgroup_bytes() }
    }
}

fn total_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The least limit on the way from this process's control group up to the root.
fn cgroup_bytes() -> Option<u64> {
    let limit = |dir: PathBuf| fs::read_to_string(dir.join("memory.max")).ok()?.trim().parse().ok();
    cgroup_dirs().into_iter().filter_map(limit).min()
}

/// Directories of this process's control group and of those above it, the innermost first.
pub(super) fn cgroup_dirs() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_start_matches('/').to_owned();
    root.join(path).ancestors().take_while(|dir| dir.starts_with(root)).map(Path::to_owned).collect()
}
