//! Q5_K: 2816 bytes a tile of 16 rows by 256 values, 5.5 bits a weight.
//!
//! ```text
//! d       16 x f16
//! dmin    16 x f16
//! scales  as in Q4_K
//! q       for each sub-block of 32 values 5 vectors of 4 bytes a row that hold eight (v0 to v7, vg = values 4 g.. of the
//!         sub-block): bits 0..5 of vector g = vg
//!         bits 5..8 of vectors 0, 1, 2 = bits 0..3 of v5, v6, v7
//!         bits 5, 6..8 of vector 3 = bit 3 of v7, bits 3..5 of v5
//!         bits 5, 6..8 of vector 4 = bit 4 of v7, bits 3..5 of v6
//! ```

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::q5_k::Block;

#[cfg(target_arch = "x86_64")]
use super::paired;
use super::q4_k::{get_scales, put_scales};
use super::{Kernel, Tile, block_kernel, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// See the module.
#[derive(Clone, Copy)]
#[repr(C)]
struct Packed<const R: usize> {
    d: [F16Bytes; R],
    dmin: [F16Bytes; R],
    scales: [[[u8; 4]; R]; 3],
    q: [[[[u8; 4]; R]; 5]; 8],
}

crate::simd::plain_bytes!(Packed, size_of::<Block>());

impl<const R: usize> Tile<256, 8> for Packed<R> {
    const ROWS: usize = R;

    fn put(&mut self, row: usize, block: &Unpacked<256, 8>) {
        self.d[row] = F16Bytes::from_f32(block.d);
        self.dmin[row] = F16Bytes::from_f32(block.dmin);
        put_scales(&mut self.scales, row, block);
        for (to, q) in self.q.iter_mut().zip(block.q.as_chunks::<32>().0) {
            for i in 0..4 {
                let bytes = eight_in_five(std::array::from_fn(|g| q[4 * g + i] as u8));
                for (to, byte) in to.iter_mut().zip(bytes) {
                    to[row][i] = byte;
                }
            }
        }
    }

    fn get(&self, row: usize) -> Unpacked<256, 8> {
        let mut q = [0; 256];
        for (from, q) in self.q.iter().zip(q.as_chunks_mut::<32>().0) {
            for i in 0..4 {
                let values = eight_of_five(std::array::from_fn(|g| from[g][row][i]));
                for (g, value) in values.into_iter().enumerate() {
                    q[4 * g + i] = value as i8;
                }
            }
        }
        let (scales, mins) = get_scales(&self.scales, row);
        Unpacked { d: self.d[row].to_f32(), dmin: self.dmin[row].to_f32(), scales, mins, q }
    }
}

/// Eight values of 5 bits: see the module.
fn eight_in_five(v: [u8; 8]) -> [u8; 5] {
    [
        v[0] | v[5] << 5,
        v[1] | v[6] << 5,
        v[2] | v[7] << 5,
        v[3] | (v[7] >> 3 & 1) << 5 | v[5] >> 3 << 6,
        v[4] | v[7] >> 4 << 5 | v[6] >> 3 << 6,
    ]
}

/// The values.
fn eight_of_five(b: [u8; 5]) -> [u8; 8] {
    let low = b.map(|byte| byte & 31);
    let v5 = b[0] >> 5 | b[3] >> 6 << 3;
    let v6 = b[1] >> 5 | b[4] >> 6 << 3;
    let v7 = b[2] >> 5 | (b[3] >> 5 & 1) << 3 | (b[4] >> 5 & 1) << 4;
    [low[0], low[1], low[2], low[3], low[4], v5, v6, v7]
}

pub(super) fn kernel(isa: Isa) -> Kernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => paired::kernel::<Block, Packed<8>, 64, 8>(),
        Isa::Avx512 | Isa::Avx512Bf16 => scalar::<16>(),
        _ => scalar::<8>(),
    }
}

pub(super) fn scalar<const R: usize>() -> Kernel {
    let one = by_rows!(generic::blocks_of_256::<Packed<R>, 8, NT>; 1 2 3 4);
    block_kernel::<Block, Packed<R>, 256, 8>(Form::Block256, one, &[])
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::Packed;
    use crate::matmul::paired::{Bytes, Mins, Spread};
    use crate::matmul::q4_k::avx2::{min_pairs_of, scale_pairs_of};
    use crate::simd::avx2::{bits, load_f16, loads, or};
    use crate::simd::rolled;

    impl Spread<64> for Packed<8> {
        const CHAIN: usize = 8;
        const MINS: Mins = Mins::Of32;

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn spread(&self, to: &mut Bytes<64>) {
            for sub in 0..rolled(8) {
                let b = loads(&self.q[sub]);
                let q: &mut [__m256i] = &mut to.q[8 * sub..][..8];
                for g in 0..5 {
                    q[g] = bits::<0>(b[g], 31);
                }
                q[5] = _mm256_or_si256(bits::<5>(b[0], 0x07), bits::<3>(b[3], 0x18));
                q[6] = _mm256_or_si256(bits::<5>(b[1], 0x07), bits::<3>(b[4], 0x18));
                q[7] = or(bits::<5>(b[2], 0x07), bits::<2>(b[3], 0x08), bits::<1>(b[4], 0x10));
            }
            let scales = scale_pairs_of(&self.scales);
            for c in 0..8 {
                to.scales[c] = scales[c / 2];
            }
            to.mins[..4].copy_from_slice(&min_pairs_of(&self.scales));
            to.d = load_f16(&self.d);
            to.dmin = load_f16(&self.dmin);
        }
    }
}
