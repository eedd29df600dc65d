//! What macOS tells about the machine.

use std::ffi::{CStr, c_void};
use std::time::Duration;

use bytemuck::AnyBitPattern;

/// A number that the system keeps under `name`; `None` where it has none, or one of another size.
pub(crate) fn sysctl<T: AnyBitPattern>(name: &CStr) -> Option<T> {
    let mut value = T::zeroed();
    let mut size = size_of::<T>();
    // SAFETY: the name is a C string; `value` and `size` are valid for writes, `size` says of how many bytes.
    let failed =
        unsafe { libc::sysctlbyname(name.as_ptr(), (&raw mut value).cast(), &mut size, std::ptr::null_mut(), 0) };
    (failed == 0 && size == size_of::<T>()).then_some(value)
}

/// Tells when the system's level of memory pressure changes: a dispatch source, which lives as long as the process.
#[derive(Debug)]
pub struct PressureChanges {
    /// Signalled at each change.
    semaphore: *mut dispatch::Object,
}

impl PressureChanges {
    /// Asks for them from now on.
    #[expect(clippy::new_without_default, reason = "it starts something")]
    pub fn new() -> Self {
        // SAFETY: any count from 0 is one to begin with.
        let semaphore = unsafe { dispatch::dispatch_semaphore_create(0) };
        // SAFETY: the two zeros are the default priority and the only flags that there are.
        let queue = unsafe { dispatch::dispatch_get_global_queue(0, 0) };
        let kind = &raw const dispatch::_dispatch_source_type_memorypressure;
        // SAFETY: this kind of source has no handle and takes the mask of levels; the queue is a global one, which stays.
        let source = unsafe { dispatch::dispatch_source_create(kind, 0, dispatch::ALL_LEVELS, queue) };
        if !source.is_null() && !semaphore.is_null() {
            // SAFETY: the source is not active yet; its context is the semaphore, which stays, and which the handler expects.
            unsafe { dispatch::dispatch_set_context(source, semaphore.cast()) };
            // SAFETY: the source is not active yet, and the handler takes its context.
            unsafe { dispatch::dispatch_source_set_event_handler_f(source, signal) };
            // SAFETY: a new source, which is resumed once.
            unsafe { dispatch::dispatch_resume(source) };
        }
        Self { semaphore }
    }

    /// Waits for a change, but no longer than `most`.
    pub fn wait(&self, most: Duration) {
        if self.semaphore.is_null() {
            return std::thread::sleep(most);
        }
        let nanos = i64::try_from(most.as_nanos()).unwrap_or(i64::MAX);
        // SAFETY: the first argument is the present, the second any time from then.
        let until = unsafe { dispatch::dispatch_time(0, nanos) };
        // SAFETY: a semaphore that is never released.
        unsafe { dispatch::dispatch_semaphore_wait(self.semaphore, until) };
    }
}

/// The source's handler.
extern "C" fn signal(semaphore: *mut c_void) {
    // SAFETY: the context is the semaphore of [`PressureChanges::new`], which is never released.
    unsafe { dispatch::dispatch_semaphore_signal(semaphore.cast()) };
}

/// Of `<dispatch/dispatch.h>`, which every program on macOS is linked with.
mod dispatch {
    use std::ffi::c_void;

    #[repr(C)]
    pub(super) struct Object {
        _opaque: [u8; 0],
    }

    /// `DISPATCH_MEMORYPRESSURE_NORMAL`, `_WARN` and `_CRITICAL`.
    pub(super) const ALL_LEVELS: usize = 1 | 2 | 4;

    unsafe extern "C" {
        pub(super) static _dispatch_source_type_memorypressure: Object;
        pub(super) fn dispatch_get_global_queue(priority: isize, flags: usize) -> *mut Object;
        pub(super) fn dispatch_source_create(
            kind: *const Object,
            handle: usize,
            mask: usize,
            queue: *mut Object,
        ) -> *mut Object;
        pub(super) fn dispatch_set_context(object: *mut Object, context: *mut c_void);
        pub(super) fn dispatch_source_set_event_handler_f(source: *mut Object, handler: extern "C" fn(*mut c_void));
        pub(super) fn dispatch_resume(object: *mut Object);
        pub(super) fn dispatch_semaphore_create(value: isize) -> *mut Object;
        pub(super) fn dispatch_semaphore_signal(semaphore: *mut Object) -> isize;
        pub(super) fn dispatch_semaphore_wait(semaphore: *mut Object, until: u64) -> isize;
        pub(super) fn dispatch_time(from: u64, nanos: i64) -> u64;
    }
}
