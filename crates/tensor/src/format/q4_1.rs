//! Q4_1: 32 values of 4 bits with scale and minimum. 20 bytes a block, 5 bits a value.
//!
//! ```text
//! byte  0..2   d, f16
//!       2..4   m, f16
//!       4..20  byte i: low nibble = value i, high nibble = value i + 16
//! w = d * nibble + m
//! ```

use super::block::{self, F16Bytes, Unpacked, nibbles_of_16, pack_nibbles_of_16};
use super::fit::{Affine, Lanes, inverse_or_zero};

/// A block of 32 values.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale.
    pub d: F16Bytes,
    /// Value of nibble 0: added, unlike the minima of the K formats.
    pub m: F16Bytes,
    /// Nibbles.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 20 && align_of::<Block>() == 1);

impl block::Block<32, 1> for Block {
    fn unpack(&self) -> Unpacked<32, 1> {
        let q = nibbles_of_16(&self.qs).map(|nibble| nibble as i8);
        Unpacked { d: self.d.to_f32(), dmin: -self.m.to_f32(), scales: [1], mins: [1], q }
    }
}

/// Quantizes up to eight blocks.
pub(super) fn quantize(values: &[f32], weights: &[f32], blocks: &mut [Block]) {
    let integers = Affine { top: 15.0, any_sign: true };
    let (scales, mins) = integers.fit(&Lanes::<32, 8>::new(values, weights));
    for (l, (block, values)) in blocks.iter_mut().zip(values.as_chunks().0).enumerate() {
        block.d = F16Bytes::from_scale(scales[l]);
        block.m = F16Bytes::from_f32(-mins[l]);
        let (inverse, min) = (inverse_or_zero(block.d.to_f32()), -block.m.to_f32());
        let q = |&x: &f32| integers.nearest(x, inverse, min) as u8;
        block.qs = pack_nibbles_of_16(&values.each_ref().map(q));
    }
}
