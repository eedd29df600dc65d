//! Intrinsics, for everything but the inner loops of [`crate::matmul`].
//!
//! - [`lanes`]: sixteen f32 at a time, the same operations with the same results on every instruction set. Everything
//!   but the matrix products is written with it.
//! - [`math`]: exp and tanh on such lanes.
//! - `avx512`, `avx2` and their kin: what the matrix kernels need.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub mod lanes;
pub mod math;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

pub use lanes::{Kernel, Simd};

/// Hides a loop's bound from the compiler, so that it keeps the loop rolled: unrolled fully, it reorders the loads of
/// weights, and the machine reads memory at half the speed or less when the addresses do not ascend.
#[inline(always)]
pub(crate) fn rolled(bound: usize) -> usize {
    let mut hidden = bound;
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) hidden, options(pure, nomem, nostack, preserves_flags)) };
    hidden
}

/// The same for a loop over a slice: hides its length.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn rolled_over<T>(slice: &[T]) -> &[T] {
    // SAFETY: it is the length.
    unsafe { std::slice::from_raw_parts(slice.as_ptr(), rolled(slice.len())) }
}

/// Asks for the line of memory at an address, to be read soon, into the second-level cache. Any number will do: nothing is
/// read through it.
#[inline(always)]
pub(crate) fn prefetch(address: usize) {
    // SAFETY: a prefetch has no effect but on the cache. Not the intrinsic: LLVM would order loads around it.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("prefetcht1 [{0}]", in(reg) address, options(nomem, nostack, preserves_flags));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) address, options(nomem, nostack, preserves_flags));
    }
    let _ = address;
}

/// Declares that a `repr(C)` struct of arrays of bytes, generic over the rows of a panel, is plain data.
macro_rules! plain_bytes {
    ($name:ident, $bytes_per_row:expr) => {
        const _: () = assert!(size_of::<$name<1>>() == $bytes_per_row && align_of::<$name<1>>() == 1);
        // SAFETY: arrays of bytes only: no padding, and any bytes are a value.
        unsafe impl<const R: usize> bytemuck::Zeroable for $name<R> {}
        // SAFETY: as above.
        unsafe impl<const R: usize> bytemuck::Pod for $name<R> {}
    };
}

/// Declares that a `repr(C)` struct of arrays of 32-bit numbers, generic over the rows of a tile, is plain data.
macro_rules! plain_words {
    ($name:ident, $words_per_row:expr) => {
        const _: () = assert!(size_of::<$name<1>>() == 4 * $words_per_row && align_of::<$name<1>>() == 4);
        // SAFETY: arrays of 32-bit numbers only: no padding, and any bits are a value.
        unsafe impl<const NT: usize> bytemuck::Zeroable for $name<NT> {}
        // SAFETY: as above.
        unsafe impl<const NT: usize> bytemuck::Pod for $name<NT> {}
    };
}

pub(crate) use {plain_bytes, plain_words};
