//! Q5_1: 32 values of 5 bits with scale and minimum. 24 bytes a block, 6 bits a value.
//!
//! ```text
//! byte  0..2   d, f16
//!       2..4   m, f16
//!       4..8   bit i (little-endian): bit 4 of value i
//!       8..24  byte i: low nibble = bits 0..4 of value i, high nibble = of value i + 16
//! w = d * value + m
//! ```

use super::block::{self, F16Bytes, Unpacked};
use super::fit::{Affine, Lanes, inverse_or_zero};
use super::q5_0::{five_bits, pack_five_bits};

/// A block of 32 values.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale.
    pub d: F16Bytes,
    /// Value of integer 0: added.
    pub m: F16Bytes,
    /// Bit 4 of each value.
    pub qh: [u8; 4],
    /// Bits 0 to 3 of each value.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 24 && align_of::<Block>() == 1);

impl block::Block<32, 1> for Block {
    fn unpack(&self) -> Unpacked<32, 1> {
        let q = five_bits(&self.qs, self.qh).map(|value| value as i8);
        Unpacked { d: self.d.to_f32(), dmin: -self.m.to_f32(), scales: [1], mins: [1], q }
    }
}

/// Quantizes up to eight blocks.
pub(super) fn quantize(values: &[f32], weights: &[f32], blocks: &mut [Block]) {
    let integers = Affine { top: 31.0, any_sign: true };
    let (scales, mins) = integers.fit(&Lanes::<32, 8>::new(values, weights));
    for (l, (block, values)) in blocks.iter_mut().zip(values.as_chunks().0).enumerate() {
        block.d = F16Bytes::from_scale(scales[l]);
        block.m = F16Bytes::from_f32(-mins[l]);
        let (inverse, min) = (inverse_or_zero(block.d.to_f32()), -block.m.to_f32());
        let q = |&x: &f32| integers.nearest(x, inverse, min) as u8;
        (block.qs, block.qh) = pack_five_bits(&values.each_ref().map(q));
    }
}
