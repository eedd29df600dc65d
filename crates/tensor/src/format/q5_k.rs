//! Q5_K: 256 values of 5 bits in 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum. 176 bytes a block,
//! 5.5 bits a value.
//!
//! ```text
//! byte  0..2    d, f16
//!       2..4    dmin, f16
//!       4..16   scales and minima, packed as in Q4_K
//!      16..48   bit j of byte i: bit 4 of value i of sub-block j
//!      48..176  bits 0..4: four groups of 32 bytes; in group g, byte i: low nibble = value i of sub-block 2g,
//!               high nibble = value i of sub-block 2g + 1
//! w = d * scale * value - dmin * minimum
//! ```

use super::block::{self, F16Bytes, Unpacked};
use super::fit::{AffineBlock, Lanes};
use super::q4_k::{nibbles_by_32, pack_nibbles_by_32, pack_scales, unpack_scales};

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
    /// Bit 4 of each value.
    pub qh: [u8; 32],
    /// Bits 0 to 3 of each value.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<Block>() == 176 && align_of::<Block>() == 1);

impl block::Block<256, 8> for Block {
    fn unpack(&self) -> Unpacked<256, 8> {
        let (scales, mins) = unpack_scales(&self.scales);
        let mut q = nibbles_by_32(&self.qs).map(|value| value as i8);
        for (j, values) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (value, high) in values.iter_mut().zip(&self.qh) {
                *value |= (((high >> j) & 1) << 4) as i8;
            }
        }
        Unpacked { d: self.d.to_f32(), dmin: self.dmin.to_f32(), scales: scales.map(|scale| scale as i8), mins, q }
    }
}

/// Quantizes a block.
pub(super) fn quantize(values: &[f32], weights: &[f32], blocks: &mut [Block]) {
    let fit = AffineBlock::<32, 8>::fit(&Lanes::new(values, weights), 31.0, 63.0);
    let q: [u8; 256] = bytemuck::cast(fit.q);
    let mut qh = [0; 32];
    for (j, values) in q.as_chunks::<32>().0.iter().enumerate() {
        for (high, value) in qh.iter_mut().zip(values) {
            *high |= (value >> 4) << j;
        }
    }
    blocks[0] = Block {
        d: fit.d,
        dmin: fit.dmin,
        scales: pack_scales(fit.scales, fit.mins),
        qh,
        qs: pack_nibbles_by_32(&q.map(|q| q & 0xf)),
    };
}
