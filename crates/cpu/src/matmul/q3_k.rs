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

use super::{Kernel, Tile, block_kernel, blocks256, by_rows, scalar as generic};
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
        Isa::Avx2 => blocks256::avx2::kernel::<Block, Packed<8>, 64, 8, 16>(),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => blocks256::avx_vnni::kernel::<Block, Packed<8>, 8, 16>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => {
            let one = by_rows!(avx512::multiply::<1, NT>; 1 2 3 4);
            let two = by_rows!(avx512::multiply::<2, NT>; 1 2 3 4);
            blocks256::avx512::kernel::<Block, Packed<16>, 16>(one, two)
        }
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod | Isa::NeonI8mm => blocks256::neon::kernel::<Block, Packed<8>, 16>(isa),
        _ => scalar::<8>(),
    }
}

pub(super) fn scalar<const R: usize>() -> Kernel {
    let one = by_rows!(generic::blocks_of_256::<Packed<R>, 16, NT>; 1);
    block_kernel::<Block, Packed<R>, 256, 16>(Form::Block256, one, &[])
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::Packed;
    use crate::matmul::blocks256::avx::{Factors, Unpack};
    use crate::simd::avx2::{bits, load_all_u8_pairs, load_f16, loads, or};

    impl Unpack<64, 8> for Packed<8> {
        const CHAIN: usize = 8;
        const OFFSET_BITS: Option<i32> = Some(super::OFFSET.ilog2() as i32);

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn vectors(&self, c: usize, _: usize) -> [__m256i; 8] {
            let b = loads(&self.q[c % 8]);
            let last = or(bits::<3>(b[0], 0x11), bits::<2>(b[1], 0x22), bits::<1>(b[2], 0x44));
            [
                bits::<0>(b[0], 7),
                bits::<4>(b[0], 7),
                bits::<0>(b[1], 7),
                bits::<4>(b[1], 7),
                bits::<0>(b[2], 7),
                bits::<4>(b[2], 7),
                bits::<0>(last, 7),
                bits::<4>(last, 7),
            ]
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn factors(&self, to: &mut Factors) {
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

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Packed, SCALE_OFFSET};
    use crate::activation::Block256;
    use crate::matmul::TileArgs;
    use crate::matmul::blocks256::avx512::{Factors, Spread};
    use crate::simd::avx512::{Quad, load, load_f16, load_u8_pairs, pair_sums, prefetch_part_near, store};
    use crate::simd::rolled;

    /// log2 of the offset.
    const OFFSET_BITS: u32 = super::OFFSET.ilog2();

    impl Spread for Packed<16> {
        const CHAIN: usize = 8;
        const OFFSET_BITS: Option<u32> = Some(OFFSET_BITS);

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn spread(&self, to: &mut [__m512i; 64]) {
            for (q, to) in self.q.iter().zip(to.as_chunks_mut::<8>().0) {
                to[..4].copy_from_slice(&first_four(q));
                to[4..].copy_from_slice(&last_four(q));
            }
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn factors(&self, to: &mut Factors) {
            to.scales = scale_pairs_of(&self.scales);
            to.d = load_f16(&self.d);
        }
    }

    /// `P` panels times `NT` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn multiply<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        let blocks = Block256::<NT>::of_tile(args.activations);
        let tiles = bytemuck::cast_slice::<u8, Packed<16>>(args.weights);
        let tiles: [&[Packed<16>]; P] = std::array::from_fn(|p| &tiles[p * blocks.len()..][..blocks.len()]);
        let pairs = rolled(8);
        let mut f = [[_mm512_setzero_ps(); NT]; P];
        for (b, a) in blocks.iter().enumerate() {
            let tile: [&Packed<16>; P] = std::array::from_fn(|p| &tiles[p][b]);
            let mut scales = [[_mm512_setzero_si512(); P]; 8];
            for p in 0..P {
                let of_tile = scale_pairs_of(&tile[p].scales);
                for j in 0..8 {
                    scales[j][p] = of_tile[j];
                }
            }
            let q: [_; P] = std::array::from_fn(|p| &tile[p].q[..pairs]);
            let (a_q, a_sums) = (&a.q.as_chunks::<8>().0[..pairs], &a.neg_sum16.as_chunks::<2>().0[..pairs]);
            let mut sums = [[_mm512_setzero_si512(); NT]; P];
            for pair in 0..pairs {
                let mut low = [[_mm512_setzero_si512(); NT]; P];
                let mut high = [[_mm512_setzero_si512(); NT]; P];
                for t in 0..NT {
                    let start = |sum: i32| _mm512_slli_epi32::<OFFSET_BITS>(_mm512_set1_epi32(sum));
                    for p in 0..P {
                        low[p][t] = start(a_sums[pair][0][t]);
                        high[p][t] = start(a_sums[pair][1][t]);
                    }
                }
                let mut weights = [[_mm512_setzero_si512(); 4]; P];
                for p in 0..P {
                    prefetch_part_near(tile[p], pair, 8, args.ahead_bytes);
                    weights[p] = first_four(&q[p][pair]);
                }
                for g in 0..4 {
                    for t in 0..NT {
                        let a = _mm512_set1_epi32(a_q[pair][g][t]);
                        for p in 0..P {
                            low[p][t] = _mm512_dpbusd_epi32(low[p][t], weights[p][g], a);
                        }
                    }
                }
                for p in 0..P {
                    weights[p] = last_four(&q[p][pair]);
                }
                for g in 0..4 {
                    for t in 0..NT {
                        let a = _mm512_set1_epi32(a_q[pair][4 + g][t]);
                        for p in 0..P {
                            high[p][t] = _mm512_dpbusd_epi32(high[p][t], weights[p][g], a);
                        }
                    }
                }
                for p in 0..P {
                    for t in 0..NT {
                        let both = pair_sums::<16>(low[p][t], high[p][t]);
                        sums[p][t] = _mm512_dpwssd_epi32(sums[p][t], both, scales[pair % 8][p]);
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

    /// The scales of sub-blocks 2 j and 2 j + 1 as two 16-bit integers of each row, for j = 0..8.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn scale_pairs_of(scales: &[[[u8; 2]; 16]; 6]) -> [__m512i; 8] {
        let offset = _mm512_set1_epi16(SCALE_OFFSET as i16);
        let six_bits = _mm512_set1_epi16(63);
        let mut pairs = [_mm512_setzero_si512(); 8];
        for half in 0..2 {
            let mut shared = _mm512_setzero_si512();
            for j in (0..3).rev() {
                let bytes = load_u8_pairs(&scales[3 * half + j]);
                pairs[3 * half + j] = _mm512_sub_epi16(_mm512_and_si512(bytes, six_bits), offset);
                shared = _mm512_or_si512(_mm512_slli_epi16::<2>(shared), _mm512_srli_epi16::<6>(bytes));
            }
            pairs[6 + half] = _mm512_sub_epi16(shared, offset);
        }
        pairs
    }

    /// Of 32 values, the first 16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn first_four(q: &[Quad; 3]) -> [__m512i; 4] {
        let three_bits = _mm512_set1_epi8(7);
        let (b0, b1) = (load(&q[0]), load(&q[1]));
        [
            _mm512_and_si512(b0, three_bits),
            _mm512_and_si512(_mm512_srli_epi16::<4>(b0), three_bits),
            _mm512_and_si512(b1, three_bits),
            _mm512_and_si512(_mm512_srli_epi16::<4>(b1), three_bits),
        ]
    }

    /// The other 16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn last_four(q: &[Quad; 3]) -> [__m512i; 4] {
        /// mask ? b : c
        const SELECT: i32 = 0xCA;
        let three_bits = _mm512_set1_epi8(7);
        let (bit, two_bits) = (_mm512_set1_epi8(1), _mm512_set1_epi8(3));
        let [b0, b1, b2] = [load(&q[0]), load(&q[1]), load(&q[2])];
        // Shifts of 16-bit lanes: what comes from the byte above is masked or selected away.
        let v6 = _mm512_ternarylogic_epi32::<SELECT>(bit, _mm512_srli_epi16::<3>(b0), _mm512_srli_epi16::<2>(b1));
        let v6 = _mm512_ternarylogic_epi32::<SELECT>(two_bits, v6, _mm512_srli_epi16::<1>(b2));
        let v7 = _mm512_ternarylogic_epi32::<SELECT>(bit, _mm512_srli_epi16::<7>(b0), _mm512_srli_epi16::<6>(b1));
        let v7 = _mm512_ternarylogic_epi32::<SELECT>(two_bits, v7, _mm512_srli_epi16::<5>(b2));
        [
            _mm512_and_si512(b2, three_bits),
            _mm512_and_si512(_mm512_srli_epi16::<4>(b2), three_bits),
            _mm512_and_si512(v6, three_bits),
            _mm512_and_si512(v7, three_bits),
        ]
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::{OFFSET, Packed, SCALE_OFFSET};
    use crate::matmul::blocks256::neon::NeonTile;
    use crate::simd::neon::registers::*;
    use crate::simd::neon::{Dot, Octet, Rows, each, load, load_f16, load_pairs, octet};

    impl NeonTile<16> for Packed<8> {
        const OFFSET: u32 = OFFSET as u32;

        #[inline(always)]
        fn octet<D: Dot>(&self, u: usize, h: usize) -> Octet {
            let three_bits = |x: uint8x16_t| vandq_u8(x, vdupq_n_u8(7));
            let b = self.q[u].each_ref().map(load);
            let values = match h {
                0..3 => octet::<D>(b[h], b[h].map(|x| vshrq_n_u8::<4>(x))),
                _ => octet::<D>(
                    [0, 1].map(|half| spread_bits::<3>(&b, half)),
                    [0, 1].map(|half| spread_bits::<7>(&b, half)),
                ),
            };
            each(values, three_bits)
        }

        #[inline(always)]
        fn d(&self) -> Rows<float32x4_t> {
            load_f16(&self.d)
        }

        #[inline(always)]
        fn scales(&self) -> [Rows<int32x4_t>; 16] {
            let offset = vdupq_n_s32(i32::from(SCALE_OFFSET));
            let pairs = self.scales.each_ref().map(load_pairs);
            let mut scales = [[vdupq_n_s32(0); 2]; 16];
            for j in 0..12 {
                scales[j] = pairs[j / 2][j % 2].map(|x| vsubq_s32(vandq_s32(x, vdupq_n_s32(63)), offset));
            }
            for j in 12..16 {
                let first = j / 2 % 2 * 3;
                for half in 0..2 {
                    let bits = |pair: usize| vshrq_n_s32::<6>(pairs[first + pair][j % 2][half]);
                    let all = vsliq_n_s32::<4>(vsliq_n_s32::<2>(bits(0), bits(1)), bits(2));
                    scales[j][half] = vsubq_s32(all, offset);
                }
            }
            scales
        }
    }

    /// Bit `BIT` of the three vectors as bits 0, 1, 2, and more above them.
    #[inline(always)]
    fn spread_bits<const BIT: i32>(vectors: &[Rows<uint8x16_t>; 3], half: usize) -> uint8x16_t {
        let [b0, b1, b2] = vectors.map(|v| vshrq_n_u8::<BIT>(v[half]));
        vsliq_n_u8::<2>(vsliq_n_u8::<1>(b0, b1), b2)
    }
}
