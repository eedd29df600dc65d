//! IQ4_NL: 32 values of 4 bits that index a codebook, with one scale. 18 bytes a block, 4.5 bits a value.
//!
//! ```text
//! byte  0..2   d, f16
//!       2..18  byte i: low nibble = index of value i, high nibble = of value i + 16
//! w = d * CODEBOOK[index]
//! ```

use super::block::{self, F16Bytes, Unpacked, nibbles_of_16, pack_nibbles_of_16};
use super::fit::{Codebook, Grid, Lanes, inverse_or_zero};

/// What an index stands for: finer near zero, where most weights are.
pub const CODEBOOK: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// A block of 32 values.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale.
    pub d: F16Bytes,
    /// Codebook indices.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 18 && align_of::<Block>() == 1);

impl block::Block<32, 1> for Block {
    fn unpack(&self) -> Unpacked<32, 1> {
        let q = nibbles_of_16(&self.qs).map(|index| CODEBOOK[usize::from(index)]);
        Unpacked { d: self.d.to_f32(), dmin: 0.0, scales: [1], mins: [0], q }
    }
}

/// [`CODEBOOK`] as the quantizers want it.
pub(super) const GRID: Codebook = Codebook::new(CODEBOOK);

/// Quantizes up to eight blocks.
pub(super) fn quantize(values: &[f32], weights: &[f32], blocks: &mut [Block]) {
    let scales = GRID.fit(&Lanes::<32, 8>::new(values, weights));
    for ((block, values), scale) in blocks.iter_mut().zip(values.as_chunks().0).zip(scales) {
        block.d = F16Bytes::from_scale(scale);
        let inverse = inverse_or_zero(block.d.to_f32());
        block.qs = pack_nibbles_of_16(&values.each_ref().map(|x| GRID.index(x * inverse)));
    }
}
