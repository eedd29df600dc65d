//! What the formats in super-blocks of 256 share. A tile is one super-block of each row of a panel.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx_vnni;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
