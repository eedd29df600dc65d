//! Q4_K: 256 values of 4 bits in 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum. 144 bytes a block,
//! 4.5 bits a value.
//!
//! ```text
//! byte  0..2    d, f16
//!       2..4    dmin, f16
//!       4..16   scales and minima: see below
//!      16..144  four groups of 32 bytes; in group g, byte i: low nibble = value i of sub-block 2g,
//!               high nibble = value i of sub-block 2g + 1
//! w = d * scale * nibble - dmin * minimum
//!
//! scales and minima (k = 0..4)      bits 7 6         5 4 3 2 1 0
//!   byte k                          scale[k+4] 5..4  scale[k]
//!   byte k + 4                      min[k+4] 5..4    min[k]
//!                                   bits 7 6 5 4     3 2 1 0
//!   byte k + 8                      min[k+4] 3..0    scale[k+4] 3..0
//! ```

use super::block::{self, F16Bytes, Unpacked};
use super::fit::{AffineBlock, Lanes};

/// A block of 256 values.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale of the scales.
    pub d: F16Bytes,
    /// Scale of the minima.
    pub dmin: F16Bytes,
    /// Packed scales and minima of the sub-blocks: see [`unpack_scales`].
    pub scales: [u8; 12],
    /// Values.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<Block>() == 144 && align_of::<Block>() == 1);

impl block::Block<256, 8> for Block {
    fn unpack(&self) -> Unpacked<256, 8> {
        let (scales, mins) = unpack_scales(&self.scales);
        Unpacked {
            d: self.d.to_f32(),
            dmin: self.dmin.to_f32(),
            scales: scales.map(|scale| scale as i8),
            mins,
            q: nibbles_by_32(&self.qs).map(|value| value as i8),
        }
    }
}

/// Quantizes a block.
pub(super) fn quantize(values: &[f32], weights: &[f32], blocks: &mut [Block]) {
    let fit = AffineBlock::<32, 8>::fit(&Lanes::new(values, weights), 15.0, 63.0);
    blocks[0] = Block {
        d: fit.d,
        dmin: fit.dmin,
        scales: pack_scales(fit.scales, fit.mins),
        qs: pack_nibbles_by_32(&bytemuck::cast(fit.q)),
    };
}

/// The six-bit scales and minima of the eight sub-blocks of a Q4_K or Q5_K block.
pub fn unpack_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for k in 0..4 {
        scales[k] = packed[k] & 63;
        mins[k] = packed[k + 4] & 63;
        scales[k + 4] = packed[k + 8] & 0xf | packed[k] >> 6 << 4;
        mins[k + 4] = packed[k + 8] >> 4 | packed[k + 4] >> 6 << 4;
    }
    (scales, mins)
}

/// The inverse of [`unpack_scales`].
pub(super) fn pack_scales(scales: [u8; 8], mins: [u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for k in 0..4 {
        packed[k] = scales[k] | scales[k + 4] >> 4 << 6;
        packed[k + 4] = mins[k] | mins[k + 4] >> 4 << 6;
        packed[k + 8] = scales[k + 4] & 0xf | mins[k + 4] << 4;
    }
    packed
}

/// 256 four-bit integers: of each 32 bytes the low nibbles, then the high ones.
pub(super) fn nibbles_by_32(qs: &[u8; 128]) -> [u8; 256] {
    let mut values = [0; 256];
    for (bytes, values) in qs.as_chunks::<32>().0.iter().zip(values.as_chunks_mut::<64>().0) {
        for (i, byte) in bytes.iter().enumerate() {
            values[i] = byte & 0xf;
            values[i + 32] = byte >> 4;
        }
    }
    values
}

/// 256 four-bit integers, packed.
pub(super) fn pack_nibbles_by_32(values: &[u8; 256]) -> [u8; 128] {
    let mut qs = [0; 128];
    for (values, bytes) in values.as_chunks::<64>().0.iter().zip(qs.as_chunks_mut::<32>().0) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = values[i] | values[i + 32] << 4;
        }
    }
    qs
}
