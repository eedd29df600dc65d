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
#[cfg(target_arch = "x86_64")]
use super::paired;
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
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => paired::kernel::<Block, Packed<8>, 128, 8>(),
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
    use crate::matmul::iq4_nl::UNSIGNED;
    use crate::matmul::paired::{Bytes, Mins, Spread};
    use crate::simd::avx2::{bits, load, load_all_u8_pairs, load_f16, or};
    use crate::simd::rolled;

    /// Bits 4..8 of the codebook's entries plus 128.
    const HIGH: [u8; 16] = nibbles_of(4);
    /// Bits 0..4.
    const LOW: [u8; 16] = nibbles_of(0);

    const fn nibbles_of(shift: u32) -> [u8; 16] {
        let mut nibbles = UNSIGNED;
        let mut i = 0;
        while i < 16 {
            nibbles[i] = nibbles[i] >> shift & 0xf;
            i += 1;
        }
        nibbles
    }

    /// Bytes of 8 bits would saturate the sums: their nibbles are multiplied apart, the high ones in the first four
    /// chains with sixteen times the scale.
    impl Spread<128> for Packed<8> {
        const CHAIN: usize = 16;
        const MINS: Mins = Mins::Offset32;

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn spread(&self, to: &mut Bytes<128>) {
            let (high, low) = (table(&HIGH), table(&LOW));
            for pair in 0..rolled(4) {
                for g in 0..8 {
                    let bytes = load(&self.q[pair][g]);
                    let (first, second) = (bits::<0>(bytes, 0x0f), bits::<4>(bytes, 0x0f));
                    to.q[16 * pair + g] = _mm256_shuffle_epi8(high, first);
                    to.q[16 * pair + 8 + g] = _mm256_shuffle_epi8(high, second);
                    to.q[64 + 16 * pair + g] = _mm256_shuffle_epi8(low, first);
                    to.q[64 + 16 * pair + 8 + g] = _mm256_shuffle_epi8(low, second);
                }
            }
            let z = load_all_u8_pairs(&self.scales);
            let shared = or(bits::<6>(z[0], 3), bits::<4>(z[1], 12), bits::<2>(z[2], 48));
            let scales = [bits::<0>(z[0], 63), bits::<0>(z[1], 63), bits::<0>(z[2], 63), shared];
            for (c, scale) in scales.into_iter().enumerate() {
                let scale = _mm256_sub_epi16(scale, _mm256_set1_epi16(i16::from(super::SCALE_OFFSET)));
                to.scales[c] = _mm256_slli_epi16::<4>(scale);
                to.scales[4 + c] = scale;
                to.mins[c] = _mm256_slli_epi16::<7>(scale);
            }
            to.d = load_f16(&self.d);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn table(entries: &[u8; 16]) -> __m256i {
        // SAFETY: 16 bytes are behind the reference.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(entries.as_ptr().cast()) })
    }
}
