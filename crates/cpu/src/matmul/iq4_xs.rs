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
use super::q4_k::{Nibbles, get_nibbles, put_nibbles};
use super::{Kernel, Tile, block_kernel, blocks256, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// What is subtracted from the packed scales.
const SCALE_OFFSET: i8 = 32;

/// log2 of what the entries of [`UNSIGNED`](super::iq4_nl::UNSIGNED) are too great by.
#[cfg(target_arch = "x86_64")]
const OFFSET_BITS: i32 = 7;

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
        Isa::Avx2 => blocks256::avx2::kernel::<Block, Packed<8>, 128, 2, 8>(),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => blocks256::avx_vnni::kernel::<Block, Packed<8>, 2, 8>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => {
            let one = by_rows!(avx512::multiply::<1, NT>; 1 2 3 4);
            let two = by_rows!(avx512::multiply::<2, NT>; 1 2 3 4);
            block_kernel::<Block, Packed<16>, 256, 8>(Form::Block256, one, two)
        }
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod | Isa::NeonI8mm => blocks256::neon::kernel::<Block, Packed<8>, 8>(isa),
        _ => scalar::<8>(),
    }
}

pub(super) fn scalar<const R: usize>() -> Kernel {
    let one = by_rows!(generic::blocks_of_256::<Packed<R>, 8, NT>; 1);
    block_kernel::<Block, Packed<R>, 256, 8>(Form::Block256, one, &[])
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{OFFSET_BITS, Packed};
    use crate::matmul::blocks256::avx::{Factors, Mins, Unpack};
    use crate::matmul::iq4_nl::UNSIGNED;
    use crate::matmul::q4_k::avx2::nibbles;
    use crate::simd::avx2::{bits, load_all_u8_pairs, load_f16, or};

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

    /// For AVX2, where bytes of 8 bits would saturate the sums: their nibbles are multiplied apart, the high ones in the
    /// first four chains with sixteen times the scale.
    impl Unpack<128, 2> for Packed<8> {
        const CHAIN: usize = 16;
        const MINS: Mins = Mins::Offset32;
        const EIGHT_ROWS: bool = true;

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn vectors(&self, c: usize, i: usize) -> [__m256i; 2] {
            look_up(if c < 4 { &HIGH } else { &LOW }, nibbles(&self.q, c, i))
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn factors(&self, to: &mut Factors) {
            for (c, scale) in scale_pairs_of(&self.scales).into_iter().enumerate() {
                to.scales[c] = _mm256_slli_epi16::<4>(scale);
                to.scales[4 + c] = scale;
                to.mins[c] = _mm256_slli_epi16::<OFFSET_BITS>(scale);
            }
            to.d = load_f16(&self.d);
        }
    }

    /// For AVX-VNNI, which multiplies bytes whole.
    impl Unpack<64, 2> for Packed<8> {
        const CHAIN: usize = 16;
        const OFFSET_BITS: Option<i32> = Some(OFFSET_BITS);
        const WIDE: bool = true;

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn vectors(&self, c: usize, i: usize) -> [__m256i; 2] {
            look_up(&UNSIGNED, nibbles(&self.q, c, i))
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn factors(&self, to: &mut Factors) {
            to.scales[..4].copy_from_slice(&scale_pairs_of(&self.scales));
            to.d = load_f16(&self.d);
        }
    }

    /// The scales of sub-blocks 2 j and 2 j + 1 as two 16-bit integers of each row, for j = 0..4.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn scale_pairs_of(scales: &[[[u8; 2]; 8]; 3]) -> [__m256i; 4] {
        let z = load_all_u8_pairs(scales);
        let shared = or(bits::<6>(z[0], 3), bits::<4>(z[1], 12), bits::<2>(z[2], 48));
        let mut pairs = [bits::<0>(z[0], 63), bits::<0>(z[1], 63), bits::<0>(z[2], 63), shared];
        for pair in &mut pairs {
            *pair = _mm256_sub_epi16(*pair, _mm256_set1_epi16(i16::from(super::SCALE_OFFSET)));
        }
        pairs
    }

    /// The entries of a table at these indices.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn look_up(entries: &[u8; 16], [first, second]: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: 16 bytes are behind the reference.
        let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(entries.as_ptr().cast()) });
        [_mm256_shuffle_epi8(table, first), _mm256_shuffle_epi8(table, second)]
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{OFFSET_BITS, Packed, SCALE_OFFSET};
    use crate::activation::Block256;
    use crate::matmul::TileArgs;
    use crate::matmul::iq4_nl::UNSIGNED;
    use crate::simd::avx512::{Quad, load, load_f16, load_u8_pairs, prefetch_near, store};
    use crate::simd::rolled;

    /// `P` panels times `NT` rows. Sums of a sub-block do not fit into 16 bits: each is multiplied by its scale in 32.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn multiply<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        let blocks = Block256::<NT>::of_tile(args.activations);
        let tiles = bytemuck::cast_slice::<u8, Packed<16>>(args.weights);
        let tiles: [&[Packed<16>]; P] = std::array::from_fn(|p| &tiles[p * blocks.len()..][..blocks.len()]);
        let (pairs, groups) = (rolled(4), rolled(8));
        // SAFETY: 16 bytes are behind the reference.
        let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(UNSIGNED.as_ptr().cast()) });
        let low_mask = _mm512_set1_epi8(0x0f);
        let mut f = [[_mm512_setzero_ps(); NT]; P];
        for (b, a) in blocks.iter().enumerate() {
            let tile: [&Packed<16>; P] = std::array::from_fn(|p| &tiles[p][b]);
            let mut scales = [[[_mm512_setzero_si512(); 2]; P]; 4];
            for p in 0..P {
                let of_tile = scales_of(&tile[p].scales);
                for j in 0..4 {
                    scales[j][p] = of_tile[j];
                }
            }
            let a_sums = &a.neg_sum16.as_chunks::<4>().0[..pairs];
            let mut sums = [[_mm512_setzero_si512(); NT]; P];
            for pair in 0..pairs {
                let q: [&[Quad]; P] = std::array::from_fn(|p| &tile[p].q[pair][..groups]);
                let (a_low, a_high) = (&a.q[16 * pair..][..groups], &a.q[16 * pair + 8..][..groups]);
                let mut low = [[_mm512_setzero_si512(); NT]; P];
                let mut high = [[_mm512_setzero_si512(); NT]; P];
                for t in 0..NT {
                    let start = |sum: i32| _mm512_slli_epi32::<{ OFFSET_BITS as u32 }>(_mm512_set1_epi32(sum));
                    for p in 0..P {
                        low[p][t] = start(a_sums[pair][0][t] + a_sums[pair][1][t]);
                        high[p][t] = start(a_sums[pair][2][t] + a_sums[pair][3][t]);
                    }
                }
                for g in 0..groups {
                    let mut w_low = [_mm512_setzero_si512(); P];
                    let mut w_high = [_mm512_setzero_si512(); P];
                    for p in 0..P {
                        prefetch_near(&q[p][g], args.ahead_bytes);
                        let bytes = load(&q[p][g]);
                        let upper = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low_mask);
                        w_low[p] = _mm512_shuffle_epi8(table, _mm512_and_si512(bytes, low_mask));
                        w_high[p] = _mm512_shuffle_epi8(table, upper);
                    }
                    for t in 0..NT {
                        let a = _mm512_set1_epi32(a_low[g][t]);
                        for p in 0..P {
                            low[p][t] = _mm512_dpbusd_epi32(low[p][t], w_low[p], a);
                        }
                    }
                    for t in 0..NT {
                        let a = _mm512_set1_epi32(a_high[g][t]);
                        for p in 0..P {
                            high[p][t] = _mm512_dpbusd_epi32(high[p][t], w_high[p], a);
                        }
                    }
                }
                for p in 0..P {
                    let [scale_low, scale_high] = scales[pair % 4][p];
                    for t in 0..NT {
                        let low = _mm512_mullo_epi32(low[p][t], scale_low);
                        let high = _mm512_mullo_epi32(high[p][t], scale_high);
                        sums[p][t] = _mm512_add_epi32(sums[p][t], _mm512_add_epi32(low, high));
                    }
                }
            }
            for p in 0..P {
                let d = load_f16(&tile[p].d);
                for t in 0..NT {
                    let value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[p][t]), d);
                    f[p][t] = _mm512_fmadd_ps(value, _mm512_set1_ps(a.scale[t]), f[p][t]);
                }
            }
        }
        let (out, _) = args.out.as_chunks_mut::<16>();
        for p in 0..P {
            for t in 0..NT {
                store(&mut out[p * args.panel_stride / 16 + t], f[p][t]);
            }
        }
    }

    /// The scales of sub-blocks 2 j and 2 j + 1 of each row, for j = 0..4.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn scales_of(scales: &[[[u8; 2]; 16]; 3]) -> [[__m512i; 2]; 4] {
        let six_bits = _mm512_set1_epi16(63);
        let mut pairs = [_mm512_setzero_si512(); 4];
        for j in (0..3).rev() {
            let bytes = load_u8_pairs(&scales[j]);
            pairs[j] = _mm512_and_si512(bytes, six_bits);
            pairs[3] = _mm512_or_si512(_mm512_slli_epi16::<2>(pairs[3]), _mm512_srli_epi16::<6>(bytes));
        }
        let offset = _mm512_set1_epi32(i32::from(SCALE_OFFSET));
        let mut scales = [[_mm512_setzero_si512(); 2]; 4];
        for j in 0..4 {
            let low = _mm512_and_si512(pairs[j], _mm512_set1_epi32(0xffff));
            scales[j] = [_mm512_sub_epi32(low, offset), _mm512_sub_epi32(_mm512_srli_epi32::<16>(pairs[j]), offset)];
        }
        scales
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::{CODEBOOK, Packed, SCALE_OFFSET};
    use crate::matmul::blocks256::neon::NeonTile;
    use crate::matmul::q4_k::neon::nibbles;
    use crate::simd::neon::registers::*;
    use crate::simd::neon::{Dot, Octet, Rows, each, load_f16, load_pairs, load_table};

    impl NeonTile<8> for Packed<8> {
        #[inline(always)]
        fn octet<D: Dot>(&self, u: usize, h: usize) -> Octet {
            let table = load_table(&CODEBOOK);
            each(nibbles::<D>(&self.q, u, h), |index| vqtbl1q_u8(table, index))
        }

        #[inline(always)]
        fn d(&self) -> Rows<float32x4_t> {
            load_f16(&self.d)
        }

        #[inline(always)]
        fn scales(&self) -> [Rows<int32x4_t>; 8] {
            let offset = vdupq_n_s32(i32::from(SCALE_OFFSET));
            let low = |x: int32x4_t| vsubq_s32(vandq_s32(x, vdupq_n_s32(63)), offset);
            let [p0, p1, p2] = self.scales.each_ref().map(load_pairs);
            let high = |i: usize, half: usize| {
                let bits_2 = vsliq_n_s32::<2>(vshrq_n_s32::<6>(p0[i][half]), vshrq_n_s32::<6>(p1[i][half]));
                vsubq_s32(vsliq_n_s32::<4>(bits_2, vshrq_n_s32::<6>(p2[i][half])), offset)
            };
            [
                p0[0].map(low),
                p0[1].map(low),
                p1[0].map(low),
                p1[1].map(low),
                p2[0].map(low),
                p2[1].map(low),
                [high(0, 0), high(0, 1)],
                [high(1, 0), high(1, 1)],
            ]
        }
    }
}
