//! Q2_K: 1344 bytes a tile of 16 rows by 256 values, 2.625 bits a weight.
//!
//! ```text
//! d       16 x f16
//! dmin    16 x f16
//! scales  8 times 16 rows x 2 bytes, of sub-blocks 2 j and 2 j + 1: low nibble = scale, high nibble = minimum
//! q       for each sub-block of 16 values a vector of 4 bytes a row: bits 2 g..2 g + 2 = values 4 g..
//! ```

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::q2_k::Block;

use super::{Kernel, Tile, block_kernel, blocks256, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// See the module.
#[derive(Clone, Copy)]
#[repr(C)]
struct Packed<const R: usize> {
    d: [F16Bytes; R],
    dmin: [F16Bytes; R],
    scales: [[[u8; 2]; R]; 8],
    q: [[[u8; 4]; R]; 16],
}

crate::simd::plain_bytes!(Packed, size_of::<Block>());

impl<const R: usize> Tile<256, 16> for Packed<R> {
    const ROWS: usize = R;

    fn put(&mut self, row: usize, block: &Unpacked<256, 16>) {
        self.d[row] = F16Bytes::from_f32(block.d);
        self.dmin[row] = F16Bytes::from_f32(block.dmin);
        for (j, to) in self.scales.iter_mut().enumerate() {
            to[row] = std::array::from_fn(|i| block.scales[2 * j + i] as u8 | block.mins[2 * j + i] << 4);
        }
        for (to, q) in self.q.iter_mut().zip(block.q.as_chunks::<16>().0) {
            to[row] = std::array::from_fn(|i| (0..4).map(|g| (q[4 * g + i] as u8) << (2 * g)).sum());
        }
    }

    fn get(&self, row: usize) -> Unpacked<256, 16> {
        let mut q = [0; 256];
        for (from, q) in self.q.iter().zip(q.as_chunks_mut::<16>().0) {
            *q = std::array::from_fn(|k| (from[row][k % 4] >> (k / 4 * 2) & 3) as i8);
        }
        let scale = |j: usize| self.scales[j / 2][row][j % 2];
        let (scales, mins) = (std::array::from_fn(|j| (scale(j) & 0xf) as i8), std::array::from_fn(|j| scale(j) >> 4));
        Unpacked { d: self.d[row].to_f32(), dmin: self.dmin[row].to_f32(), scales, mins, q }
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
            block_kernel::<Block, Packed<16>, 256, 16>(Form::Block256, one, two)
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
    use crate::matmul::blocks256::avx::{Factors, Mins, Unpack};
    use crate::simd::avx2::{bits, load_f16, load_u8_pairs, loads};

    impl Unpack<64, 8> for Packed<8> {
        const CHAIN: usize = 8;
        const MINS: Mins = Mins::Of16;

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn vectors(&self, c: usize, _: usize) -> [__m256i; 8] {
            let [a, b] = loads(&self.q.as_chunks().0[c % 8]);
            [
                bits::<0>(a, 3),
                bits::<2>(a, 3),
                bits::<4>(a, 3),
                bits::<6>(a, 3),
                bits::<0>(b, 3),
                bits::<2>(b, 3),
                bits::<4>(b, 3),
                bits::<6>(b, 3),
            ]
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn factors(&self, to: &mut Factors) {
            for c in 0..8 {
                let both = load_u8_pairs(&self.scales[c]);
                to.scales[c] = bits::<0>(both, 15);
                to.mins[c] = bits::<4>(both, 15);
            }
            to.d = load_f16(&self.d);
            to.dmin = load_f16(&self.dmin);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::Packed;
    use crate::activation::Block256;
    use crate::matmul::TileArgs;
    use crate::simd::avx512::{Quad, load, load_f16, load_u8_pairs, pair_sums, prefetch_part_near, store};
    use crate::simd::rolled;

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
            let mut mins = [[_mm512_setzero_si512(); NT]; P];
            for pair in 0..pairs {
                let mut low = [[_mm512_setzero_si512(); NT]; P];
                let mut high = [[_mm512_setzero_si512(); NT]; P];
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
                    // The low nibble of a byte is a scale, the high one a minimum.
                    let bytes = load_u8_pairs(&scales[p][pair]);
                    let scale_pairs = _mm512_and_si512(bytes, _mm512_set1_epi16(0xf));
                    let min_pairs = _mm512_srli_epi16::<4>(bytes);
                    for t in 0..NT {
                        let both = pair_sums::<16>(low[p][t], high[p][t]);
                        sums[p][t] = _mm512_dpwssd_epi32(sums[p][t], both, scale_pairs);
                        let both = (-a_sums[pair][0][t] & 0xffff) | -a_sums[pair][1][t] << 16;
                        mins[p][t] = _mm512_dpwssd_epi32(mins[p][t], min_pairs, _mm512_set1_epi32(both));
                    }
                }
            }
            for p in 0..P {
                let d = load_f16(&tile[p].d);
                let dmin = load_f16(&tile[p].dmin);
                for t in 0..NT {
                    let products = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[p][t]), d);
                    let value = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(mins[p][t]), dmin, products);
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

    /// 16 values of each row.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn unpack(q: &Quad) -> [__m512i; 4] {
        let two_bits = _mm512_set1_epi8(3);
        let bytes = load(q);
        [
            _mm512_and_si512(bytes, two_bits),
            _mm512_and_si512(_mm512_srli_epi16::<2>(bytes), two_bits),
            _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), two_bits),
            _mm512_and_si512(_mm512_srli_epi16::<6>(bytes), two_bits),
        ]
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::Packed;
    use crate::matmul::blocks256::neon::NeonTile;
    use crate::simd::neon::registers::*;
    use crate::simd::neon::{Dot, Octet, Rows, each, load, load_f16, load_pairs, octet};

    impl NeonTile<16> for Packed<8> {
        #[inline(always)]
        fn octet<D: Dot>(&self, u: usize, h: usize) -> Octet {
            let b = load(&self.q[2 * u + h / 2]);
            let values = match h % 2 {
                0 => octet::<D>(b, b.map(|x| vshrq_n_u8::<2>(x))),
                _ => octet::<D>(b.map(|x| vshrq_n_u8::<4>(x)), b.map(|x| vshrq_n_u8::<6>(x))),
            };
            each(values, |x| vandq_u8(x, vdupq_n_u8(3)))
        }

        #[inline(always)]
        fn d(&self) -> Rows<float32x4_t> {
            load_f16(&self.d)
        }

        #[inline(always)]
        fn scales(&self) -> [Rows<int32x4_t>; 16] {
            of_pairs(&self.scales, |x| vandq_s32(x, vdupq_n_s32(0xf)))
        }

        #[inline(always)]
        fn mins(&self) -> Option<(Rows<float32x4_t>, [Rows<int32x4_t>; 16])> {
            Some((load_f16(&self.dmin), of_pairs(&self.scales, |x| vshrq_n_s32::<4>(x))))
        }
    }

    /// A part of each byte.
    #[inline(always)]
    fn of_pairs(pairs: &[[[u8; 2]; 8]; 8], part: impl Fn(int32x4_t) -> int32x4_t + Copy) -> [Rows<int32x4_t>; 16] {
        let mut parts = [[vdupq_n_s32(0); 2]; 16];
        for (to, pairs) in parts.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
            *to = load_pairs(pairs).map(|rows| rows.map(part));
        }
        parts
    }
}
