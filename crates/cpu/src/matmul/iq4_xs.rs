//! IQ4_XS: 2176 bytes a tile of 16 rows by 256 values, 4.25 bits a weight.
//!
//! ```text
//! d       16 x f16
//! scales  3 times 16 rows x 2 bytes: bits 0..6 of pair j = 32 + scales 2 j and 2 j + 1; bits 6..8 of the three are
//!         bits 0..2, 2..4, 4..6 of pair 3
//! q       indices into IQ4_NL's codebook, as the values of Q4_K
//! ```

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::iq4_nl::CODEBOOK;
use tensor::format::iq4_xs::Block;

use super::iq4_nl::index_of;
use super::q4_k::{Nibbles, get_nibbles, put_nibbles};
use super::{Kernel, Tile, block_kernel, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// What is subtracted from the packed scales.
const SCALE_OFFSET: i8 = 32;

/// See the module.
#[derive(Clone, Copy)]
#[repr(C)]
struct Packed<const R: usize> {
    d: [F16Bytes; R],
    scales: [[[u8; 2]; R]; 3],
    q: Nibbles<R>,
}

crate::simd::plain_bytes!(Packed, size_of::<Block>());

impl<const R: usize> Tile<256, 8> for Packed<R> {
    const ROWS: usize = R;

    fn put(&mut self, row: usize, block: &Unpacked<256, 8>) {
        self.d[row] = F16Bytes::from_f32(block.d);
        let scales = block.scales.map(|scale| (scale + SCALE_OFFSET) as u8);
        for (j, to) in self.scales.iter_mut().enumerate() {
            to[row] = std::array::from_fn(|i| scales[2 * j + i] | (scales[6 + i] >> (2 * j) & 3) << 6);
        }
        put_nibbles(&mut self.q, row, &block.q.map(index_of));
    }

    fn get(&self, row: usize) -> Unpacked<256, 8> {
        let pair = |j: usize, i: usize| self.scales[j][row][i];
        let scales = std::array::from_fn(|j| {
            let scale = match j {
                0..6 => pair(j / 2, j % 2) & 63,
                _ => pair(0, j % 2) >> 6 | pair(1, j % 2) >> 6 << 2 | pair(2, j % 2) >> 6 << 4,
            };
            scale as i8 - SCALE_OFFSET
        });
        let q = get_nibbles(&self.q, row).map(|index| CODEBOOK[usize::from(index)]);
        Unpacked { d: self.d[row].to_f32(), dmin: 0.0, scales, mins: [0; 8], q }
    }
}

pub(super) fn kernel(isa: Isa) -> Kernel {
    match isa {
        Isa::Avx512 | Isa::Avx512Bf16 => scalar::<16>(),
        _ => scalar::<8>(),
    }
}

pub(super) fn scalar<const R: usize>() -> Kernel {
    let one = by_rows!(generic::blocks_of_256::<Packed<R>, 8, NT>; 1 2 3 4);
    block_kernel::<Block, Packed<R>, 256, 8>(Form::Block256, one, &[])
}
