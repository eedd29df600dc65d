//! Q5_K: 2816 bytes a tile of 16 rows by 256 values, 5.5 bits a weight.
//!
//! ```text
//! d       16 x f16
//! dmin    16 x f16
//! scales  as in Q4_K
//! q       for each sub-block of 32 values 5 vectors of 4 bytes a row that hold eight (v0 to v7, vg = values 4 g.. of the
//!         sub-block): bits 0..5 of vector g = vg
//!         bits 5..8 of vectors 0, 1, 2 = bits 0..3 of v5, v6, v7
//!         bits 5, 6..8 of vector 3 = bit 3 of v7, bits 3..5 of v5
//!         bits 5, 6..8 of vector 4 = bit 4 of v7, bits 3..5 of v6
//! ```

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::q5_k::Block;

use super::q4_k::{get_scales, put_scales};
use super::{Kernel, Tile, block_kernel, blocks256, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// See the module.
#[derive(Clone, Copy)]
#[repr(C)]
struct Packed<const R: usize> {
    d: [F16Bytes; R],
    dmin: [F16Bytes; R],
    scales: [[[u8; 4]; R]; 3],
    q: [[[[u8; 4]; R]; 5]; 8],
}

crate::simd::plain_bytes!(Packed, size_of::<Block>());

impl<const R: usize> Tile<256, 8> for Packed<R> {
    const ROWS: usize = R;

    fn put(&mut self, row: usize, block: &Unpacked<256, 8>) {
        self.d[row] = F16Bytes::from_f32(block.d);
        self.dmin[row] = F16Bytes::from_f32(block.dmin);
        put_scales(&mut self.scales, row, block);
        for (to, q) in self.q.iter_mut().zip(block.q.as_chunks::<32>().0) {
            let words = std::array::from_fn(|g| u32::from_le_bytes(q.as_chunks().0[g].map(|q: i8| q as u8)));
            for (to, word) in to.iter_mut().zip(eight_in_five(words)) {
                to[row] = word.to_le_bytes();
            }
        }
    }

    fn get(&self, row: usize) -> Unpacked<256, 8> {
        let mut q = [0; 256];
        for (from, q) in self.q.iter().zip(q.as_chunks_mut::<32>().0) {
            for i in 0..4 {
                let values = eight_of_five(std::array::from_fn(|g| from[g][row][i]));
                for (g, value) in values.into_iter().enumerate() {
                    q[4 * g + i] = value as i8;
                }
            }
        }
        let (scales, mins) = get_scales(&self.scales, row);
        Unpacked { d: self.d[row].to_f32(), dmin: self.dmin[row].to_f32(), scales, mins, q }
    }
}

/// Eight values of 5 bits, four times side by side in the bytes of words: see the module.
fn eight_in_five(v: [u32; 8]) -> [u32; 5] {
    const EACH: u32 = 0x0101_0101;
    let low_three = |x: u32| (x & (7 * EACH)) << 5;
    let high_two = |x: u32| (x >> 3 & (3 * EACH)) << 6;
    [
        v[0] | low_three(v[5]),
        v[1] | low_three(v[6]),
        v[2] | low_three(v[7]),
        v[3] | (v[7] >> 3 & EACH) << 5 | high_two(v[5]),
        v[4] | (v[7] >> 4 & EACH) << 5 | high_two(v[6]),
    ]
}

/// The values.
fn eight_of_five(b: [u8; 5]) -> [u8; 8] {
    let low = b.map(|byte| byte & 31);
    let v5 = b[0] >> 5 | b[3] >> 6 << 3;
    let v6 = b[1] >> 5 | b[4] >> 6 << 3;
    let v7 = b[2] >> 5 | (b[3] >> 5 & 1) << 3 | (b[4] >> 5 & 1) << 4;
    [low[0], low[1], low[2], low[3], low[4], v5, v6, v7]
}

pub(super) fn kernel(isa: Isa) -> Kernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => blocks256::avx2::kernel::<Block, Packed<8>, 64, 8, 8>(),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => blocks256::avx_vnni::kernel::<Block, Packed<8>, 8, 8>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => {
            let one = by_rows!(avx512::multiply::<1, NT>; 1 2 3 4);
            let two = by_rows!(avx512::multiply::<2, NT>; 1 2 3 4);
            blocks256::avx512::kernel::<Block, Packed<16>, 8>(one, two)
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

    use super::Packed;
    use crate::matmul::blocks256::avx::{Factors, Mins, Unpack};
    use crate::matmul::q4_k::avx2::{min_pairs_of, scale_pairs_of};
    use crate::simd::avx2::{bits, load_f16, loads, or, pair_sums};

    impl Unpack<64, 8> for Packed<8> {
        const CHAIN: usize = 8;
        const MINS: Mins = Mins::Of32;

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn vectors(&self, c: usize, _: usize) -> [__m256i; 8] {
            let b = loads(&self.q[c % 8]);
            [
                bits::<0>(b[0], 31),
                bits::<0>(b[1], 31),
                bits::<0>(b[2], 31),
                bits::<0>(b[3], 31),
                bits::<0>(b[4], 31),
                _mm256_or_si256(bits::<5>(b[0], 0x07), bits::<3>(b[3], 0x18)),
                _mm256_or_si256(bits::<5>(b[1], 0x07), bits::<3>(b[4], 0x18)),
                or(bits::<5>(b[2], 0x07), bits::<2>(b[3], 0x08), bits::<1>(b[4], 0x10)),
            ]
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn factors(&self, to: &mut Factors) {
            let scales = scale_pairs_of(&self.scales);
            for c in 0..8 {
                to.scales[c] = scales[c / 2];
            }
            to.mins[..4].copy_from_slice(&min_pairs_of(&self.scales));
            to.d = load_f16(&self.d);
            to.dmin = load_f16(&self.dmin);
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn factors_in_order(&self, to: &mut Factors) {
            // SAFETY: the features of this function.
            unsafe { self.factors(to) };
            for (c, pair) in scale_pairs_of(&self.scales).into_iter().enumerate() {
                to.scales[2 * c] = pair_sums(pair, pair);
                to.scales[2 * c + 1] = high_twice(pair);
            }
        }
    }

    /// The high half of each lane as both.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn high_twice(pair: __m256i) -> __m256i {
        _mm256_blend_epi16::<0b0101_0101>(pair, _mm256_srli_epi32::<16>(pair))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::Packed;
    use crate::activation::Block256;
    use crate::matmul::TileArgs;
    use crate::matmul::blocks256::avx512::{Factors, Mins, Spread};
    use crate::matmul::q4_k::avx512::min_pairs_of;
    use crate::simd::avx512::{Quad, load, load_f16, pair_sums, prefetch_part_near, store};
    use crate::simd::rolled;

    impl Spread for Packed<16> {
        const CHAIN: usize = 8;
        const MINS: Mins = Mins::Of32;

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
            to.scales = scales_of(&self.scales);
            to.mins = min_pairs_of(&self.scales);
            to.d = load_f16(&self.d);
            to.dmin = load_f16(&self.dmin);
        }
    }

    /// `P` panels times `NT` rows. The sums of 32 products are too great for 16 bits, those of 16 are not: each half of a
    /// sub-block has a sum of its own, and both have the same scale.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn multiply<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        let blocks = Block256::<NT>::of_tile(args.activations);
        let tiles = bytemuck::cast_slice::<u8, Packed<16>>(args.weights);
        let tiles: [&[Packed<16>]; P] = std::array::from_fn(|p| &tiles[p * blocks.len()..][..blocks.len()]);
        let subs = rolled(8);
        let mut f = [[_mm512_setzero_ps(); NT]; P];
        for (b, a) in blocks.iter().enumerate() {
            let tile: [&Packed<16>; P] = std::array::from_fn(|p| &tiles[p][b]);
            let mut scales = [[_mm512_setzero_si512(); P]; 8];
            for p in 0..P {
                let of_tile = scales_of(&tile[p].scales);
                for j in 0..8 {
                    scales[j][p] = of_tile[j];
                }
            }
            let q: [_; P] = std::array::from_fn(|p| &tile[p].q[..subs]);
            let a_q = &a.q.as_chunks::<8>().0[..subs];
            let mut sums = [[_mm512_setzero_si512(); NT]; P];
            for j in 0..subs {
                let mut low = [[_mm512_setzero_si512(); NT]; P];
                let mut high = [[_mm512_setzero_si512(); NT]; P];
                let mut weights = [[_mm512_setzero_si512(); 4]; P];
                for p in 0..P {
                    prefetch_part_near(tile[p], j, 8, args.ahead_bytes);
                    weights[p] = first_four(&q[p][j]);
                }
                for g in 0..4 {
                    for t in 0..NT {
                        let a = _mm512_set1_epi32(a_q[j][g][t]);
                        for p in 0..P {
                            low[p][t] = _mm512_dpbusd_epi32(low[p][t], weights[p][g], a);
                        }
                    }
                }
                for p in 0..P {
                    weights[p] = last_four(&q[p][j]);
                }
                for g in 0..4 {
                    for t in 0..NT {
                        let a = _mm512_set1_epi32(a_q[j][4 + g][t]);
                        for p in 0..P {
                            high[p][t] = _mm512_dpbusd_epi32(high[p][t], weights[p][g], a);
                        }
                    }
                }
                for p in 0..P {
                    for t in 0..NT {
                        let both = pair_sums::<16>(low[p][t], high[p][t]);
                        sums[p][t] = _mm512_dpwssd_epi32(sums[p][t], both, scales[j % 8][p]);
                    }
                }
            }
            for p in 0..P {
                let d = load_f16(&tile[p].d);
                let dmin = load_f16(&tile[p].dmin);
                let mins = min_pairs_of(&tile[p].scales);
                for t in 0..NT {
                    let mut m = _mm512_setzero_si512();
                    for j in 0..4 {
                        m = _mm512_dpwssd_epi32(m, mins[j], _mm512_set1_epi32(a.sum32_pairs[j][t]));
                    }
                    let products = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[p][t]), d);
                    let value = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(m), dmin, products);
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

    /// The scale of each sub-block, twice as a 16-bit integer.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn scales_of(scales: &[Quad; 3]) -> [__m512i; 8] {
        let six_bits = _mm512_set1_epi8(63);
        let first = _mm512_and_si512(load(&scales[0]), six_bits);
        let second = _mm512_and_si512(load(&scales[1]), six_bits);
        let mut twice = [_mm512_setzero_si512(); 8];
        for j in 0..4 {
            twice[j] = byte_twice(first, j as i32);
            twice[4 + j] = byte_twice(second, j as i32);
        }
        twice
    }

    /// Byte `j` of each lane as both of its 16-bit integers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn byte_twice(bytes: __m512i, j: i32) -> __m512i {
        let i = |i: i32| 0x8000_8000_u32 as i32 + 0x0001_0001 * j + 0x0004_0004 * i;
        _mm512_shuffle_epi8(bytes, _mm512_set4_epi32(i(3), i(2), i(1), i(0)))
    }

    /// Values 0 to 15 of a sub-block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn first_four(q: &[Quad; 5]) -> [__m512i; 4] {
        let five_bits = _mm512_set1_epi8(31);
        [
            _mm512_and_si512(load(&q[0]), five_bits),
            _mm512_and_si512(load(&q[1]), five_bits),
            _mm512_and_si512(load(&q[2]), five_bits),
            _mm512_and_si512(load(&q[3]), five_bits),
        ]
    }

    /// Values 16 to 31 of a sub-block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn last_four(q: &[Quad; 5]) -> [__m512i; 4] {
        /// mask ? b : c
        const SELECT: i32 = 0xCA;
        let five_bits = _mm512_set1_epi8(31);
        let (three_bits, four_bits) = (_mm512_set1_epi8(7), _mm512_set1_epi8(15));
        let b = [load(&q[0]), load(&q[1]), load(&q[2]), load(&q[3]), load(&q[4])];
        // Shifts of 16-bit lanes: what comes from the byte above is masked or selected away.
        let low = [_mm512_srli_epi16::<5>(b[0]), _mm512_srli_epi16::<5>(b[1]), _mm512_srli_epi16::<5>(b[2])];
        let v5 = _mm512_ternarylogic_epi32::<SELECT>(three_bits, low[0], _mm512_srli_epi16::<3>(b[3]));
        let v6 = _mm512_ternarylogic_epi32::<SELECT>(three_bits, low[1], _mm512_srli_epi16::<3>(b[4]));
        let v7 = _mm512_ternarylogic_epi32::<SELECT>(three_bits, low[2], _mm512_srli_epi16::<2>(b[3]));
        let v7 = _mm512_ternarylogic_epi32::<SELECT>(four_bits, v7, _mm512_srli_epi16::<1>(b[4]));
        [
            _mm512_and_si512(b[4], five_bits),
            _mm512_and_si512(v5, five_bits),
            _mm512_and_si512(v6, five_bits),
            _mm512_and_si512(v7, five_bits),
        ]
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::Packed;
    use crate::matmul::blocks256::neon::NeonTile;
    use crate::matmul::q4_k::neon::{mins_of, scales_of};
    use crate::simd::neon::registers::*;
    use crate::simd::neon::{Dot, Octet, Rows, each, load, load_f16, load_octet, octet};

    impl NeonTile<8> for Packed<8> {
        #[inline(always)]
        fn octet<D: Dot>(&self, u: usize, h: usize) -> Octet {
            let q = &self.q[u];
            let five_bits = |x: uint8x16_t| vandq_u8(x, vdupq_n_u8(31));
            if h < 2 {
                return each(load_octet::<D>(&q[2 * h], &q[2 * h + 1]), five_bits);
            }
            let b = q.each_ref().map(load);
            // What is inserted above the bits that belong there is masked off at the end.
            let upper =
                |low: uint8x16_t, high: uint8x16_t| vsliq_n_u8::<3>(vshrq_n_u8::<5>(low), vshrq_n_u8::<6>(high));
            let seventh = |half: usize| {
                let [b2, b3, b4] = [b[2][half], b[3][half], b[4][half]].map(|x| vshrq_n_u8::<5>(x));
                vsliq_n_u8::<4>(vsliq_n_u8::<3>(b2, b3), b4)
            };
            let values = match h {
                2 => octet::<D>(b[4], [upper(b[0][0], b[3][0]), upper(b[0][1], b[3][1])]),
                _ => octet::<D>([upper(b[1][0], b[4][0]), upper(b[1][1], b[4][1])], [seventh(0), seventh(1)]),
            };
            each(values, five_bits)
        }

        #[inline(always)]
        fn d(&self) -> Rows<float32x4_t> {
            load_f16(&self.d)
        }

        #[inline(always)]
        fn scales(&self) -> [Rows<int32x4_t>; 8] {
            scales_of(&self.scales)
        }

        #[inline(always)]
        fn mins(&self) -> Option<(Rows<float32x4_t>, [Rows<int32x4_t>; 8])> {
            Some((load_f16(&self.dmin), mins_of(&self.scales)))
        }
    }
}
