//! MXFP4: 272 bytes a tile of 16 rows by 32 values, 4.25 bits a weight.
//!
//! ```text
//! e     16 exponents: half the scale is 2^(e - 128)
//! q     4 vectors of indices into the doubled values: see blocks32::Nibbles
//! ```

use tensor::format::block::Unpacked;
use tensor::format::mxfp4::{Block, DOUBLED};

use super::blocks32::{self, Nibbles, get_nibbles, put_nibbles};
use super::{Kernel, Tile, block_kernel, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// What is added to the doubled values where they must not be negative.
#[cfg(target_arch = "x86_64")]
const OFFSET: u32 = 16;

/// The doubled values plus [`OFFSET`].
#[cfg(target_arch = "x86_64")]
const UNSIGNED: [u8; 16] = {
    let mut unsigned = [0; 16];
    let mut i = 0;
    while i < 16 {
        unsigned[i] = (DOUBLED[i] + OFFSET as i8) as u8;
        i += 1;
    }
    unsigned
};

/// See the module.
#[derive(Clone, Copy)]
#[repr(C)]
struct Packed<const R: usize> {
    e: [u8; R],
    q: Nibbles<R>,
}

crate::simd::plain_bytes!(Packed, size_of::<Block>());

impl<const R: usize> Tile<32, 1> for Packed<R> {
    const ROWS: usize = R;

    fn put(&mut self, row: usize, block: &Unpacked<32, 1>) {
        let bits = block.d.to_bits();
        self.e[row] = match bits >> 23 {
            // Subnormal: e = 0 and e = 1 are one bit and the next.
            0 => (bits >> 22) as u8,
            exponent => exponent as u8 + 1,
        };
        put_nibbles(&mut self.q, row, &block.q.map(index_of));
    }

    fn get(&self, row: usize) -> Unpacked<32, 1> {
        let q = get_nibbles(&self.q, row).map(|index| DOUBLED[usize::from(index)]);
        let d = Block { e: self.e[row], qs: [0; 16] }.half_scale();
        Unpacked { d, dmin: 0.0, scales: [1], mins: [0], q }
    }
}

/// The first index of a doubled value.
fn index_of(value: i8) -> u8 {
    DOUBLED.iter().position(|&entry| entry == value).expect("a doubled value") as u8
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

    use super::{Packed, UNSIGNED};
    use crate::matmul::blocks32::avx512::{Avx512Tile, from_table};
    use crate::simd::avx512::load_u8;

    impl Avx512Tile for Packed<16> {
        const OFFSET: u32 = super::OFFSET;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn quad(&self, g: usize) -> __m512i {
            from_table(&self.q, &UNSIGNED, g)
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn scale(&self) -> __m512 {
            half_scales(&self.e)
        }
    }

    /// 2^(e - 128), which is subnormal for e below 2.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn half_scales(e: &[u8; 16]) -> __m512 {
        let e = load_u8(e);
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
        let subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(1 << 21), e);
        let is_subnormal = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
        _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_subnormal, subnormal))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Packed, UNSIGNED};
    use crate::matmul::blocks32::avx2::{Avx2Tile, from_table};
    use crate::simd::avx2::load_u8;

    impl Avx2Tile for Packed<8> {
        const OFFSET: u32 = super::OFFSET;
        const RUN: Option<usize> = Some(4);

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn quad(&self, half: usize, g: usize) -> __m256i {
            from_table(&self.q, &UNSIGNED, half, g)
        }

        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn scale(&self) -> __m256 {
            half_scales(&self.e)
        }
    }

    /// 2^(e - 128), which is subnormal for e below 2.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn half_scales(e: &[u8; 8]) -> __m256 {
        let e = load_u8(e);
        let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
        let subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(1 << 21), e);
        let is_subnormal = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
        _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, is_subnormal))
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::{DOUBLED, Packed};
    use crate::matmul::blocks32::neon::{NeonTile, from_table};
    use crate::simd::neon::registers::*;
    use crate::simd::neon::{Dot, Octet, Rows, load_u8};

    impl NeonTile for Packed<8> {
        #[inline(always)]
        fn octet<D: Dot>(&self, h: usize) -> Octet {
            from_table::<D>(&self.q, &DOUBLED, h)
        }

        #[inline(always)]
        fn scale(&self) -> Rows<float32x4_t> {
            load_u8(&self.e).map(half_scale)
        }
    }

    /// 2^(e - 128), which is subnormal for e below 2.
    #[inline(always)]
    fn half_scale(e: uint32x4_t) -> float32x4_t {
        let normal = vshlq_n_u32::<23>(vsubq_u32(e, vdupq_n_u32(1)));
        let subnormal = vshlq_u32(vdupq_n_u32(1 << 21), vreinterpretq_s32_u32(e));
        vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), subnormal, normal))
    }
}
