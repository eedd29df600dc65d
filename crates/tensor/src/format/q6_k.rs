//! Q6_K: 256 values of 6 bits in 16 sub-blocks of 16, each with an 8-bit scale. 210 bytes a block, 6.5625 bits a value.
//!
//! ```text
//! byte  0..128  bits 0..4: two halves of 64 bytes; in each half of 128 values, the low nibble of byte i belongs to
//!               value i, the high one to value i + 64
//!     128..192  bits 4..6: two halves of 32 bytes; in each half of 128 values, bits 2g..2g+2 of byte i belong to
//!               value 32 g + i
//!     192..208  scales of the sub-blocks, i8
//!     208..210  d, f16
//! w = d * scale * (value - 32)
//! ```

use super::block::{self, F16Bytes, Unpacked};
use super::fit::{Lanes, SignedBlock, Symmetric};

/// A block of 256 values.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Block {
    /// Bits 0 to 3 of each value.
    pub ql: [u8; 128],
    /// Bits 4 and 5 of each value.
    pub qh: [u8; 64],
    /// Scales of the sub-blocks.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub d: F16Bytes,
}

const _: () = assert!(size_of::<Block>() == 210 && align_of::<Block>() == 1);

impl block::Block<256, 16> for Block {
    fn unpack(&self) -> Unpacked<256, 16> {
        let mut q = [0; 256];
        let halves = self.ql.as_chunks::<64>().0.iter().zip(self.qh.as_chunks::<32>().0);
        for ((ql, qh), q) in halves.zip(q.as_chunks_mut::<128>().0) {
            // By 32 values whose bits lie at the same places of their bytes, which makes vector code of it.
            for (group, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let (low_shift, high_shift) = (4 * (group / 2), 2 * group);
                let ql = &ql.as_chunks::<32>().0[group % 2];
                for i in 0..32 {
                    q[i] = (ql[i] >> low_shift & 0xf | (qh[i] >> high_shift & 3) << 4) as i8 - 32;
                }
            }
        }
        Unpacked { d: self.d.to_f32(), dmin: 0.0, scales: self.scales, mins: [0; 16], q }
    }
}

/// Quantizes a block.
pub(super) fn quantize(values: &[f32], weights: &[f32], blocks: &mut [Block]) {
    let fit = SignedBlock::<16, 16>::fit(&Lanes::new(values, weights), Symmetric { half: 32.0 }, 128.0);
    let q = bytemuck::cast::<_, [i8; 256]>(fit.q).map(|q| (q + 32) as u8);
    let (mut ql, mut qh) = ([0; 128], [0; 64]);
    let halves = ql.as_chunks_mut::<64>().0.iter_mut().zip(qh.as_chunks_mut::<32>().0);
    for ((ql, qh), q) in halves.zip(q.as_chunks::<128>().0) {
        for i in 0..64 {
            ql[i] = q[i] & 0xf | q[i + 64] << 4;
            qh[i % 32] |= (q[i] >> 4 | q[i + 64] >> 4 << 4) << (2 * (i / 32));
        }
    }
    blocks[0] = Block { ql, qh, scales: fit.scales, d: fit.d };
}
