//! Memory for what is streamed once per token: weights and KV pages.
//!
//! Reading through 4 KiB pages costs 12 to 17 % of the bandwidth (measured on Zen 4), and memory is laid out where the
//! thread that touches it first runs. So an [`Arena`] maps large anonymous regions, asks for 2 MiB pages before
//! anything is written, and hands out pieces; the caller fills a piece from the threads that will read it. Many small
//! matrices share a region, so that no matrix wastes part of a huge page.
//!
//! macOS on ARM has no huge pages to ask for, and pages of 16 KiB anyway.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::machine::available_bytes;

/// Pieces start on a boundary of this many bytes: a cache line, and the widest vector.
pub const ALIGN_BYTES: usize = 64;

/// Size of a huge page on every platform that has a kernel here.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Address space reserved at a time. Pages that no piece reaches are never backed by memory.
const REGION_BYTES: usize = 256 << 20;

/// Memory could not be had.
#[derive(Debug, thiserror::Error)]
#[error("out of memory: {wanted_bytes} bytes wanted, {available_bytes} are available")]
pub struct OutOfMemory {
    /// Size asked for.
    pub wanted_bytes: u64,
    /// Size the system says it has.
    pub available_bytes: u64,
}

/// Hands out zeroed pieces of large regions. A region is unmapped when its last piece is dropped.
#[derive(Debug, Default)]
pub struct Arena {
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    /// Kept by its pieces alone.
    region: Weak<Region>,
    used_bytes: usize,
}

impl Arena {
    /// `len_bytes` zeroed bytes that nothing has touched yet.
    ///
    /// # Errors
    /// When the machine has less memory than that available now: asking the system for it would succeed, and filling it
    /// would end the process.
    pub fn alloc(&self, len_bytes: usize) -> Result<HugeBuf, OutOfMemory> {
        let available_bytes = available_bytes();
        let out_of_memory = || OutOfMemory { wanted_bytes: len_bytes as u64, available_bytes };
        if len_bytes as u64 > available_bytes {
            return Err(out_of_memory());
        }
        let reserved_bytes = len_bytes.checked_next_multiple_of(ALIGN_BYTES).ok_or_else(out_of_memory)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &mut *open
            && let Some(region) = open.region.upgrade()
            && reserved_bytes <= region.len_bytes - open.used_bytes
        {
            let start = open.used_bytes;
            open.used_bytes += reserved_bytes;
            return Ok(HugeBuf { region, start, len_bytes });
        }
        let region = Region::map(reserved_bytes.max(REGION_BYTES)).or_else(|| Region::map(reserved_bytes));
        let region = Arc::new(region.ok_or_else(out_of_memory)?);
        *open = Some(Open { region: Arc::downgrade(&region), used_bytes: reserved_bytes });
        Ok(HugeBuf { region, start: 0, len_bytes })
    }
}

/// A piece of an [`Arena`]: bytes, aligned to [`ALIGN_BYTES`], zero at first.
#[derive(Debug)]
pub struct HugeBuf {
    region: Arc<Region>,
    start: usize,
    len_bytes: usize,
}

impl HugeBuf {
    /// Gives the memory of a range back to the system, as far as it is whole pages of the system; these read as zeros
    /// afterwards. Elsewhere than on Linux nothing happens.
    ///
    /// # Panics
    /// When the range is not within the buffer.
    pub fn give_back(&mut self, range: std::ops::Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len_bytes, "{range:?} of {} bytes", self.len_bytes);
        let base = self.region.base() as usize + self.start;
        let page_bytes = system_page_bytes();
        let first = (base + range.start).next_multiple_of(page_bytes);
        let end = (base + range.end) / page_bytes * page_bytes;
        if first >= end {
            return;
        }
        #[cfg(target_os = "linux")]
        // SAFETY: [first, end) lies within this buffer, which is borrowed exclusively, in a private anonymous mapping: its
        // pages read as zeros afterwards, which are valid bytes.
        unsafe {
            libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_DONTNEED)
        };
    }
}

impl Deref for HugeBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the piece lies within its region, which lives as long as the piece, and is initialised (zeroed).
        unsafe { std::slice::from_raw_parts(self.region.base().add(self.start), self.len_bytes) }
    }
}

impl DerefMut for HugeBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; pieces of one region do not overlap, so this one is borrowed through `self` alone.
        unsafe { std::slice::from_raw_parts_mut(self.region.base().add(self.start), self.len_bytes) }
    }
}

/// Bytes of a page of the system's: 4 KiB on most machines, 16 or 64 on some with ARM processors.
fn system_page_bytes() -> usize {
    // SAFETY: asks for a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// Gives memory that was freed back to the system, where the allocator would keep it for the next allocation.
pub fn release_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call touches only memory that the allocator holds as free.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// One mapping, aligned to huge pages.
#[derive(Debug)]
struct Region {
    /// Address of the first aligned byte. An integer, so that a region may be shared by threads.
    base: usize,
    len_bytes: usize,
    mapped_at: usize,
    mapped_bytes: usize,
}

impl Region {
    fn map(len_bytes: usize) -> Option<Region> {
        let len_bytes = len_bytes.checked_next_multiple_of(HUGE_PAGE_BYTES)?;
        let mapped_bytes = len_bytes.checked_add(HUGE_PAGE_BYTES)?;
        // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice touches no existing memory.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return None;
        }
        let base = (mapped as usize).next_multiple_of(HUGE_PAGE_BYTES);
        #[cfg(target_os = "linux")]
        // SAFETY: [base, base + len_bytes) lies within the mapping just made. The advice may be refused; that costs
        // speed only.
        unsafe {
            libc::madvise(base as *mut libc::c_void, len_bytes, libc::MADV_HUGEPAGE);
        }
        Some(Region { base, len_bytes, mapped_at: mapped as usize, mapped_bytes })
    }

    fn base(&self) -> *mut u8 {
        self.base as *mut u8
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this address and size, and no piece of it is left.
        unsafe { libc::munmap(self.mapped_at as *mut libc::c_void, self.mapped_bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_zeroed_aligned_and_apart() {
        let arena = Arena::default();
        let mut pieces: Vec<HugeBuf> =
            [1, 63, 64, 65, 3 << 20, 0, 7].into_iter().map(|len| arena.alloc(len).expect("small")).collect();
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert_eq!(piece.as_ptr() as usize % ALIGN_BYTES, 0);
            assert!(piece.iter().all(|&b| b == 0));
            piece.fill(i as u8 + 1);
        }
        for (i, piece) in pieces.iter().enumerate() {
            assert!(piece.iter().all(|&b| b == i as u8 + 1), "piece {i} was overwritten");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_given_back_reads_as_zeros_and_the_rest_is_left() {
        let (arena, page) = (Arena::default(), system_page_bytes());
        let (mut before, mut piece) = (arena.alloc(100).expect("small"), arena.alloc(5 * page).expect("small"));
        before.fill(1);
        piece.fill(2);
        piece.give_back(100..4 * page + 200);
        assert!(before.iter().all(|&byte| byte == 1));
        assert!(piece[..100].iter().chain(&piece[4 * page + 200..]).all(|&byte| byte == 2));
        assert!(piece[100..4 * page + 200].iter().all(|&byte| byte == 0 || byte == 2));
        assert!(piece[2 * page..3 * page].iter().all(|&byte| byte == 0), "whole pages of the system");
        piece.give_back(0..0);
        piece.fill(3);
    }

    #[test]
    fn region_without_pieces_is_unmapped() {
        let arena = Arena::default();
        let (first, second) = (arena.alloc(100).expect("small"), arena.alloc(100).expect("small"));
        let region = Arc::downgrade(&first.region);
        assert!(Arc::ptr_eq(&first.region, &second.region), "small pieces share a region");
        drop(first);
        assert!(region.upgrade().is_some());
        drop(second);
        assert!(region.upgrade().is_none());
        assert_eq!(arena.alloc(100).expect("small").start, 0, "a piece of a new region");
    }

    #[test]
    fn piece_outlives_its_arena() {
        let arena = Arena::default();
        let mut piece = arena.alloc(100).expect("small");
        drop(arena);
        piece.fill(7);
        assert_eq!(piece[99], 7);
    }

    #[test]
    fn more_than_the_machine_has_is_an_error() {
        let error = Arena::default().alloc(1 << 46).expect_err("64 TiB");
        assert_eq!(error.wanted_bytes, 1 << 46);
    }
}
