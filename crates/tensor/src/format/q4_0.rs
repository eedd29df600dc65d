//! Q4_0: 32 values of 4 bits with one scale. 18 bytes a block, 4.5 bits a value.
//!
//! ```text
//! byte  0..2   d, f16
//!       2..18  byte i: low nibble = value i, high nibble = value i + 16
//! w = d * (nibble - 8)
//! ```

use super::block::{self, F16Bytes, Unpacked, nibbles_of_16, pack_nibbles_of_16};
use super::fit::{Grid, Lanes, Symmetric, inverse_or_zero};

/// A block of 32 values.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale.
    pub d: F16Bytes,
    /// Nibbles, offset by 8.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 18 && align_of::<Block>() == 1);

impl block::Block<32, 1> for Block {
    fn unpack(&self) -> Unpacked<32, 1> {
        let q = nibbles_of_16(&self.qs).map(|nibble| nibble as i8 - 8);
        Unpacked { d: self.d.to_f32(), dmin: 0.0, scales: [1], mins: [0], q }
    }
}

/// Quantizes up to eight blocks.
pub(super) fn quantize(values: &[f32], weights: &[f32], blocks: &mut [Block]) {
    let grid = Symmetric { half: 8.0 };
    let scales = grid.fit(&Lanes::<32, 8>::new(values, weights));
    for ((block, values), scale) in blocks.iter_mut().zip(values.as_chunks().0).zip(scales) {
        block.d = F16Bytes::from_scale(scale);
        let inverse = inverse_or_zero(block.d.to_f32());
        let q = |x: &f32| (grid.nearest(x * inverse) + 8.0) as u8;
        block.qs = pack_nibbles_of_16(&values.each_ref().map(q));
    }
}
