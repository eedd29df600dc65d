//! A file (or plain memory) mapped read-only. The only module of this crate with `unsafe` code.
//!
//! Weights are read straight from the mapping, so that opening a model costs no copy and several processes share one
//! page cache. The price: whoever shortens the file while it is open kills the process (SIGBUS). Model files are
//! replaced by renaming, never rewritten in place; a directory that strangers can write to is not a place for models.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::CheckpointError;

/// The files that are mapped now, for [`release`].
static FILES: Mutex<Vec<Weak<memmap2::Mmap>>> = Mutex::new(Vec::new());

/// Tells the system that bytes of a mapped file are not needed for now, whatever checkpoint they are of: they stay
/// readable, and come from the file again when somebody looks. Bytes of anything else are left alone.
pub fn release(bytes: &[u8]) {
    let start = bytes.as_ptr() as usize;
    let files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    for map in files.iter().filter_map(Weak::upgrade) {
        let base = map.as_ptr() as usize;
        if base <= start && start + bytes.len() <= base + map.len() {
            dont_need(&map, start - base..start - base + bytes.len());
        }
    }
}

/// Gives back the pages of a range of a file's mapping.
fn dont_need(map: &memmap2::Mmap, range: Range<usize>) {
    #[cfg(unix)]
    {
        // SAFETY: the mapping is of a file that is never written through it, so that pages which are dropped come back
        // with the same bytes.
        let advised =
            unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        // Advice that is refused costs memory only.
        advised.ok();
    }
    #[cfg(not(unix))]
    let _ = (map, range);
}

/// The bytes of a regular, non-empty file.
#[derive(Debug)]
pub(crate) struct Mapping {
    map: Arc<memmap2::Mmap>,
    /// The file behind it, if there is one, from which pages can be read again.
    path: Option<PathBuf>,
}

impl Mapping {
    /// Maps the file at `path`. Errors carry the path.
    pub(crate) fn open(path: &Path) -> Result<Mapping, CheckpointError> {
        Mapping::map(path).map_err(|fault| fault.in_file(path))
    }

    /// Memory that no file stands behind, written once by `fill`.
    pub(crate) fn anonymous(len_bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<Mapping, CheckpointError> {
        let mut map = memmap2::MmapMut::map_anon(len_bytes)?;
        fill(&mut map);
        Ok(Mapping { map: Arc::new(map.make_read_only()?), path: None })
    }

    /// The mapping of a file, for devices that read it in place; it stays as long as somebody holds it.
    pub(crate) fn shared(&self) -> Option<Arc<memmap2::Mmap>> {
        self.path.is_some().then(|| self.map.clone())
    }

    /// The file behind it, if there is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// All of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Tells the system that a range is not needed for now. It stays readable; where no file stands behind it, and on
    /// systems without such advice, nothing happens.
    pub(crate) fn release(&self, range: Range<usize>) {
        if self.path.is_some() {
            dont_need(&self.map, range);
        }
    }

    fn map(path: &Path) -> Result<Mapping, CheckpointError> {
        // Asked before opening: opening a named pipe would wait for a writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(CheckpointError::invalid("its kind", "not a regular file", "a regular file"));
        }
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Err(CheckpointError::invalid("the file", "empty", "a GGUF or safetensors file"));
        }
        // SAFETY: the mapping is private to this process and read-only; that the file keeps its length while it is
        // mapped is the operator's part (module header).
        let map = Arc::new(unsafe { memmap2::Mmap::map(&file)? });
        let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|known| known.strong_count() > 0);
        files.push(Arc::downgrade(&map));
        Ok(Mapping { map, path: Some(path.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident pages of the mapping that holds `address`, in bytes.
    #[cfg(target_os = "linux")]
    fn resident_bytes(address: usize) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux tells");
        let mut is_ours = false;
        for line in maps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let hex = |text| usize::from_str_radix(text, 16).ok();
            if let Some((start, end)) = range.and_then(|(start, end)| Some((hex(start)?, hex(end)?))) {
                is_ours = (start..end).contains(&address);
            } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| is_ours) {
                let kib = rest.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
                return kib << 10;
            }
        }
        panic!("{address:x} is not mapped")
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn released_bytes_leave_memory_and_come_back_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let written: Vec<u8> = (0..4 << 20).map(|i: u32| (i % 251) as u8).collect();
        std::fs::write(&path, &written).expect("written");
        let mapping = Mapping::open(&path).expect("mapped");
        let address = mapping.bytes().as_ptr() as usize;
        assert!(mapping.bytes() == written);
        assert_eq!(resident_bytes(address), 4 << 20);
        release(&mapping.bytes()[1 << 20..3 << 20]);
        assert!(resident_bytes(address) <= 2 << 20, "two of four are released");
        assert!(mapping.bytes() == written);
        // What is of no file is left as it is.
        let own = written.clone();
        release(&own);
        assert!(own == written);
    }
}
