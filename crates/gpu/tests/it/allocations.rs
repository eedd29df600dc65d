//! A step like those before it allocates nothing; what wgpu allocates to encode and submit it is counted apart.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::{Arc, Mutex};

use gpu::{Gpu, GpuOptions, list_adapters};
use tensor::{Backend, LIKELIEST};

use crate::tiny::Tiny;

/// Steps that are watched.
const STEPS: usize = 3;

thread_local! {
    /// Whether this thread's allocations are noted.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// Where the watched thread allocated.
static SEEN: Mutex<Vec<Backtrace>> = Mutex::new(Vec::new());

/// The system's allocator, watched.
struct Watching;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Not while it is noted: that allocates too.
        if WATCHED.replace(false) {
            SEEN.lock().expect("no panic while the lock is held").push(Backtrace::force_capture());
            WATCHED.set(true);
        }
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

#[test]
fn steps_like_those_before_allocate_nothing_beside_wgpu() {
    if list_adapters().is_empty() {
        println!("skipped: allocations of a step: no GPU adapter (install mesa-vulkan-drivers for software Vulkan)");
        return;
    }
    let gpu = Arc::new(Gpu::open(GpuOptions::default()).expect("an adapter is listed"));
    let mut tiny = Tiny::load(&gpu).expect("it fits");
    // wgpu's own memory grows for a while.
    (0..16).for_each(|_| tiny.step().expect("a good step"));
    watch("one step after the other", || tiny.step().expect("a good step"));

    tiny.start(3).expect("a good step");
    let mut ahead = || {
        assert!(tiny.backend.runs_ahead());
        tiny.start(LIKELIEST).expect("a good step");
        tiny.finish().expect("a good step");
    };
    (0..16).for_each(|_| ahead());
    watch("two steps in flight", &mut ahead);
    tiny.finish().expect("a good step");
}

/// Runs some steps and fails if anything but wgpu allocated.
fn watch(name: &str, mut step: impl FnMut()) {
    WATCHED.set(true);
    (0..STEPS).for_each(|_| step());
    WATCHED.set(false);
    let seen = std::mem::take(&mut *SEEN.lock().expect("no panic while the lock is held"));
    let (theirs, ours): (Vec<String>, Vec<String>) =
        seen.iter().map(Backtrace::to_string).partition(|trace| trace.contains("wgpu"));
    println!("{name}: {} allocations by wgpu in a step, {} by us in {STEPS}", theirs.len() / STEPS, ours.len());
    assert!(ours.is_empty(), "{name}: {} allocations, the first:\n{}", ours.len(), ours[0]);
}
