//! Q3_K: 256 values of 3 bits in 16 sub-blocks of 16, each with a 6-bit scale. 110 bytes a block, 3.4375 bits a value.
//!
//! ```text
//! byte  0..32   bit g of byte i: bit 2 of value 32 g + i
//!      32..96   bits 0..2: two halves of 32 bytes; in each half of 128 values, bits 2g..2g+2 of byte i
//!               belong to value 32 g + i
//!      96..108  scales: sub-block j has its low nibble in byte j % 8 (low nibble for j < 8, else high), and its
//!               top two bits in byte 8 + j % 4, bits 2 (j / 4) and up
//!     108..110  d, f16
//! w = d * (scale - 32) * (value - 4)
//! ```

use super::block::{self, F16Bytes, Unpacked};
use super::fit::{Lanes, SignedBlock, Symmetric};
use super::q2_k::{pack_two_bits, two_bits};

/// A block of 256 values.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Block {
    /// Bit 2 of each value.
    pub hmask: [u8; 32],
    /// Bits 0 and 1 of each value.
    pub qs: [u8; 64],
    /// Packed scales of the sub-blocks: see [`Block::sub_scales`].
    pub scales: [u8; 12],
    /// Scale of the scales.
    pub d: F16Bytes,
}

const _: () = assert!(size_of::<Block>() == 110 && align_of::<Block>() == 1);

impl Block {
    /// The scales of the sub-blocks, in `[-32, 32)`.
    pub fn sub_scales(&self) -> [i8; 16] {
        std::array::from_fn(|j| {
            let low = (self.scales[j % 8] >> (4 * (j / 8))) & 0xf;
            let high = (self.scales[8 + j % 4] >> (2 * (j / 4))) & 3;
            (low | high << 4) as i8 - 32
        })
    }
}

impl block::Block<256, 16> for Block {
    fn unpack(&self) -> Unpacked<256, 16> {
        let mut q = two_bits(&self.qs).map(|value| value as i8 - 4);
        for (group, values) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (value, mask) in values.iter_mut().zip(&self.hmask) {
                *value += (((mask >> group) & 1) << 2) as i8;
            }
        }
        Unpacked { d: self.d.to_f32(), dmin: 0.0, scales: self.sub_scales(), mins: [0; 16], q }
    }
}

/// Quantizes a block.
pub(super) fn quantize(values: &[f32], weights: &[f32], blocks: &mut [Block]) {
    let fit = SignedBlock::<16, 16>::fit(&Lanes::new(values, weights), Symmetric { half: 4.0 }, 32.0);
    let q = bytemuck::cast::<_, [i8; 256]>(fit.q).map(|q| (q + 4) as u8);
    let mut hmask = [0; 32];
    for (group, values) in q.as_chunks::<32>().0.iter().enumerate() {
        for (mask, value) in hmask.iter_mut().zip(values) {
            *mask |= (value >> 2) << group;
        }
    }
    blocks[0] = Block { hmask, qs: pack_two_bits(&q.map(|q| q & 3)), scales: pack_scales(fit.scales), d: fit.d };
}

/// The inverse of [`Block::sub_scales`].
fn pack_scales(scales: [i8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    for (j, scale) in scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        packed[j % 8] |= (scale & 0xf) << (4 * (j / 8));
        packed[8 + j % 4] |= (scale >> 4) << (2 * (j / 4));
    }
    packed
}
