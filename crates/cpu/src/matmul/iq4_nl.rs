//! IQ4_NL: 288 bytes a tile of 16 rows by 32 values, 4.5 bits a weight.
//!
//! ```text
//! d     16 x f16
//! q     4 vectors of indices into the codebook: see blocks32::Nibbles
//! ```

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::iq4_nl::{Block, CODEBOOK};

use super::blocks32::{self, Nibbles, get_nibbles, put_nibbles};
use super::{Kernel, Tile, block_kernel, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// The codebook plus 128.
#[cfg(target_arch = "x86_64")]
pub(super) const UNSIGNED: [u8; 16] = {
    let mut unsigned = [0; 16];
    let mut i = 0;
    while i < 16 {
        unsigned[i] = CODEBOOK[i] as u8 ^ 0x80;
        i += 1;
    }
    unsigned
};

/// The index of a value of the codebook, which is ascending.
pub(super) fn index_of(value: i8) -> u8 {
    CODEBOOK.partition_point(|&entry| entry < value) as u8
}

/// See the module.
#[derive(Clone, Copy)]
#[repr(C)]
struct Packed<const R: usize> {
    d: [F16Bytes; R],
    q: Nibbles<R>,
}

crate::simd::plain_bytes!(Packed, size_of::<Block>());

impl<const R: usize> Tile<32, 1> for Packed<R> {
    const ROWS: usize = R;

    fn put(&mut self, row: usize, block: &Unpacked<32, 1>) {
        self.d[row] = F16Bytes::from_f32(block.d);
        put_nibbles(&mut self.q, row, &block.q.map(index_of));
    }

    fn get(&self, row: usize) -> Unpacked<32, 1> {
        let q = get_nibbles(&self.q, row).map(|index| CODEBOOK[usize::from(index)]);
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

    use super::{Packed, UNSIGNED};
    use crate::matmul::blocks32::avx512::{Avx512Tile, from_table};
    use crate::simd::avx512::load_f16;

    impl Avx512Tile for Packed<16> {
        const OFFSET: u32 = 128;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn quad(&self, g: usize) -> __m512i {
            from_table(&self.q, &UNSIGNED, g)
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

    use super::{CODEBOOK, Packed, UNSIGNED};
    use crate::matmul::blocks32::avx2::{Avx2Tile, from_table};
    use crate::simd::avx2::load_f16;

    impl Avx2Tile for Packed<8> {
        const OFFSET: u32 = 128;
        const RUN: Option<usize> = None;

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn quad(&self, half: usize, g: usize) -> __m256i {
            from_table(&self.q, &UNSIGNED, half, g)
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn signed_quad(&self, half: usize, g: usize) -> __m256i {
            from_table(&self.q, bytemuck::cast_ref(&CODEBOOK), half, g)
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
    use super::{CODEBOOK, Packed};
    use crate::matmul::blocks32::neon::{NeonTile, from_table};
    use crate::simd::neon::registers::*;
    use crate::simd::neon::{Dot, Octet, Rows, load_f16};

    impl NeonTile for Packed<8> {
        #[inline(always)]
        fn octet<D: Dot>(&self, h: usize) -> Octet {
            from_table::<D>(&self.q, &CODEBOOK, h)
        }

        #[inline(always)]
        fn scale(&self) -> Rows<float32x4_t> {
            load_f16(&self.d)
        }
    }
}
