//! Directories for half-finished work, gone when dropped. The owner of one holds a lock on a file in it, so that what a
//! killed process left behind can be told apart and removed by the next.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

/// The file in it that is locked.
const LOCK: &str = "lock";
/// Its name until then.
const UNLOCKED: &str = "unlocked";
/// How long a process may take from making the directory to locking it.
const LOCKED_AFTER: Duration = Duration::from_secs(60);

/// A directory of this process.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Makes one in `parent`, whose name begins with `prefix`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn create(parent: &Path, prefix: &str) -> Result<Self> {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = format!("{prefix}{}-{}", std::process::id(), since_1970.as_nanos());
        // Whole, so that a program that runs in it finds it, too.
        let path = std::path::absolute(parent.join(&name)).with_context(|| name)?;
        let create = || {
            fs::create_dir_all(&path)?;
            let lock = File::create(path.join(UNLOCKED))?;
            lock.lock()?;
            fs::rename(path.join(UNLOCKED), path.join(LOCK))?;
            Ok::<_, std::io::Error>(lock)
        };
        let lock = create().with_context(|| path.display().to_string())?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).ok();
    }
}

/// Removes those in `parent` whose names [`WorkDir::create`] has made of `prefix` and whose owners have ended. Nothing
/// else: others keep files there, too.
pub(crate) fn remove_abandoned(parent: &Path, prefix: &str) {
    for path in fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.file_name().is_some_and(|name| is_made_of(prefix, &name.to_string_lossy())) && is_abandoned(&path) {
            fs::remove_dir_all(&path).ok();
        }
    }
}

fn is_made_of(prefix: &str, name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = name.strip_prefix(prefix).and_then(|rest| rest.split_once('-'));
    numbers.is_some_and(|(process, time)| is_number(process) && is_number(time))
}

fn is_abandoned(dir: &Path) -> bool {
    match File::open(dir.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(_) => {
            let age = newest(dir).and_then(|time| SystemTime::now().duration_since(time).ok());
            holds_no_work(dir) && age.is_some_and(|age| age > LOCKED_AFTER)
        }
    }
}

/// Whether its owner ended before it locked it.
fn holds_no_work(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut files| files.all(|file| file.is_ok_and(|file| file.file_name() == UNLOCKED)))
}

/// When a directory or a file in it was last written.
fn newest(dir: &Path) -> Option<SystemTime> {
    let files = fs::read_dir(dir).ok()?.flatten().map(|file| file.path());
    files.chain([dir.to_owned()]).filter_map(|path| fs::metadata(path).ok()?.modified().ok()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_whose_owner_has_ended_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let dir = parent.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join(UNLOCKED), b"").unwrap();
            dir
        };
        let [killed, unlocked_yet, long_ago] = ["work-1-1", "work-1-2", "work-1-3"].map(make);
        let [of_a_user, without_lock] = ["work-notes", "work-1-4"].map(make);
        fs::rename(killed.join(UNLOCKED), killed.join(LOCK)).unwrap();
        fs::write(without_lock.join("half"), b"half").unwrap();
        for dir in [&long_ago, &of_a_user, &without_lock] {
            let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
            for path in files.chain([dir.clone()]) {
                File::open(&path).unwrap().set_modified(SystemTime::now() - 2 * LOCKED_AFTER).unwrap();
            }
        }
        let alive = WorkDir::create(parent.path(), "work-").unwrap();
        remove_abandoned(parent.path(), "work-");
        assert!(alive.path().is_dir() && unlocked_yet.is_dir() && of_a_user.is_dir() && without_lock.is_dir());
        assert!(!killed.exists() && !long_ago.exists());
        let path = alive.path().to_owned();
        drop(alive);
        assert!(!path.exists());
    }
}
