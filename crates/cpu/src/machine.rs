//! What the system tells about memory: how much there is, how much of it this process may have, what is left of that.
//!
//! Linux tells through files; limits are those of control groups, of version 2 and of version 1. macOS tells through
//! `sysctl`, and of changes through a dispatch source. Elsewhere nothing is told.

use std::path::PathBuf;

/// Memory of the machine in bytes; `None` where the system does not tell.
pub fn total_bytes() -> Option<u64> {
    system::total_bytes()
}

/// The least limit of this process's control group and of those above it, in bytes; `None` where there is none.
pub fn group_limit_bytes() -> Option<u64> {
    system::group_limit_bytes()
}

/// What is left in bytes: on Linux the kernel's estimate without swapping, or what control groups leave if that is less;
/// elsewhere all memory of the machine, or `u64::MAX` where the system does not tell.
pub fn available_bytes() -> u64 {
    system::available_bytes()
}

/// How short of memory the system finds itself: 1 is normal, 2 a warning, 4 critical. `None` where it does not tell: only
/// macOS does.
pub fn pressure_level() -> Option<i32> {
    system::pressure_level()
}

/// Tells when [`pressure_level`] changes.
#[cfg(target_os = "macos")]
pub use crate::macos::PressureChanges;

/// Tells when [`pressure_level`] changes: never.
#[cfg(not(target_os = "macos"))]
#[derive(Debug)]
pub struct PressureChanges;

#[cfg(not(target_os = "macos"))]
impl PressureChanges {
    /// Asks for them from now on.
    #[expect(clippy::new_without_default, reason = "elsewhere it starts something")]
    pub fn new() -> Self {
        Self
    }

    /// Waits for a change, but no longer than `most`.
    pub fn wait(&self, most: std::time::Duration) {
        std::thread::sleep(most);
    }
}

/// Directories of this process's control group for memory and of those above it, the innermost first.
pub fn group_dirs() -> Vec<PathBuf> {
    system::group_dirs()
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// A limit of version 1 from here on means that there is none.
    const NO_LIMIT: u64 = 1 << 62;

    /// What the files of a version of control groups are called.
    struct Names {
        root: &'static str,
        limit: &'static str,
        used: &'static str,
        /// Entries of `memory.stat` for pages of files, which count as used and are given up when others need them.
        cache: [&'static str; 2],
    }

    const VERSION_1: Names = Names {
        root: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        cache: ["total_active_file ", "total_inactive_file "],
    };
    const VERSION_2: Names = Names {
        root: "/sys/fs/cgroup",
        limit: "memory.max",
        used: "memory.current",
        cache: ["active_file ", "inactive_file "],
    };

    pub(super) fn total_bytes() -> Option<u64> {
        meminfo_bytes("MemTotal:")
    }

    pub(super) fn group_limit_bytes() -> Option<u64> {
        let (names, dirs) = groups();
        dirs.iter().filter_map(|dir| limit(&names, dir)).min()
    }

    pub(super) fn available_bytes() -> u64 {
        let (names, dirs) = groups();
        let left = dirs.iter().filter_map(|dir| left(&names, dir));
        left.chain(meminfo_bytes("MemAvailable:")).min().unwrap_or(u64::MAX)
    }

    pub(super) fn pressure_level() -> Option<i32> {
        None
    }

    pub(super) fn group_dirs() -> Vec<PathBuf> {
        groups().1
    }

    /// Which version counts memory, and the directories. In a container the path may be one of the host, of which only the
    /// root is seen; what is not there has no limit.
    fn groups() -> (Names, Vec<PathBuf>) {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let (names, path) = group_path(&own);
        let root = Path::new(names.root);
        let dirs = root.join(path).ancestors().take_while(|dir| dir.starts_with(root)).map(Path::to_owned).collect();
        (names, dirs)
    }

    /// The version and the path below its root, of the lines `ID:CONTROLLERS:PATH`.
    fn group_path(lines: &str) -> (Names, &str) {
        let fields = lines.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let path_of = |wanted: &dyn Fn(&str) -> bool| {
            let found = fields.clone().find(|(controllers, _)| wanted(controllers))?;
            Some(found.1.trim_start_matches('/'))
        };
        match path_of(&|controllers| controllers.split(',').any(|controller| controller == "memory")) {
            Some(path) => (VERSION_1, path),
            None => (VERSION_2, path_of(&str::is_empty).unwrap_or_default()),
        }
    }

    fn limit(names: &Names, dir: &Path) -> Option<u64> {
        number(&dir.join(names.limit)).filter(|limit| *limit < NO_LIMIT)
    }

    fn left(names: &Names, dir: &Path) -> Option<u64> {
        let limit = limit(names, dir)?;
        let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let cache: u64 = names.cache.iter().filter_map(|name| entry(&stat, name)).sum();
        let used = number(&dir.join(names.used)).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(cache)))
    }

    fn number(path: &Path) -> Option<u64> {
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    fn meminfo_bytes(name: &str) -> Option<u64> {
        Some(entry(&fs::read_to_string("/proc/meminfo").ok()?, name)? * 1024)
    }

    /// The number behind a name at the start of a line.
    fn entry(text: &str, name: &str) -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn control_groups_of_both_versions_are_found() {
            for (lines, root, path) in [
                ("0::/user.slice/app\n", VERSION_2.root, "user.slice/app"),
                ("0::/\n", VERSION_2.root, ""),
                ("3:cpu,cpuacct:/x\n4:memory:/docker/1\n0::/\n", VERSION_1.root, "docker/1"),
                ("4:hugetlb,memory:/a\n", VERSION_1.root, "a"),
                ("", VERSION_2.root, ""),
            ] {
                let (names, found) = group_path(lines);
                assert_eq!((names.root, found), (root, path), "{lines:?}");
            }
        }

        #[test]
        fn what_is_left_of_a_limit_counts_pages_of_files_as_free() {
            let dir = tempfile::tempdir().unwrap();
            let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
            assert_eq!(left(&VERSION_2, dir.path()), None, "no limit");
            write("memory.max", "max\n");
            assert_eq!(left(&VERSION_2, dir.path()), None);
            write("memory.max", "1000\n");
            write("memory.current", "900\n");
            write("memory.stat", "anon 500\nfile 400\nactive_file 100\ninactive_file 200\n");
            assert_eq!(left(&VERSION_2, dir.path()), Some(400));
            write("memory.limit_in_bytes", "9223372036854771712\n");
            assert_eq!(left(&VERSION_1, dir.path()), None, "as version 1 says that there is no limit");
            write("memory.limit_in_bytes", "800\n");
            write("memory.usage_in_bytes", "900\n");
            assert_eq!(left(&VERSION_1, dir.path()), Some(0));
        }

        #[test]
        fn this_machine_tells() {
            let total = total_bytes().expect("Linux tells");
            assert!(available_bytes() <= total && group_limit_bytes().is_none_or(|limit| limit > 0));
        }
    }
}

#[cfg(target_os = "macos")]
mod system {
    use std::path::PathBuf;

    use crate::macos::sysctl;

    pub(super) fn total_bytes() -> Option<u64> {
        sysctl(c"hw.memsize")
    }

    pub(super) fn group_limit_bytes() -> Option<u64> {
        None
    }

    /// What of it is free would be a guess, since the system compresses and swaps.
    pub(super) fn available_bytes() -> u64 {
        total_bytes().unwrap_or(u64::MAX)
    }

    /// The level that the dispatch source for memory pressure reports when it changes.
    pub(super) fn pressure_level() -> Option<i32> {
        sysctl(c"kern.memorystatus_vm_pressure_level")
    }

    pub(super) fn group_dirs() -> Vec<PathBuf> {
        Vec::new()
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod system {
    use std::path::PathBuf;

    pub(super) fn total_bytes() -> Option<u64> {
        None
    }

    pub(super) fn group_limit_bytes() -> Option<u64> {
        None
    }

    pub(super) fn available_bytes() -> u64 {
        u64::MAX
    }

    pub(super) fn pressure_level() -> Option<i32> {
        None
    }

    pub(super) fn group_dirs() -> Vec<PathBuf> {
        Vec::new()
    }
}
