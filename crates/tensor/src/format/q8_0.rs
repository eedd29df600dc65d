//! Q8_0: 32 values of 8 bits with one scale. 34 bytes a block, 8.5 bits a value.
//!
//! ```text
//! byte  0..2   d, f16
//!       2..34  the values, i8
//! w = d * value
//! ```

use super::block::{self, F16Bytes, Unpacked};
use super::fit::{clamp, inverse_or_zero, round};

/// A block of 32 values.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale.
    pub d: F16Bytes,
    /// Values.
    pub qs: [i8; 32],
}

const _: () = assert!(size_of::<Block>() == 34 && align_of::<Block>() == 1);

impl block::Block<32, 1> for Block {
    fn unpack(&self) -> Unpacked<32, 1> {
        Unpacked { d: self.d.to_f32(), dmin: 0.0, scales: [1], mins: [0], q: self.qs }
    }
}

/// Quantizes blocks: the greatest magnitude becomes 127. With eight bits a search gains too little to be worth it.
pub(super) fn quantize(values: &[f32], _weights: &[f32], blocks: &mut [Block]) {
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<32>().0) {
        let greatest = values.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        block.d = F16Bytes::from_scale(greatest / 127.0);
        let inverse = inverse_or_zero(block.d.to_f32());
        block.qs = values.map(|x| clamp(round(x * inverse), -127.0, 127.0) as i8);
    }
}
