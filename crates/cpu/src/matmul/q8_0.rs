//! Q8_0: 544 bytes a tile of 16 rows by 32 values, 8.5 bits a weight.
//!
//! ```text
//! d     16 x f16
//! q     8 vectors of 4 bytes a row: values 4 g.., too great by 128
//! ```

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::q8_0::Block;

use super::{Kernel, Tile, block_kernel, blocks32, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// Adds 128 to an i8, as a u8.
const SIGN: u8 = 0x80;

/// See the module.
#[derive(Clone, Copy)]
#[repr(C)]
struct Packed<const R: usize> {
    d: [F16Bytes; R],
    q: [[[u8; 4]; R]; 8],
}

crate::simd::plain_bytes!(Packed, size_of::<Block>());

impl<const R: usize> Tile<32, 1> for Packed<R> {
    const ROWS: usize = R;

    fn put(&mut self, row: usize, block: &Unpacked<32, 1>) {
        self.d[row] = F16Bytes::from_f32(block.d);
        for (g, to) in self.q.iter_mut().enumerate() {
            to[row] = std::array::from_fn(|i| block.q[4 * g + i] as u8 ^ SIGN);
        }
    }

    fn get(&self, row: usize) -> Unpacked<32, 1> {
        let q = std::array::from_fn(|k| (self.q[k / 4][row][k % 4] ^ SIGN) as i8);
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
    use crate::matmul::blocks32::avx512::Avx512Tile;
    use crate::simd::avx512::{load, load_f16};

    impl Avx512Tile for Packed<16> {
        const OFFSET: u32 = 128;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn quad(&self, g: usize) -> __m512i {
            load(&self.q[g])
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
    use crate::matmul::blocks32::avx2::Avx2Tile;
    use crate::simd::avx2::{load, load_f16};

    impl Avx2Tile for Packed<8> {
        const OFFSET: u32 = 128;
        const RUN: Option<usize> = None;

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn quad(&self, half: usize, g: usize) -> __m256i {
            load(&self.q[4 * half + g])
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
    use super::{Packed, SIGN};
    use crate::matmul::blocks32::neon::NeonTile;
    use crate::simd::neon::registers::*;
    use crate::simd::neon::{Dot, Octet, Rows, each, load_f16, load_octet};

    impl NeonTile for Packed<8> {
        #[inline(always)]
        fn octet<D: Dot>(&self, h: usize) -> Octet {
            each(load_octet::<D>(&self.q[2 * h], &self.q[2 * h + 1]), |x| veorq_u8(x, vdupq_n_u8(SIGN)))
        }

        #[inline(always)]
        fn scale(&self) -> Rows<float32x4_t> {
            load_f16(&self.d)
        }
    }
}
