//! Q5_0: 352 bytes a tile of 16 rows by 32 values, 5.5 bits a weight.
//!
//! ```text
//! d     16 x f16
//! q     4 vectors of nibbles: see blocks32::Nibbles
//! high  1 vector of fifth bits: see blocks32::Bits
//! ```

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::q5_0::Block;

use super::blocks32::{self, Bits, Nibbles, get_bits, get_nibbles, put_bits, put_nibbles};
use super::{Kernel, Tile, block_kernel, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// What is subtracted from the packed values.
const OFFSET: i8 = 16;

/// See the module.
#[derive(Clone, Copy)]
#[repr(C)]
struct Packed<const R: usize> {
    d: [F16Bytes; R],
    q: Nibbles<R>,
    high: Bits<R>,
}

crate::simd::plain_bytes!(Packed, size_of::<Block>());

impl<const R: usize> Tile<32, 1> for Packed<R> {
    const ROWS: usize = R;

    fn put(&mut self, row: usize, block: &Unpacked<32, 1>) {
        self.d[row] = F16Bytes::from_f32(block.d);
        let q = block.q.map(|q| (q + OFFSET) as u8);
        put_nibbles(&mut self.q, row, &q);
        put_bits(&mut self.high, row, &q);
    }

    fn get(&self, row: usize) -> Unpacked<32, 1> {
        let (low, high) = (get_nibbles(&self.q, row), get_bits(&self.high, row));
        let q = std::array::from_fn(|k| (low[k] | high[k]) as i8 - OFFSET);
        Unpacked { d: self.d[row].to_f32(), dmin: 0.0, scales: [1], mins: [0], q }
    }
}

pub(super) fn kernel(isa: Isa) -> Kernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => blocks32::avx512::kernel::<Block, Packed<16>>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => blocks32::avx2::kernel::<Block, Packed<8>>(isa),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod | Isa::NeonI8mm => blocks32::neon::kernel::<Block, Packed<8>>(isa),
        _ => scalar::<8>(),
    }
}

pub(super) fn scalar<const R: usize>() -> Kernel {
    let one = by_rows!(generic::blocks_of_32::<Packed<R>, NT>; 1);
    block_kernel::<Block, Packed<R>, 32, 1>(Form::Block32, one, &[])
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::Packed;
    use crate::matmul::blocks32::avx512::{Avx512Tile, nibbles_and_bits};
    use crate::simd::avx512::load_f16;

    impl Avx512Tile for Packed<16> {
        const OFFSET: u32 = super::OFFSET as u32;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn quad(&self, g: usize) -> __m512i {
            nibbles_and_bits(&self.q, &self.high, g)
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn scale(&self) -> __m512 {
            load_f16(&self.d)
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::Packed;
    use crate::matmul::blocks32::avx2::{Avx2Tile, nibbles_and_bits};
    use crate::simd::avx2::load_f16;

    impl Avx2Tile for Packed<8> {
        const OFFSET: u32 = super::OFFSET as u32;
        const RUN: Option<usize> = Some(4);

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn quad(&self, half: usize, g: usize) -> __m256i {
            nibbles_and_bits(&self.q, &self.high, half, g)
        }

        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn scale(&self) -> __m256 {
            load_f16(&self.d)
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::Packed;
    use crate::matmul::blocks32::neon::{NeonTile, nibbles_and_bits};
    use crate::simd::neon::registers::*;
    use crate::simd::neon::{Dot, Octet, Rows, load_f16};

    impl NeonTile for Packed<8> {
        const OFFSET: u32 = super::OFFSET as u32;

        #[inline(always)]
        fn octet<D: Dot>(&self, h: usize) -> Octet {
            nibbles_and_bits::<D>(&self.q, &self.high, h)
        }

        #[inline(always)]
        fn scale(&self) -> Rows<float32x4_t> {
            load_f16(&self.d)
        }
    }
}
