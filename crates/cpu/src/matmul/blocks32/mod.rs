//! What the formats in blocks of 32 share. A tile is one block of each row of a panel, so that any whole number of blocks
//! makes a row.
//!
//! Values are unsigned in a tile; an offset goes into where the sums start.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;

/// Nibbles of 32 values: in vector `g`, 4 bytes a row, low nibbles = values 4 g.., high nibbles = values 16 + 4 g..
pub(super) type Nibbles<const R: usize> = [[[u8; 4]; R]; 4];

/// One bit of 32 values, 4 bytes a row: bit `g` of byte `i` belongs to value 4 g + i.
pub(super) type Bits<const R: usize> = [[u8; 4]; R];

pub(super) fn put_nibbles<const R: usize>(to: &mut Nibbles<R>, row: usize, values: &[u8; 32]) {
    for (g, to) in to.iter_mut().enumerate() {
        to[row] = std::array::from_fn(|i| values[4 * g + i] & 0xf | values[16 + 4 * g + i] << 4);
    }
}

pub(super) fn get_nibbles<const R: usize>(from: &Nibbles<R>, row: usize) -> [u8; 32] {
    std::array::from_fn(|k| from[k % 16 / 4][row][k % 4] >> (k / 16 * 4) & 0xf)
}

/// Bit 4 of each value.
pub(super) fn put_bits<const R: usize>(to: &mut Bits<R>, row: usize, values: &[u8; 32]) {
    to[row] = std::array::from_fn(|i| (0..8).map(|g| (values[4 * g + i] >> 4 & 1) << g).sum());
}

/// The bits, as bit 4.
pub(super) fn get_bits<const R: usize>(from: &Bits<R>, row: usize) -> [u8; 32] {
    std::array::from_fn(|k| (from[row][k % 4] >> (k / 4) & 1) << 4)
}
