//! MXFP4: 32 values of 4-bit floating point (E2M1) with one power-of-two scale (E8M0), as the Open Compute Project's
//! microscaling formats define it. 17 bytes a block, 4.25 bits a value.
//!
//! ```text
//! byte  0      e: the scale is 2^(e - 127)
//!       1..17  byte i: low nibble = value i, high nibble = value i + 16; a nibble is sign, 2-bit exponent, mantissa
//! w = 2^(e - 128) * DOUBLED[nibble]
//! ```

use super::block::{self, Unpacked, nibbles_of_16, pack_nibbles_of_16};
use super::fit::{Codebook, Grid};

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

/// [`DOUBLED`] in ascending order, and the nibble of each.
const SORTED: [i8; 16] = [-12, -8, -6, -4, -3, -2, -1, 0, 0, 1, 2, 3, 4, 6, 8, 12];
const NIBBLES: [u8; 16] = [15, 14, 13, 12, 11, 10, 9, 0, 0, 1, 2, 3, 4, 5, 6, 7];

/// Quantizes blocks: of the powers of two that leave the greatest value about in range, the one with the least error.
pub(super) fn quantize(values: &[f32], weights: &[f32], blocks: &mut [Block]) {
    let grid = Codebook::new(SORTED);
    let blocks_of_values = values.as_chunks::<32>().0.iter().zip(weights.as_chunks::<32>().0);
    for (block, (values, weights)) in blocks.iter_mut().zip(blocks_of_values) {
        let greatest = values.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        // With this exponent the greatest value lies in [4, 8), of which the format ends at 6.
        let spanning = i32::from((greatest.to_bits() >> 23) as u8) - 2;
        let error = |e: u8| -> f32 {
            let scale = Block { e, qs: [0; 16] }.half_scale();
            let square = |(x, w): (&f32, &f32)| w * (x - scale * grid.nearest(x / scale)).powi(2);
            values.iter().zip(weights).map(square).sum()
        };
        let candidates = [spanning, spanning + 1, spanning - 1].map(|e| e.clamp(0, 254) as u8);
        block.e = candidates.into_iter().min_by(|&a, &b| error(a).total_cmp(&error(b))).expect("three candidates");
        let scale = block.half_scale();
        block.qs = pack_nibbles_of_16(&values.each_ref().map(|x| NIBBLES[usize::from(grid.index(x / scale))]));
    }
}
