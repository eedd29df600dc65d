//! MXFP4: 32 values of 4-bit floating point (E2M1) with one power-of-two scale (E8M0), as the Open Compute Project's
//! microscaling formats define it. 17 bytes a block, 4.25 bits a value.
//!
//! ```text
//! byte  0      e: the scale is 2^(e - 127)
//!       1..17  byte i: low nibble = value i, high nibble = value i + 16; a nibble is sign, 2-bit exponent, mantissa
//! w = 2^(e - 128) * DOUBLED[nibble]
//! ```

use super::block::{self, Unpacked, nibbles_of_16};

/// Twice what a nibble stands for, which makes all of them integers.
pub const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// A block of 32 values.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Block {
    /// Exponent of the scale.
    pub e: u8,
    /// E2M1 values.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Block>() == 17 && align_of::<Block>() == 1);

impl Block {
    /// Half the scale, the factor of [`DOUBLED`]: 2^(e - 128). The standard's NaN (e = 255) is read as a number, 2^127,
    /// as other implementations read it.
    pub fn half_scale(&self) -> f32 {
        match self.e {
            // 2^-128 and 2^-127 are subnormal.
            e @ 0..=1 => f32::from_bits(0x0020_0000 << e),
            e => f32::from_bits((u32::from(e) - 1) << 23),
        }
    }
}

impl block::Block<32, 1> for Block {
    fn unpack(&self) -> Unpacked<32, 1> {
        let q = nibbles_of_16(&self.qs).map(|nibble| DOUBLED[usize::from(nibble)]);
        Unpacked { d: self.half_scale(), dmin: 0.0, scales: [1], mins: [0], q }
    }
}
