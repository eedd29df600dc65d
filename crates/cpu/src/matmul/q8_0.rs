//! Q8_0: 544 bytes a tile of 16 rows by 32 values, 8.5 bits a weight.
//!
//! ```text
//! d     16 x f16
//! q     8 vectors of 4 bytes a row: values 4 g.., too great by 128
//! ```

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::q8_0::Block;

use super::{Kernel, Tile, block_kernel, by_rows, scalar as generic};
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
        Isa::Avx512 | Isa::Avx512Bf16 => {
            let one = by_rows!(avx512::multiply::<1, NT>; 1 2 3 4 5 6);
            let two = by_rows!(avx512::multiply::<2, NT>; 1 2 3 4 5 6);
            block_kernel::<Block, Packed<16>, 32, 1>(Form::Block32, one, two)
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => {
            let one = by_rows!(avx2::multiply::<1, NT>; 1 2 3 4);
            let two = by_rows!(avx2::multiply::<2, NT>; 2 3 4);
            block_kernel::<Block, Packed<8>, 32, 1>(Form::Block32, one, two)
        }
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod | Isa::NeonI8mm => super::blocks32::neon::kernel::<Block, Packed<8>>(isa),
        _ => scalar::<8>(),
    }
}

pub(super) fn scalar<const R: usize>() -> Kernel {
    let one = by_rows!(generic::blocks_of_32::<Packed<R>, NT>; 1);
    block_kernel::<Block, Packed<R>, 32, 1>(Form::Block32, one, &[])
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::Packed;
    use crate::matmul::TileArgs;
    use crate::matmul::blocks32::avx512 as blocks32;
    use crate::simd::avx512::{load, load_f16};

    /// `P` panels times `NT` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn multiply<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        let quad = |tile: &Packed<16>, g: usize| load(&tile.q[g]);
        let scale = |tile: &Packed<16>| load_f16(&tile.d);
        let min = |_: &Packed<16>| None;
        blocks32::multiply::<_, 128, P, NT>(args, quad, scale, min);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Packed, SIGN};
    use crate::matmul::TileArgs;
    use crate::matmul::blocks32::avx2 as blocks32;
    use crate::simd::avx2::{load, load_f16};

    /// `P` panels times `NT` rows.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn multiply<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        let quad = |tile: &Packed<8>, half: usize, g: usize| {
            _mm256_xor_si256(load(&tile.q[4 * half + g]), _mm256_set1_epi8(SIGN as i8))
        };
        let scale = |tile: &Packed<8>| load_f16(&tile.d);
        blocks32::multiply_signed::<_, P, NT>(args, quad, scale);
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
