//! IQ4_XS: 256 values of 4 bits that index IQ4_NL's codebook, in 8 sub-blocks of 32, each with a 6-bit scale.
//! 136 bytes a block, 4.25 bits a value.
//!
//! ```text
//! byte  0..2    d, f16
//!       2..4    bits 2j..2j+2 (little-endian): bits 4..6 of scale j
//!       4..8    nibble j (low nibble first): bits 0..4 of scale j
//!       8..136  eight groups of 16 bytes; in group j, byte i: low nibble = index of value i of sub-block j,
//!               high nibble = of value i + 16
//! w = d * (scale - 32) * CODEBOOK[index]
//! ```

use super::block::{self, F16Bytes, Unpacked, nibbles_of_16, pack_nibbles_of_16};
use super::fit::{Lanes, SignedBlock};
use super::iq4_nl::{CODEBOOK, GRID};

/// A block of 256 values.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale of the scales.
    pub d: F16Bytes,
    /// Upper bits of the scales.
    pub scales_h: [u8; 2],
    /// Lower bits of the scales.
    pub scales_l: [u8; 4],
    /// Codebook indices.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<Block>() == 136 && align_of::<Block>() == 1);

impl Block {
    /// The scales of the sub-blocks, in `[-32, 32)`.
    pub fn sub_scales(&self) -> [i8; 8] {
        let high = u16::from_le_bytes(self.scales_h);
        std::array::from_fn(|j| {
            let low = self.scales_l[j / 2] >> (4 * (j % 2)) & 0xf;
            (low | ((high >> (2 * j) & 3) as u8) << 4) as i8 - 32
        })
    }
}

impl block::Block<256, 8> for Block {
    fn unpack(&self) -> Unpacked<256, 8> {
        let mut q = [0; 256];
        for (q, qs) in q.as_chunks_mut::<32>().0.iter_mut().zip(self.qs.as_chunks().0) {
            *q = nibbles_of_16(qs).map(|index| CODEBOOK[usize::from(index)]);
        }
        Unpacked { d: self.d.to_f32(), dmin: 0.0, scales: self.sub_scales(), mins: [0; 8], q }
    }
}

/// Quantizes a block.
pub(super) fn quantize(values: &[f32], weights: &[f32], blocks: &mut [Block]) {
    let fit = SignedBlock::<32, 8>::fit(&Lanes::new(values, weights), GRID, 32.0);
    let (mut scales_h, mut scales_l) = (0_u16, [0; 4]);
    for (j, scale) in fit.scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        scales_h |= u16::from(scale >> 4) << (2 * j);
        scales_l[j / 2] |= (scale & 0xf) << (4 * (j % 2));
    }
    let qs = fit.q.map(|q| pack_nibbles_of_16(&q.map(|q| GRID.index(f32::from(q)))));
    blocks[0] = Block { d: fit.d, scales_h: scales_h.to_le_bytes(), scales_l, qs: bytemuck::cast(qs) };
}
