//! Q2_K: 1344 bytes a tile of 16 rows by 256 values, 2.625 bits a weight.
//!
//! ```text
//! d       16 x f16
//! dmin    16 x f16
//! scales  8 times 16 rows x 2 bytes, of sub-blocks 2 j and 2 j + 1: low nibble = scale, high nibble = minimum
//! q       for each sub-block of 16 values a vector of 4 bytes a row: bits 2 g..2 g + 2 = values 4 g..
//! ```

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::q2_k::Block;

#[cfg(target_arch = "x86_64")]
use super::paired;
use super::{Kernel, Tile, block_kernel, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// See the module.
#[derive(Clone, Copy)]
#[repr(C)]
struct Packed<const R: usize> {
    d: [F16Bytes; R],
    dmin: [F16Bytes; R],
    scales: [[[u8; 2]; R]; 8],
    q: [[[u8; 4]; R]; 16],
}

crate::simd::plain_bytes!(Packed, size_of::<Block>());

impl<const R: usize> Tile<256, 16> for Packed<R> {
    const ROWS: usize = R;

    fn put(&mut self, row: usize, block: &Unpacked<256, 16>) {
        self.d[row] = F16Bytes::from_f32(block.d);
        self.dmin[row] = F16Bytes::from_f32(block.dmin);
        for (j, to) in self.scales.iter_mut().enumerate() {
            to[row] = std::array::from_fn(|i| block.scales[2 * j + i] as u8 | block.mins[2 * j + i] << 4);
        }
        for (to, q) in self.q.iter_mut().zip(block.q.as_chunks::<16>().0) {
            to[row] = std::array::from_fn(|i| (0..4).map(|g| (q[4 * g + i] as u8) << (2 * g)).sum());
        }
    }

    fn get(&self, row: usize) -> Unpacked<256, 16> {
        let mut q = [0; 256];
        for (from, q) in self.q.iter().zip(q.as_chunks_mut::<16>().0) {
            *q = std::array::from_fn(|k| (from[row][k % 4] >> (k / 4 * 2) & 3) as i8);
        }
        let scale = |j: usize| self.scales[j / 2][row][j % 2];
        let (scales, mins) = (std::array::from_fn(|j| (scale(j) & 0xf) as i8), std::array::from_fn(|j| scale(j) >> 4));
        Unpacked { d: self.d[row].to_f32(), dmin: self.dmin[row].to_f32(), scales, mins, q }
    }
}

pub(super) fn kernel(isa: Isa) -> Kernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => paired::kernel::<Block, Packed<8>, 64, 16>(),
        Isa::Avx512 | Isa::Avx512Bf16 => scalar::<16>(),
        _ => scalar::<8>(),
    }
}

pub(super) fn scalar<const R: usize>() -> Kernel {
    let one = by_rows!(generic::blocks_of_256::<Packed<R>, 16, NT>; 1 2 3 4);
    block_kernel::<Block, Packed<R>, 256, 16>(Form::Block256, one, &[])
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::Packed;
    use crate::matmul::paired::{Bytes, Mins, Spread};
    use crate::simd::avx2::{bits, load, load_f16, load_u8_pairs};
    use crate::simd::rolled;

    impl Spread<64> for Packed<8> {
        const CHAIN: usize = 8;
        const MINS: Mins = Mins::Of16;

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn spread(&self, to: &mut Bytes<64>) {
            for sub in 0..rolled(16) {
                let bytes = load(&self.q[sub]);
                let q: &mut [__m256i] = &mut to.q[4 * sub..][..4];
                q[0] = bits::<0>(bytes, 3);
                q[1] = bits::<2>(bytes, 3);
                q[2] = bits::<4>(bytes, 3);
                q[3] = bits::<6>(bytes, 3);
            }
            for c in 0..8 {
                let both = load_u8_pairs(&self.scales[c]);
                to.scales[c] = bits::<0>(both, 15);
                to.mins[c] = bits::<4>(both, 15);
            }
            to.d = load_f16(&self.d);
            to.dmin = load_f16(&self.dmin);
        }
    }
}
