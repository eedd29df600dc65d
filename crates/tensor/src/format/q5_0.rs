//! Q5_0: 32 values of 5 bits with one scale. 22 bytes a block, 5.5 bits a value.
//!
//! ```text
//! byte  0..2   d, f16
//!       2..6   bit i (little-endian): bit 4 of value i
//!       6..22  byte i: low nibble = bits 0..4 of value i, high nibble = of value i + 16
//! w = d * (value - 16)
//! ```

use super::block::{self, F16Bytes, Unpacked, nibbles_of_16, pack_nibbles_of_16};
use super::fit::{Grid, Lanes, Symmetric, inverse_or_zero};

/// A block of 32 values.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale.
    pub d: F16Bytes,
    /// Bit 4 of each value.
    pub qh: [u8; 4],
    /// Bits 0 to 3 of each value.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 22 && align_of::<Block>() == 1);

impl block::Block<32, 1> for Block {
    fn unpack(&self) -> Unpacked<32, 1> {
        let q = five_bits(&self.qs, self.qh).map(|value| value as i8 - 16);
        Unpacked { d: self.d.to_f32(), dmin: 0.0, scales: [1], mins: [0], q }
    }
}

/// Quantizes up to eight blocks.
pub(super) fn quantize(values: &[f32], weights: &[f32], blocks: &mut [Block]) {
    let grid = Symmetric { half: 16.0 };
    let scales = grid.fit(&Lanes::<32, 8>::new(values, weights));
    for ((block, values), scale) in blocks.iter_mut().zip(values.as_chunks().0).zip(scales) {
        block.d = F16Bytes::from_scale(scale);
        let inverse = inverse_or_zero(block.d.to_f32());
        let q = |x: &f32| (grid.nearest(x * inverse) + 16.0) as u8;
        (block.qs, block.qh) = pack_five_bits(&values.each_ref().map(q));
    }
}

/// 32 five-bit integers from nibbles and a mask of their fifth bits.
pub(super) fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [u8; 32] {
    let low = nibbles_of_16(qs);
    let high = u32::from_le_bytes(qh);
    std::array::from_fn(|i| low[i] | (((high >> i) & 1) as u8) << 4)
}

/// Nibbles and mask of 32 five-bit integers.
pub(super) fn pack_five_bits(values: &[u8; 32]) -> ([u8; 16], [u8; 4]) {
    let high = values.iter().rev().fold(0_u32, |mask, value| mask << 1 | u32::from(value >> 4));
    (pack_nibbles_of_16(&values.map(|value| value & 0xf)), high.to_le_bytes())
}
