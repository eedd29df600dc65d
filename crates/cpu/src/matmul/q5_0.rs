//! Q5_0: 352 bytes a tile of 16 rows by 32 values, 5.5 bits a weight.
//!
//! ```text
//! d     16 x f16
//! q     4 vectors of nibbles: see blocks32::Nibbles
//! high  1 vector of fifth bits: see blocks32::Bits
//! ```

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::q5_0::Block;

use super::blocks32::{Bits, Nibbles, get_bits, get_nibbles, put_bits, put_nibbles};
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
    use crate::simd::avx512::load_f16;

    /// `P` panels times `NT` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn multiply<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        let quad = |tile: &Packed<16>, g: usize| blocks32::nibbles_and_bits(&tile.q, &tile.high, g);
        let scale = |tile: &Packed<16>| load_f16(&tile.d);
        let min = |_: &Packed<16>| None;
        blocks32::multiply::<_, 16, P, NT>(args, quad, scale, min);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::Packed;
    use crate::matmul::TileArgs;
    use crate::matmul::blocks32::avx2 as blocks32;
    use crate::simd::avx2::load_f16;

    /// `P` panels times `NT` rows.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn multiply<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        let quad = |tile: &Packed<8>, half: usize, g: usize| blocks32::nibbles_and_bits(&tile.q, &tile.high, half, g);
        let scale = |tile: &Packed<8>| load_f16(&tile.d);
        let min = |_: &Packed<8>| None;
        blocks32::multiply::<_, 16, 4, P, NT>(args, quad, scale, min);
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
