//! Weights that were quantized at load, kept on disk for the next start.
//!
//! An entry is two files: `KEY.gguf`, the tensors, and `KEY.blake3`, their digest. The key is a digest of what the
//! weights were made from and how, the other of what was made; an entry counts only when its tensors have the digest
//! that is written beside them. Both files appear by renaming, the digest last, so that a process that ends in between
//! leaves no entry; several processes may read and write the same entries, for they write the same bytes.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result};
use checkpoint::Checkpoint;
use checkpoint::gguf::{Metadata, TensorHeader, Writer};

use super::digest::{Digester, digest};
use crate::output::human_bytes;
use crate::settings::{Settings, cache_dir, defs};
use crate::work_dir::{self, WorkDir};

/// Directories of entries in the making begin like this.
const MAKING: &str = "making-";

/// The directory of entries.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    max_bytes: u64,
}

impl Cache {
    /// As MISTRAL_QUANTIZATION_CACHE_SIZE says, in the user's cache directory; `None` when it is off. What earlier
    /// starts have kept beyond it is removed.
    pub(crate) fn from_settings(settings: &Settings) -> Option<Self> {
        Self::open(Self::dir()?, settings.int(&defs::QUANTIZATION_CACHE_SIZE))
    }

    /// Bytes that the disk has for entries, those that are there among them, and where; `None` where it does not tell.
    pub(crate) fn room() -> Option<(u64, PathBuf)> {
        let dir = Self::dir()?;
        let disk = rustix::fs::statvfs(dir.ancestors().find(|dir| dir.is_dir())?).ok()?;
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten().filter_map(|file| file.metadata().ok());
        let kept_bytes: u64 = entries.filter(fs::Metadata::is_file).map(|file| file.len()).sum();
        Some((disk.f_bavail.saturating_mul(disk.f_frsize).saturating_add(kept_bytes), dir))
    }

    fn dir() -> Option<PathBuf> {
        Some(cache_dir()?.join("quantized"))
    }

    fn open(dir: PathBuf, max_bytes: u64) -> Option<Self> {
        let cache = Self { dir, max_bytes };
        work_dir::remove_abandoned(&cache.dir, MAKING);
        cache.evict("");
        (max_bytes > 0).then_some(cache)
    }

    /// The entry of this key, if there is one and every byte of it is right. One that is not is removed.
    pub(crate) fn find(&self, key: &str, threads: usize) -> Option<Checkpoint> {
        let digest_path = self.digest_path(key);
        let expected = fs::read_to_string(&digest_path).ok()?;
        let entry = self.check(key, expected.trim(), threads);
        match entry {
            Ok(entry) => {
                // The time of last use, for eviction. A cache that is read-only still serves.
                let touched = fs::File::options().append(true).open(&digest_path);
                touched.and_then(|file| file.set_modified(SystemTime::now())).ok();
                Some(entry)
            }
            Err(problem) => {
                tracing::warn!("cache of quantized weights: {problem:#}; the entry is made anew");
                self.remove(key);
                None
            }
        }
    }

    /// Starts an entry of these tensors.
    ///
    /// # Errors
    /// When it cannot be written, or is larger than the whole cache may be.
    pub(crate) fn create(&self, key: &str, tensors: Vec<TensorHeader>) -> Result<Entry> {
        let size_bytes = tensors.iter().map(tensor_bytes).sum::<u64>();
        anyhow::ensure!(
            size_bytes <= self.max_bytes,
            "{} of weights exceed MISTRAL_QUANTIZATION_CACHE_SIZE={}",
            human_bytes(size_bytes),
            human_bytes(self.max_bytes)
        );
        fs::create_dir_all(&self.dir).with_context(|| self.dir.display().to_string())?;
        let making = WorkDir::create(&self.dir, MAKING)?;
        let writer = Writer::create(&making.path().join("tensors"), &Metadata::default(), &tensors)?;
        Ok(Entry {
            cache: self.clone(),
            key: key.to_owned(),
            making,
            writer,
            tensors,
            next: 0,
            digester: Digester::default(),
        })
    }

    fn check(&self, key: &str, expected: &str, threads: usize) -> Result<Checkpoint> {
        let entry = Checkpoint::open(&self.tensors_path(key))?;
        let found = digest(&entry.tensors().collect::<Vec<_>>(), threads, &|name| entry.release(name));
        anyhow::ensure!(found == expected, "{}: its checksum is wrong", entry.path().display());
        Ok(entry)
    }

    /// Removes entries, the longest unused first, until the rest fits.
    fn evict(&self, keep: &str) {
        let Ok(files) = fs::read_dir(&self.dir) else { return };
        let mut entries: Vec<(SystemTime, u64, String)> = files
            .flatten()
            .filter_map(|file| {
                let path = file.path();
                let key = path.file_stem()?.to_str()?.to_owned();
                let tensors = file.metadata().ok()?;
                // Without a digest it is what a process left that ended between the renames: its turn comes too.
                let used = fs::metadata(self.digest_path(&key)).unwrap_or(tensors.clone()).modified().ok()?;
                let is_tensors = path.extension().is_some_and(|extension| extension == "gguf");
                is_tensors.then_some((used, tensors.len(), key))
            })
            .collect();
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, key) in entries.into_iter().filter(|(_, _, key)| key != keep) {
            if total <= self.max_bytes {
                return;
            }
            tracing::info!(
                "cache of quantized weights: {} of a model not used for longest are removed",
                human_bytes(bytes)
            );
            self.remove(&key);
            total -= bytes;
        }
    }

    fn remove(&self, key: &str) {
        // The digest first: without it there is no entry. What is gone already is gone.
        fs::remove_file(self.digest_path(key)).ok();
        fs::remove_file(self.tensors_path(key)).ok();
    }

    fn tensors_path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.gguf"))
    }

    fn digest_path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.blake3"))
    }
}

/// An entry in the making. Dropped before [`Entry::finish`], it leaves nothing behind.
pub(crate) struct Entry {
    cache: Cache,
    key: String,
    writer: Writer,
    tensors: Vec<TensorHeader>,
    /// The tensor whose turn it is.
    next: usize,
    digester: Digester,
    /// After the writer: its file lies in there.
    making: WorkDir,
}

impl Entry {
    /// Writes the next tensor.
    ///
    /// # Errors
    /// When it has another name, or cannot be written.
    pub(crate) fn write(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let TensorHeader { name: expected, shape, format } =
            self.tensors.get(self.next).context("one tensor too many")?;
        anyhow::ensure!(name == expected, "tensor {name} in the place of {expected}");
        self.digester.add_tensor(name, format.name(), shape, data);
        self.next += 1;
        Ok(self.writer.write(data)?)
    }

    /// Makes the entry visible, and room for it.
    pub(crate) fn finish(self) -> Result<()> {
        let Entry { cache, key, making, writer, digester, .. } = self;
        writer.finish()?;
        let digest_path = making.path().join("digest");
        let mut file = fs::File::create(&digest_path)?;
        std::io::Write::write_all(&mut file, digester.finish().as_bytes())?;
        file.sync_all()?;
        fs::rename(making.path().join("tensors"), cache.tensors_path(&key))?;
        fs::rename(digest_path, cache.digest_path(&key))?;
        cache.evict(&key);
        Ok(())
    }
}

fn tensor_bytes(tensor: &TensorHeader) -> u64 {
    let (cols, outer) = tensor.shape.split_last().map_or((0, &[][..]), |(cols, outer)| (*cols, outer));
    tensor.format.row_bytes(cols).unwrap_or(0) as u64 * outer.iter().map(|&dim| dim as u64).product::<u64>()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use tensor::Format;

    fn cache(dir: &Path, max_bytes: u64) -> Cache {
        Cache { dir: dir.to_owned(), max_bytes }
    }

    /// An entry of one tensor of 256 bytes.
    fn put(cache: &Cache, key: &str, byte: u8) {
        let header = TensorHeader { name: "t".into(), shape: vec![4, 32], format: Format::F16 };
        let mut entry = cache.create(key, vec![header]).unwrap();
        entry.write("t", &[byte; 256]).unwrap();
        entry.finish().unwrap();
    }

    fn files(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 1 << 20);
        assert!(cache.find("k", 2).is_none());
        put(&cache, "k", 7);
        let entry = cache.find("k", 2).unwrap();
        assert_eq!(entry.tensor("t").unwrap().data, [7; 256]);
        assert_eq!(files(dir.path()), ["k.blake3", "k.gguf"]);
    }

    #[test]
    fn any_flipped_byte_of_a_tensor_and_any_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 1 << 20);
        put(&cache, "k", 7);
        let whole = fs::read(dir.path().join("k.gguf")).unwrap();
        for at in whole.len() - 256..whole.len() {
            put(&cache, "k", 7);
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(dir.path().join("k.gguf"), flipped).unwrap();
            assert!(cache.find("k", 1).is_none(), "byte {at}");
            assert!(files(dir.path()).is_empty(), "a wrong entry is removed");
        }
        for len in [0, 1, 100, whole.len() - 1] {
            put(&cache, "k", 7);
            fs::write(dir.path().join("k.gguf"), &whole[..len]).unwrap();
            assert!(cache.find("k", 1).is_none(), "{len} bytes");
        }
    }

    #[test]
    fn what_is_not_finished_is_no_entry_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 1 << 20);
        let header = TensorHeader { name: "t".into(), shape: vec![4, 32], format: Format::F16 };
        let mut entry = cache.create("k", vec![header]).unwrap();
        entry.write("t", &[1; 256]).unwrap();
        assert!(cache.find("k", 1).is_none());
        drop(entry);
        assert!(files(dir.path()).is_empty());
        // As a process that was killed between the two renames leaves it.
        put(&cache, "k", 1);
        fs::remove_file(dir.path().join("k.blake3")).unwrap();
        assert!(cache.find("k", 1).is_none());
        put(&cache, "k", 1);
        assert!(cache.find("k", 1).is_some());
    }

    #[test]
    fn a_smaller_size_holds_from_the_next_start_on() {
        let dir = tempfile::tempdir().unwrap();
        let sized = |max_bytes| Cache::open(dir.path().to_owned(), max_bytes);
        let large = sized(1 << 20).unwrap();
        put(&large, "old", 1);
        let used_before = SystemTime::now() - Duration::from_secs(100);
        let digest = fs::File::options().append(true).open(dir.path().join("old.blake3")).unwrap();
        digest.set_modified(used_before).unwrap();
        put(&large, "new", 2);
        let size = fs::metadata(dir.path().join("new.gguf")).unwrap().len();
        assert!(sized(2 * size).is_some());
        assert_eq!(files(dir.path()).len(), 4, "both fit");
        assert!(sized(size).is_some());
        assert_eq!(files(dir.path()), ["new.blake3", "new.gguf"]);
        assert!(sized(0).is_none());
        assert!(files(dir.path()).is_empty());
    }

    #[test]
    fn what_killed_processes_have_half_made_is_removed_by_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 1 << 20);
        let header = || TensorHeader { name: "t".into(), shape: vec![4, 32], format: Format::F16 };
        let alive = cache.create("alive", vec![header()]).unwrap();
        let killed = dir.path().join(format!("{MAKING}1-1"));
        fs::create_dir(&killed).unwrap();
        fs::File::create(killed.join("lock")).unwrap();
        assert!(Cache::open(dir.path().to_owned(), 0).is_none());
        assert!(alive.making.path().is_dir() && !killed.exists());
    }

    #[test]
    fn the_longest_unused_entries_go_first_and_what_is_too_large_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let size = {
            let cache = cache(dir.path(), 1 << 20);
            put(&cache, "a", 1);
            fs::metadata(dir.path().join("a.gguf")).unwrap().len()
        };
        let cache = cache(dir.path(), 2 * size);
        let used = |key: &str, seconds: u64| {
            let file = fs::File::options().append(true).open(dir.path().join(format!("{key}.blake3"))).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        };
        put(&cache, "b", 2);
        used("a", 200);
        used("b", 100);
        assert!(cache.find("a", 1).is_some(), "used now");
        put(&cache, "c", 3);
        assert!(cache.find("b", 1).is_none());
        assert!(cache.find("a", 1).is_some() && cache.find("c", 1).is_some());
        // Tensors whose digest never came count as well.
        fs::remove_file(dir.path().join("a.blake3")).unwrap();
        let left = fs::File::options().append(true).open(dir.path().join("a.gguf")).unwrap();
        left.set_modified(SystemTime::now() - Duration::from_secs(200)).unwrap();
        put(&cache, "e", 4);
        assert_eq!(files(dir.path()), ["c.blake3", "c.gguf", "e.blake3", "e.gguf"]);
        let header = TensorHeader { name: "t".into(), shape: vec![1000, 32], format: Format::F16 };
        let error = cache.create("d", vec![header]).err().unwrap().to_string();
        assert!(error.contains("MISTRAL_QUANTIZATION_CACHE_SIZE"), "{error}");
    }
}
