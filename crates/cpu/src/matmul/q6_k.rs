//! Q6_K: 3360 bytes a tile of 16 rows by 256 values, 6.5625 bits a weight.
//!
//! ```text
//! d       16 x f16
//! scales  8 times 16 rows x 2 scales, i8: of sub-blocks 2 j and 2 j + 1
//! q       for each sub-block of 16 values 3 vectors of 4 bytes a row; bits 0..6 of vector g = values 4 g.. of the
//!         sub-block; bits 6..8 of the three are bits 0..2, 2..4, 4..6 of values 12..
//! ```
//!
//! Values are unsigned here; the offset of 32 goes into where the sums start. Sums of two sub-blocks, 16 bits each, share
//! a lane, and one 16-bit dot product applies both scales, as in [`super::q4_k`].

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::q6_k::Block;

use super::{Kernel, Tile, block_kernel, blocks256, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// What is subtracted from the packed values.
const OFFSET: i8 = 32;

/// See the module.
#[derive(Clone, Copy)]
#[repr(C)]
struct Packed<const R: usize> {
    d: [F16Bytes; R],
    scales: [[[u8; 2]; R]; 8],
    q: [[[[u8; 4]; R]; 3]; 16],
}

crate::simd::plain_bytes!(Packed, size_of::<Block>());

impl<const R: usize> Tile<256, 16> for Packed<R> {
    const ROWS: usize = R;

    fn put(&mut self, row: usize, block: &Unpacked<256, 16>) {
        self.d[row] = F16Bytes::from_f32(block.d);
        for (to, scales) in self.scales.iter_mut().zip(block.scales.as_chunks::<2>().0) {
            to[row] = scales.map(|scale| scale as u8);
        }
        for (to, q) in self.q.iter_mut().zip(block.q.as_chunks::<16>().0) {
            let q = q.map(|q| (q + OFFSET) as u8);
            let [a, b, c, last] = std::array::from_fn(|g| u32::from_le_bytes(q.as_chunks().0[g]));
            for (g, word) in [a, b, c].into_iter().enumerate() {
                to[g][row] = (word | (last >> (2 * g) & 0x0303_0303) << 6).to_le_bytes();
            }
        }
    }

    fn get(&self, row: usize) -> Unpacked<256, 16> {
        let mut q = [0; 256];
        for (from, q) in self.q.iter().zip(q.as_chunks_mut::<16>().0) {
            for i in 0..4 {
                let bytes: [u8; 3] = std::array::from_fn(|g| from[g][row][i]);
                for (g, byte) in bytes.into_iter().enumerate() {
                    q[4 * g + i] = (byte & 63) as i8 - OFFSET;
                }
                q[12 + i] = (bytes[0] >> 6 | bytes[1] >> 6 << 2 | bytes[2] >> 6 << 4) as i8 - OFFSET;
            }
        }
        let scales = std::array::from_fn(|j| self.scales[j / 2][row][j % 2] as i8);
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
mod avx512 {
    use std::arch::x86_64::*;

    use super::Packed;
    use crate::activation::Block256;
    use crate::matmul::TileArgs;
    use crate::matmul::blocks256::avx512::{Factors, Spread};
    use crate::simd::avx512::{Quad, load, load_f16, load_i8_pairs, pair_sums, prefetch_part_near, store};
    use crate::simd::rolled;

    /// log2 of the offset.
    const OFFSET_BITS: u32 = super::OFFSET.ilog2();

    impl Spread for Packed<16> {
        const CHAIN: usize = 8;
        const OFFSET_BITS: Option<u32> = Some(OFFSET_BITS);

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn spread(&self, to: &mut [__m512i; 64]) {
            for (q, to) in self.q.iter().zip(to.as_chunks_mut::<4>().0) {
                *to = unpack(q);
            }
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn factors(&self, to: &mut Factors) {
            for (to, scales) in to.scales.iter_mut().zip(&self.scales) {
                *to = load_i8_pairs(scales);
            }
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
            let scales: [_; P] = std::array::from_fn(|p| &tile[p].scales[..pairs]);
            let q: [_; P] = std::array::from_fn(|p| &tile[p].q.as_chunks::<2>().0[..pairs]);
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
                    weights[p] = unpack(&q[p][pair][0]);
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
                    weights[p] = unpack(&q[p][pair][1]);
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
                    let scales = load_i8_pairs(&scales[p][pair]);
                    for t in 0..NT {
                        let both = pair_sums::<16>(low[p][t], high[p][t]);
                        sums[p][t] = _mm512_dpwssd_epi32(sums[p][t], both, scales);
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

    /// 16 values of each row: three vectors hold four.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn unpack(q: &[Quad; 3]) -> [__m512i; 4] {
        /// mask ? b : c
        const SELECT: i32 = 0xCA;
        let bytes = [load(&q[0]), load(&q[1]), load(&q[2])];
        let six_bits = _mm512_set1_epi8(63);
        // Shifts of 16-bit lanes: what comes from the byte above is masked or selected away.
        let bits_0 = _mm512_srli_epi16::<6>(bytes[0]);
        let bits_2 = _mm512_srli_epi16::<4>(bytes[1]);
        let bits_4 = _mm512_srli_epi16::<2>(bytes[2]);
        let four = _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(0x03), bits_0, bits_2);
        let six = _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(0x0f), four, bits_4);
        [
            _mm512_and_si512(bytes[0], six_bits),
            _mm512_and_si512(bytes[1], six_bits),
            _mm512_and_si512(bytes[2], six_bits),
            _mm512_and_si512(six, six_bits),
        ]
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::Packed;
    use crate::matmul::blocks256::avx::{Factors, Unpack};
    use crate::simd::avx2::{bits, load_f16, load_i8_pairs, loads, or};

    impl Unpack<64, 8> for Packed<8> {
        const CHAIN: usize = 8;
        const OFFSET_BITS: Option<i32> = Some(super::OFFSET.ilog2() as i32);

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn vectors(&self, c: usize, _: usize) -> [__m256i; 8] {
            let [a, b] = &self.q.as_chunks().0[c % 8];
            let (a, b) = (loads(a), loads(b));
            [
                bits::<0>(a[0], 63),
                bits::<0>(a[1], 63),
                bits::<0>(a[2], 63),
                or(bits::<6>(a[0], 0x03), bits::<4>(a[1], 0x0c), bits::<2>(a[2], 0x30)),
                bits::<0>(b[0], 63),
                bits::<0>(b[1], 63),
                bits::<0>(b[2], 63),
                or(bits::<6>(b[0], 0x03), bits::<4>(b[1], 0x0c), bits::<2>(b[2], 0x30)),
            ]
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn factors(&self, to: &mut Factors) {
            for (to, scales) in to.scales.iter_mut().zip(&self.scales) {
                *to = load_i8_pairs(scales);
            }
            to.d = load_f16(&self.d);
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::Packed;
    use crate::matmul::blocks256::neon::NeonTile;
    use crate::simd::neon::registers::*;
    use crate::simd::neon::{Dot, Octet, Rows, each, load, load_f16, load_octet, load_signed_pairs, octet};

    impl NeonTile<16> for Packed<8> {
        const OFFSET: u32 = super::OFFSET as u32;

        #[inline(always)]
        fn octet<D: Dot>(&self, u: usize, h: usize) -> Octet {
            let q = &self.q[2 * u + h / 2];
            let six_bits = |x: uint8x16_t| vandq_u8(x, vdupq_n_u8(63));
            if h % 2 == 0 {
                return each(load_octet::<D>(&q[0], &q[1]), six_bits);
            }
            let [v0, v1, v2] = q.each_ref().map(load);
            let fourth = |half: usize| {
                let bits_2 = vsliq_n_u8::<2>(vshrq_n_u8::<6>(v0[half]), vshrq_n_u8::<6>(v1[half]));
                vsliq_n_u8::<4>(bits_2, vshrq_n_u8::<6>(v2[half]))
            };
            each(octet::<D>(v2, [fourth(0), fourth(1)]), six_bits)
        }

        #[inline(always)]
        fn d(&self) -> Rows<float32x4_t> {
            load_f16(&self.d)
        }

        #[inline(always)]
        fn scales(&self) -> [Rows<int32x4_t>; 16] {
            let mut scales = [[vdupq_n_s32(0); 2]; 16];
            for (to, pairs) in scales.as_chunks_mut::<2>().0.iter_mut().zip(&self.scales) {
                *to = load_signed_pairs(pairs);
            }
            scales
        }
    }
}
