//! What macOS tells about the machine.

use std::ffi::CStr;

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
