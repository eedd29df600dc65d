//! Q4_K: 2304 bytes a tile of 16 rows by 256 values, 4.5 bits a weight.
//!
//! ```text
//! d       16 x f16
//! dmin    16 x f16
//! scales  3 vectors Z0, Z1, Z2, 4 bytes a row. Bits 0..6: Z0 scales 0 to 3, Z1 scales 4 to 7, Z2 minima 0 to 3;
//!         bits 6..8 of Z0, Z1, Z2 are bits 0..2, 2..4, 4..6 of minima 4 to 7
//! q       32 vectors; in vector 8 p + g, 4 bytes a row: low nibbles = values 4 g.. of sub-block 2 p, high nibbles = of
//!         sub-block 2 p + 1
//! ```
//!
//! A high nibble is multiplied in its place, times 16. Sums of two sub-blocks, 16 bits each (the activations keep them so
//! small, see `block256`), share a lane, and one 16-bit dot product applies both scales.

use tensor::format::block::{F16Bytes, Unpacked};
use tensor::format::q4_k::Block;

use super::{Kernel, Tile, block_kernel, blocks256, by_rows, scalar as generic};
use crate::Isa;
use crate::activation::Form;

/// See the module.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Packed<const R: usize> {
    d: [F16Bytes; R],
    dmin: [F16Bytes; R],
    scales: [[[u8; 4]; R]; 3],
    q: Nibbles<R>,
}

/// 256 values of 4 bits: see `q` in the module.
pub(super) type Nibbles<const R: usize> = [[[[u8; 4]; R]; 8]; 4];

crate::simd::plain_bytes!(Packed, size_of::<Block>());

impl<const R: usize> Tile<256, 8> for Packed<R> {
    const ROWS: usize = R;

    fn put(&mut self, row: usize, block: &Unpacked<256, 8>) {
        self.d[row] = F16Bytes::from_f32(block.d);
        self.dmin[row] = F16Bytes::from_f32(block.dmin);
        put_scales(&mut self.scales, row, block);
        put_nibbles(&mut self.q, row, &block.q.map(|q| q as u8));
    }

    fn get(&self, row: usize) -> Unpacked<256, 8> {
        let q = get_nibbles(&self.q, row).map(|q| q as i8);
        let (scales, mins) = get_scales(&self.scales, row);
        Unpacked { d: self.d[row].to_f32(), dmin: self.dmin[row].to_f32(), scales, mins, q }
    }
}

/// Packs the values of a row.
pub(super) fn put_nibbles<const R: usize>(to: &mut Nibbles<R>, row: usize, values: &[u8; 256]) {
    for (to, values) in to.iter_mut().zip(values.as_chunks::<64>().0) {
        for (g, to) in to.iter_mut().enumerate() {
            to[row] = std::array::from_fn(|i| values[4 * g + i] | values[32 + 4 * g + i] << 4);
        }
    }
}

/// The values of a row.
pub(super) fn get_nibbles<const R: usize>(from: &Nibbles<R>, row: usize) -> [u8; 256] {
    std::array::from_fn(|k| from[k / 64][k % 32 / 4][row][k % 4] >> (k / 32 % 2 * 4) & 0xf)
}

/// Packs the 6-bit scales and minima of a row: see the module.
pub(super) fn put_scales<const R: usize>(to: &mut [[[u8; 4]; R]; 3], row: usize, block: &Unpacked<256, 8>) {
    for i in 0..4 {
        let high_min = block.mins[4 + i];
        to[0][row][i] = block.scales[i] as u8 | (high_min & 3) << 6;
        to[1][row][i] = block.scales[4 + i] as u8 | (high_min >> 2 & 3) << 6;
        to[2][row][i] = block.mins[i] | (high_min >> 4) << 6;
    }
}

/// The scales and minima of a row.
pub(super) fn get_scales<const R: usize>(from: &[[[u8; 4]; R]; 3], row: usize) -> ([i8; 8], [u8; 8]) {
    let z = |vector: usize, i: usize| from[vector][row][i % 4];
    let scales = std::array::from_fn(|j| (z(j / 4, j) & 63) as i8);
    let mins = std::array::from_fn(|j| match j {
        0..4 => z(2, j) & 63,
        _ => z(0, j) >> 6 | z(1, j) >> 6 << 2 | z(2, j) >> 6 << 4,
    });
    (scales, mins)
}

pub(super) fn kernel(isa: Isa) -> Kernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => blocks256::avx2::kernel::<Block, Packed<8>, 64, 2, 8>(),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => blocks256::avx_vnni::kernel::<Block, Packed<8>, 2, 8>(),
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
pub(super) mod avx512 {
    use std::arch::x86_64::*;

    use super::Packed;
    use crate::activation::Block256;
    use crate::matmul::TileArgs;
    use crate::matmul::blocks256::avx512::{Factors, Mins, Spread};
    use crate::simd::avx512::{Quad, load, load_f16, pair_sums, prefetch_near, store};
    use crate::simd::{rolled, rolled_over};

    impl Spread for Packed<16> {
        const CHAIN: usize = 16;
        const MINS: Mins = Mins::Of32;

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn spread(&self, to: &mut [__m512i; 64]) {
            for (q, to) in self.q.iter().zip(to.as_chunks_mut::<16>().0) {
                for g in 0..8 {
                    let bytes = load(&q[g]);
                    to[g] = _mm512_and_si512(bytes, _mm512_set1_epi8(0x0f));
                    to[8 + g] = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(0x0f));
                }
            }
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn factors(&self, to: &mut Factors) {
            to.scales[..4].copy_from_slice(&scale_pairs_of(&self.scales));
            to.mins = min_pairs_of(&self.scales);
            to.d = load_f16(&self.d);
            to.dmin = load_f16(&self.dmin);
        }
    }

    /// `P` panels times `NT` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(in crate::matmul) fn multiply<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        let blocks = Block256::<NT>::of_tile(args.activations);
        let tiles = bytemuck::cast_slice::<u8, Packed<16>>(args.weights);
        let tiles: [&[Packed<16>]; P] = std::array::from_fn(|p| &tiles[p * blocks.len()..][..blocks.len()]);
        let (pairs, groups) = (rolled(4), rolled(8));
        let (low_mask, high_mask) = (_mm512_set1_epi8(0x0f), _mm512_set1_epi8(0xf0_u8 as i8));
        let mut f = [[_mm512_setzero_ps(); NT]; P];
        for (b, a) in blocks.iter().enumerate() {
            let mut tile = [&tiles[0][b]; P];
            for p in 1..P {
                tile[p] = &tiles[p][b];
            }
            let mut scale_pairs = [[_mm512_setzero_si512(); P]; 4];
            for p in 0..P {
                let pairs = scale_pairs_of(&tile[p].scales);
                for j in 0..4 {
                    scale_pairs[j][p] = pairs[j];
                }
            }
            let mut sums = [[_mm512_setzero_si512(); NT]; P];
            // One loop, so that one instruction asks for all lines of a block in turn: unrolled by pairs, reading drops to two
            // thirds. Closures (`array::from_fn`) keep it rolled, too, but are called, which few rows lose 5 % by.
            let scale_pairs = rolled_over(&scale_pairs);
            let a_q = rolled_over(a.q.as_chunks::<16>().0);
            let mut all_q: [&[[Quad; 8]]; P] = [&[]; P];
            for p in 0..P {
                all_q[p] = rolled_over(&tile[p].q);
            }
            for pair in 0..pairs {
                let mut q: [&[Quad]; P] = [&[]; P];
                for p in 0..P {
                    q[p] = &all_q[p][pair][..groups];
                }
                let (a_low, a_high) = a_q[pair].split_at(8);
                let (a_low, a_high) = (&a_low[..groups], &a_high[..groups]);
                let mut low = [[_mm512_setzero_si512(); NT]; P];
                let mut high = [[_mm512_setzero_si512(); NT]; P];
                for g in 0..groups {
                    let mut w_low = [_mm512_setzero_si512(); P];
                    let mut w_high = [_mm512_setzero_si512(); P];
                    for p in 0..P {
                        // A chain's share at once, as elsewhere, was slower here.
                        prefetch_near(&q[p][g], args.ahead_bytes);
                        let bytes = load(&q[p][g]);
                        w_low[p] = _mm512_and_si512(bytes, low_mask);
                        w_high[p] = _mm512_and_si512(bytes, high_mask);
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
                    let scales = scale_pairs[pair][p];
                    for t in 0..NT {
                        // The high sums are times 16: 12 bits more make 16.
                        let both = pair_sums::<12>(low[p][t], high[p][t]);
                        sums[p][t] = _mm512_dpwssd_epi32(sums[p][t], both, scales);
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

    /// The scales of sub-blocks 2 j and 2 j + 1 as two 16-bit integers of each row, for j = 0..4.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::matmul) fn scale_pairs_of(scales: &[Quad; 3]) -> [__m512i; 4] {
        let six_bits = _mm512_set1_epi8(63);
        let first = _mm512_and_si512(load(&scales[0]), six_bits);
        let second = _mm512_and_si512(load(&scales[1]), six_bits);
        [low_pair(first), high_pair(first), low_pair(second), high_pair(second)]
    }

    /// The minima, likewise.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::matmul) fn min_pairs_of(scales: &[Quad; 3]) -> [__m512i; 4] {
        let [z0, z1, z2] = [load(&scales[0]), load(&scales[1]), load(&scales[2])];
        let first = _mm512_and_si512(z2, _mm512_set1_epi8(63));
        let bits_0 = _mm512_and_si512(_mm512_srli_epi16::<6>(z0), _mm512_set1_epi8(0x03));
        let bits_2 = _mm512_and_si512(_mm512_srli_epi16::<4>(z1), _mm512_set1_epi8(0x0c));
        let bits_4 = _mm512_and_si512(_mm512_srli_epi16::<2>(z2), _mm512_set1_epi8(0x30));
        let second = _mm512_or_si512(_mm512_or_si512(bits_0, bits_2), bits_4);
        [low_pair(first), high_pair(first), low_pair(second), high_pair(second)]
    }

    /// Bytes 0 and 1 of each lane as 16-bit integers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn low_pair(bytes: __m512i) -> __m512i {
        let i = |i: i32| 0x8001_8000_u32 as i32 + 0x0004_0004 * i;
        _mm512_shuffle_epi8(bytes, _mm512_set4_epi32(i(3), i(2), i(1), i(0)))
    }

    /// Bytes 2 and 3 of each lane as 16-bit integers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn high_pair(bytes: __m512i) -> __m512i {
        let i = |i: i32| 0x8003_8002_u32 as i32 + 0x0004_0004 * i;
        _mm512_shuffle_epi8(bytes, _mm512_set4_epi32(i(3), i(2), i(1), i(0)))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use std::arch::x86_64::*;

    use super::{Nibbles, Packed};
    use crate::matmul::blocks256::avx::{Factors, Mins, Unpack};
    use crate::simd::avx2::{Quad, bits, load, load_f16, loads, or};

    impl Unpack<64, 2> for Packed<8> {
        const CHAIN: usize = 16;
        const MINS: Mins = Mins::Of32;
        const EIGHT_ROWS: bool = true;

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn vectors(&self, c: usize, i: usize) -> [__m256i; 2] {
            nibbles(&self.q, c, i)
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn factors(&self, to: &mut Factors) {
            to.scales[..4].copy_from_slice(&scale_pairs_of(&self.scales));
            to.mins[..4].copy_from_slice(&min_pairs_of(&self.scales));
            to.d = load_f16(&self.d);
            to.dmin = load_f16(&self.dmin);
        }
    }

    /// Of sub-blocks 2 c and 2 c + 1 vector `i`.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::matmul) fn nibbles(from: &Nibbles<8>, c: usize, i: usize) -> [__m256i; 2] {
        let bytes = load(&from[c % 4][i % 8]);
        [bits::<0>(bytes, 0x0f), bits::<4>(bytes, 0x0f)]
    }

    /// The scales of sub-blocks 2 j and 2 j + 1 as two 16-bit integers of each row, for j = 0..4.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::matmul) fn scale_pairs_of(scales: &[Quad; 3]) -> [__m256i; 4] {
        let (first, second) = (bits::<0>(load(&scales[0]), 63), bits::<0>(load(&scales[1]), 63));
        [low_pair(first), high_pair(first), low_pair(second), high_pair(second)]
    }

    /// The minima, likewise.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::matmul) fn min_pairs_of(scales: &[Quad; 3]) -> [__m256i; 4] {
        let z = loads(scales);
        let first = bits::<0>(z[2], 63);
        let second = or(bits::<6>(z[0], 0x03), bits::<4>(z[1], 0x0c), bits::<2>(z[2], 0x30));
        [low_pair(first), high_pair(first), low_pair(second), high_pair(second)]
    }

    /// Bytes 0 and 1 of each lane as 16-bit integers.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn low_pair(bytes: __m256i) -> __m256i {
        let i = |i: i64| 0x8005_8004_8001_8000_u64 as i64 + 0x0008_0008_0008_0008 * i;
        _mm256_shuffle_epi8(bytes, _mm256_set_epi64x(i(1), i(0), i(1), i(0)))
    }

    /// Bytes 2 and 3 of each lane as 16-bit integers.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn high_pair(bytes: __m256i) -> __m256i {
        let i = |i: i64| 0x8007_8006_8003_8002_u64 as i64 + 0x0008_0008_0008_0008 * i;
        _mm256_shuffle_epi8(bytes, _mm256_set_epi64x(i(1), i(0), i(1), i(0)))
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod neon {
    use super::Packed;
    use crate::matmul::blocks256::neon::NeonTile;
    use crate::simd::neon::registers::*;
    use crate::simd::neon::{Dot, Octet, Quad, Rows, each, load, load_f16, load_octet, widen_quad};

    impl NeonTile<8> for Packed<8> {
        #[inline(always)]
        fn octet<D: Dot>(&self, u: usize, h: usize) -> Octet {
            nibbles::<D>(&self.q, u, h)
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

    /// Of sub-block `u`, values 8 h.. of each row.
    #[inline(always)]
    pub(in crate::matmul) fn nibbles<D: Dot>(from: &[[Quad; 8]; 4], u: usize, h: usize) -> Octet {
        let q = &from[u / 2];
        let bytes = load_octet::<D>(&q[2 * h], &q[2 * h + 1]);
        match u % 2 {
            0 => each(bytes, |x| vandq_u8(x, vdupq_n_u8(0x0f))),
            _ => each(bytes, |x| vshrq_n_u8::<4>(x)),
        }
    }

    /// The scales of the sub-blocks.
    #[inline(always)]
    pub(in crate::matmul) fn scales_of(scales: &[Quad; 3]) -> [Rows<int32x4_t>; 8] {
        let six_bits = |x: uint8x16_t| vandq_u8(x, vdupq_n_u8(63));
        let [a, b, c, d] = widen_quad(load(&scales[0]).map(six_bits));
        let [e, f, g, h] = widen_quad(load(&scales[1]).map(six_bits));
        [a, b, c, d, e, f, g, h]
    }

    /// The minima, likewise.
    #[inline(always)]
    pub(in crate::matmul) fn mins_of(scales: &[Quad; 3]) -> [Rows<int32x4_t>; 8] {
        let [z0, z1, z2] = scales.each_ref().map(load);
        let high = |half: usize| {
            let bits_2 = vsliq_n_u8::<2>(vshrq_n_u8::<6>(z0[half]), vshrq_n_u8::<6>(z1[half]));
            vsliq_n_u8::<4>(bits_2, vshrq_n_u8::<6>(z2[half]))
        };
        let [a, b, c, d] = widen_quad(z2.map(|x| vandq_u8(x, vdupq_n_u8(63))));
        let [e, f, g, h] = widen_quad([high(0), high(1)]);
        [a, b, c, d, e, f, g, h]
    }
}
