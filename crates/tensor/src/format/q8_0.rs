//! Q8_0: 32 values of 8 bits with one scale. 34 bytes a block, 8.5 bits a value.
//!
//! ```text
//! byte  0..2   d, f16
//!       2..34  the values, i8
//! w = d * value
//! ```

use super::block::{self, F16Bytes, Unpacked};

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
