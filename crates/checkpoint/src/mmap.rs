//! A file (or plain memory) mapped read-only. The only module of this crate with `unsafe` code.
//!
//! Weights are read straight from the mapping, so that opening a model costs no copy and several processes share one
//! page cache. The price: whoever shortens the file while it is open kills the process (SIGBUS). Model files are
//! replaced by renaming, never rewritten in place; a directory that strangers can write to is not a place for models.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::CheckpointError;

/// The bytes of a regular, non-empty file.
#[derive(Debug)]
pub(crate) struct Mapping {
    map: Arc<memmap2::Mmap>,
    /// Whether a file stands behind it, from which pages can be read again.
    is_file: bool,
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
        Ok(Mapping { map: Arc::new(map.make_read_only()?), is_file: false })
    }

    /// The mapping of a file, for devices that read it in place; it stays as long as somebody holds it.
    pub(crate) fn shared(&self) -> Option<Arc<memmap2::Mmap>> {
        self.is_file.then(|| self.map.clone())
    }

    /// All of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Tells the system that a range is not needed for now. It stays readable; where no file stands behind it, and on
    /// systems without such advice, nothing happens.
    pub(crate) fn release(&self, range: std::ops::Range<usize>) {
        #[cfg(unix)]
        if self.is_file {
            // SAFETY: the mapping is of a file that is never written through it, so that pages which are dropped come back
            // with the same bytes.
            let advised = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            // Advice that is refused costs memory only.
            advised.ok();
        }
        #[cfg(not(unix))]
        let _ = (range, self.is_file);
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
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Mapping { map: Arc::new(map), is_file: true })
    }
}
