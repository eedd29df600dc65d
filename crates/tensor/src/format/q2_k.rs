//! Q2_K: 256 values of 2 bits in 16 sub-blocks of 16, each with a 4-bit scale and a 4-bit minimum. 84 bytes a block,
//! 2.625 bits a value.
//!
//! ```text
//! byte  0..16   byte j: low nibble = scale, high nibble = minimum of sub-block j
//!      16..80   2-bit values: two halves of 32 bytes; in each half of 128 values, bits 2g..2g+2 of byte i
//!               are value 32 g + i
//!      80..82   d, f16
//!      82..84   dmin, f16
//! w = d * scale * value - dmin * minimum
//! ```

use super::block::{self, F16Bytes, Unpacked};
use super::fit::{AffineBlock, Lanes};

/// A block of 256 values.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale and minimum of each sub-block.
    pub scales: [u8; 16],
    /// Values.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: F16Bytes,
    /// Scale of the minima.
    pub dmin: F16Bytes,
}

const _: () = assert!(size_of::<Block>() == 84 && align_of::<Block>() == 1);

impl block::Block<256, 16> for Block {
    fn unpack(&self) -> Unpacked<256, 16> {
        Unpacked {
            d: self.d.to_f32(),
            dmin: self.dmin.to_f32(),
            scales: self.scales.map(|byte| (byte & 0xf) as i8),
            mins: self.scales.map(|byte| byte >> 4),
            q: two_bits(&self.qs).map(|value| value as i8),
        }
    }
}

/// Quantizes a block.
pub(super) fn quantize(values: &[f32], weights: &[f32], blocks: &mut [Block]) {
    let fit = AffineBlock::<16, 16>::fit(&Lanes::new(values, weights), 3.0, 15.0);
    blocks[0] = Block {
        scales: std::array::from_fn(|j| fit.scales[j] | fit.mins[j] << 4),
        qs: pack_two_bits(&bytemuck::cast(fit.q)),
        d: fit.d,
        dmin: fit.dmin,
    };
}

/// 256 two-bit integers in the order of the 2- and 3-bit K formats.
pub(super) fn two_bits(qs: &[u8; 64]) -> [u8; 256] {
    let mut values = [0; 256];
    for (half, bytes) in qs.as_chunks::<32>().0.iter().enumerate() {
        for group in 0..4 {
            for (i, byte) in bytes.iter().enumerate() {
                values[half * 128 + group * 32 + i] = (byte >> (2 * group)) & 3;
            }
        }
    }
    values
}

/// 256 two-bit integers, packed.
pub(super) fn pack_two_bits(values: &[u8; 256]) -> [u8; 64] {
    let mut qs = [0; 64];
    for (values, bytes) in values.as_chunks::<128>().0.iter().zip(qs.as_chunks_mut::<32>().0) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = values[i] | values[i + 32] << 2 | values[i + 64] << 4 | values[i + 96] << 6;
        }
    }
    qs
}
