//! Q3_K: 1760 bytes a tile of 16 rows by 256 values, 3.4375 bits a weight.
//!
//! ```text
//! d       16 x f16
//! scales  6 times 16 rows x 2 bytes: bits 0..6 of pair j = 32 + scales 2 j and 2 j + 1; bits 6..8 of pairs 0, 1, 2 are
//!         bits 0..2, 2..4, 4..6 of pair 6, those of pairs 3, 4, 5 of pair 7
//! q       for each 32 values 3 vectors of 4 bytes a row that hold eight (v0 to v7, vg = values 4 g..):
//!         bits 0..3 and 4..7 of vector g = v(2 g) and v(2 g + 1)
//!         bits 3 and 7 of vector g = bit g of v6 and of v7
//! ```
//!
//! Values are unsigned here; the offset of 4 goes into where the sums start.

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::q3_k::Block;

#[cfg(target_arch = "x86_64")]
use super::paired;
use super::{Kernel, Tile, block_kernel, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// What is subtracted from the packed values.
const OFFSET: i8 = 4;

/// What is subtracted from the packed scales.
const SCALE_OFFSET: i8 = 32;

/// See the module.
#[derive(Clone, Copy)]
#[repr(C)]
struct Packed<const R: usize> {
    d: [F16Bytes; R],
    scales: [[[u8; 2]; R]; 6],
    q: [[[[u8; 4]; R]; 3]; 8],
}

crate::simd::plain_bytes!(Packed, size_of::<Block>());

impl<const R: usize> Tile<256, 16> for Packed<R> {
    const ROWS: usize = R;

    fn put(&mut self, row: usize, block: &Unpacked<256, 16>) {
        self.d[row] = F16Bytes::from_f32(block.d);
        let scales = block.scales.map(|scale| (scale + SCALE_OFFSET) as u8);
        for (j, to) in self.scales.iter_mut().enumerate() {
            to[row] = std::array::from_fn(|i| {
                let shared = scales[12 + 2 * (j / 3) + i] >> (2 * (j % 3)) & 3;
                scales[2 * j + i] | shared << 6
            });
        }
        for (to, q) in self.q.iter_mut().zip(block.q.as_chunks::<32>().0) {
            for i in 0..4 {
                let v: [u8; 8] = std::array::from_fn(|g| (q[4 * g + i] + OFFSET) as u8);
                for g in 0..3 {
                    to[g][row][i] = v[2 * g] | v[2 * g + 1] << 4 | (v[6] >> g & 1) << 3 | (v[7] >> g & 1) << 7;
                }
            }
        }
    }

    fn get(&self, row: usize) -> Unpacked<256, 16> {
        let mut q = [0; 256];
        for (from, q) in self.q.iter().zip(q.as_chunks_mut::<32>().0) {
            for i in 0..4 {
                let mut v = [0; 8];
                for g in 0..3 {
                    let byte = from[g][row][i];
                    v[2 * g] = byte & 7;
                    v[2 * g + 1] = byte >> 4 & 7;
                    v[6] |= (byte >> 3 & 1) << g;
                    v[7] |= byte >> 7 << g;
                }
                for (g, v) in v.into_iter().enumerate() {
                    q[4 * g + i] = v as i8 - OFFSET;
                }
            }
        }
        let pair = |j: usize, i: usize| self.scales[j][row][i];
        let scales = std::array::from_fn(|j| {
            let (i, first) = (j % 2, j / 2 % 2 * 3);
            let scale = match j {
                0..12 => pair(j / 2, i) & 63,
                _ => pair(first, i) >> 6 | pair(first + 1, i) >> 6 << 2 | pair(first + 2, i) >> 6 << 4,
            };
            scale as i8 - SCALE_OFFSET
        });
        Unpacked { d: self.d[row].to_f32(), dmin: 0.0, scales, mins: [0; 16], q }
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
    use crate::matmul::paired::{Bytes, Spread};
    use crate::simd::avx2::{bits, load_all_u8_pairs, load_f16, loads, or};
    use crate::simd::rolled;

    impl Spread<64> for Packed<8> {
        const CHAIN: usize = 8;
        const OFFSET_BITS: Option<i32> = Some(super::OFFSET.ilog2() as i32);

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn spread(&self, to: &mut Bytes<64>) {
            for c in 0..rolled(8) {
                let b = loads(&self.q[c]);
                let q: &mut [__m256i] = &mut to.q[8 * c..][..8];
                for g in 0..3 {
                    q[2 * g] = bits::<0>(b[g], 7);
                    q[2 * g + 1] = bits::<4>(b[g], 7);
                }
                let both = or(bits::<3>(b[0], 0x11), bits::<2>(b[1], 0x22), bits::<1>(b[2], 0x44));
                q[6] = bits::<0>(both, 7);
                q[7] = bits::<4>(both, 7);
            }
            let z = load_all_u8_pairs(&self.scales);
            let shared =
                |first: usize| or(bits::<6>(z[first], 3), bits::<4>(z[first + 1], 12), bits::<2>(z[first + 2], 48));
            let offset = _mm256_set1_epi16(i16::from(super::SCALE_OFFSET));
            for c in 0..6 {
                to.scales[c] = _mm256_sub_epi16(bits::<0>(z[c], 63), offset);
            }
            to.scales[6] = _mm256_sub_epi16(shared(0), offset);
            to.scales[7] = _mm256_sub_epi16(shared(3), offset);
            to.d = load_f16(&self.d);
        }
    }
}
