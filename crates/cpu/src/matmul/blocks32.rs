//! What the formats in blocks of 32 share. A tile is one block of each row of a panel, so that any whole number of blocks
//! makes a row.
//!
//! Values are unsigned in a tile; an offset goes into where the sums start.

/// Nibbles of 32 values: in vector `g`, 4 bytes a row, low nibbles = values 4 g.., high nibbles = values 16 + 4 g..
pub(super) type Nibbles<const R: usize> = [[[u8; 4]; R]; 4];

/// One bit of 32 values, 4 bytes a row: bit `g` of byte `i` belongs to value 4 g + i.
pub(super) type Bits<const R: usize> = [[u8; 4]; R];

pub(super) fn put_nibbles<const R: usize>(to: &mut Nibbles<R>, row: usize, values: &[u8; 32]) {
    for (g, to) in to.iter_mut().enumerate() {
        to[row] = std::array::from_fn(|i| values[4 * g + i] & 0xf | values[16 + 4 * g + i] << 4);
    }
}

pub(super) fn get_nibbles<const R: usize>(from: &Nibbles<R>, row: usize) -> [u8; 32] {
    std::array::from_fn(|k| from[k % 16 / 4][row][k % 4] >> (k / 16 * 4) & 0xf)
}

/// Bit 4 of each value.
pub(super) fn put_bits<const R: usize>(to: &mut Bits<R>, row: usize, values: &[u8; 32]) {
    to[row] = std::array::from_fn(|i| (0..8).map(|g| (values[4 * g + i] >> 4 & 1) << g).sum());
}

/// The bits, as bit 4.
pub(super) fn get_bits<const R: usize>(from: &Bits<R>, row: usize) -> [u8; 32] {
    std::array::from_fn(|k| (from[row][k % 4] >> (k / 4) & 1) << 4)
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::*;

    use super::{Bits, Nibbles};
    use crate::activation::Unit32;
    use crate::matmul::TileArgs;
    use crate::simd::avx512::{load, prefetch, store};

    /// `P` panels of tiles `T` times `NT` rows. `quad(tile, g)` are values 4 g.. of each row, too great by `OFFSET`, a power
    /// of two or 0; `scale(tile)` and `min(tile)` (added) apply to the block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(in crate::matmul) fn multiply<T: bytemuck::Pod, const OFFSET: u32, const P: usize, const NT: usize>(
        args: TileArgs<'_>,
        quad: impl Fn(&T, usize) -> __m512i,
        scale: impl Fn(&T) -> __m512,
        min: impl Fn(&T) -> Option<__m512>,
    ) {
        let (units, scales) = Unit32::<NT>::of_tile(args.activations);
        let tiles = bytemuck::cast_slice::<u8, T>(args.weights);
        let tiles: [&[T]; P] = std::array::from_fn(|p| &tiles[p * units.len()..][..units.len()]);
        let mut f = [[_mm512_setzero_ps(); NT]; P];
        for (u, unit) in units.iter().enumerate() {
            let mut sums = [[_mm512_setzero_si512(); NT]; P];
            if OFFSET > 0 {
                for t in 0..NT {
                    let start = _mm512_set1_epi32(unit.neg_sum[t]);
                    for p in 0..P {
                        sums[p][t] =
                            _mm512_sll_epi32(start, _mm_cvtsi32_si128(const { OFFSET.trailing_zeros() as i32 }));
                    }
                }
            }
            for p in 0..P {
                prefetch(&tiles[p][u], args.ahead_bytes);
            }
            for g in 0..8 {
                let mut weights = [_mm512_setzero_si512(); P];
                for p in 0..P {
                    weights[p] = quad(&tiles[p][u], g);
                }
                for t in 0..NT {
                    let a = _mm512_set1_epi32(unit.q[g][t]);
                    for p in 0..P {
                        sums[p][t] = _mm512_dpbusd_epi32(sums[p][t], weights[p], a);
                    }
                }
            }
            for p in 0..P {
                let d = scale(&tiles[p][u]);
                let m = min(&tiles[p][u]);
                for t in 0..NT {
                    // Times 2^exponent, by the bits.
                    let sum = _mm512_castps_si512(_mm512_cvtepi32_ps(sums[p][t]));
                    let scaled = _mm512_add_epi32(sum, _mm512_set1_epi32(unit.exponent[t]));
                    f[p][t] = _mm512_fmadd_ps(_mm512_castsi512_ps(scaled), d, f[p][t]);
                    if let Some(m) = m {
                        f[p][t] = _mm512_fmadd_ps(_mm512_set1_ps(unit.sum[t]), m, f[p][t]);
                    }
                }
            }
        }
        let (out, _) = args.out.as_chunks_mut::<16>();
        for p in 0..P {
            for t in 0..NT {
                store(&mut out[p * args.panel_stride / 16 + t], _mm512_mul_ps(f[p][t], _mm512_set1_ps(scales[t])));
            }
        }
    }

    /// Values 4 g.. of each row.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::matmul) fn nibbles(from: &Nibbles<16>, g: usize) -> __m512i {
        let bytes = load(&from[g % 4]);
        let shifted = if g < 4 { bytes } else { _mm512_srli_epi16::<4>(bytes) };
        _mm512_and_si512(shifted, _mm512_set1_epi8(0x0f))
    }

    /// Values 4 g.. of each row, with their fifth bit.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::matmul) fn nibbles_and_bits(from: &Nibbles<16>, high: &Bits<16>, g: usize) -> __m512i {
        /// a | (b & c)
        const OR_AND: i32 = 0xF8;
        let bit = _mm512_rolv_epi32(load(high), _mm512_set1_epi32((32 + 4 - g as i32) % 32));
        _mm512_ternarylogic_epi32::<OR_AND>(nibbles(from, g), bit, _mm512_set1_epi8(0x10))
    }

    /// Values 4 g.. of each row, from a table of 16 bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::matmul) fn from_table(from: &Nibbles<16>, table: &[u8; 16], g: usize) -> __m512i {
        // SAFETY: 16 bytes are behind the reference.
        let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
        _mm512_shuffle_epi8(table, nibbles(from, g))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    //! There is no product of bytes here that neither saturates nor mixes up signs. So products are added up in 16 bits
    //! where the weights are small enough, and where they are not, magnitudes are multiplied by activations with the
    //! weights' signs.
    //!
    //! A unit's weights come as 8 quads, in two halves of 4: quad `g` of half `h` are values 16 h + 4 g.. of each row.

    use std::arch::x86_64::*;

    use super::{Bits, Nibbles};
    use crate::activation::Unit32;
    use crate::matmul::TileArgs;
    use crate::simd::avx2::{load, pin, prefetch, store};

    /// `P` panels of tiles `T` times `NT` rows. `quad(tile, half, g)` are unsigned values, too great by `OFFSET`, a power of
    /// two or 0. They are at most 128 / `RUN`, where `RUN` is 4 or 8. `scale(tile)` and `min(tile)` (added) apply to the
    /// block.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::matmul) fn multiply<
        T: bytemuck::Pod,
        const OFFSET: u32,
        const RUN: usize,
        const P: usize,
        const NT: usize,
    >(
        args: TileArgs<'_>,
        quad: impl Fn(&T, usize, usize) -> __m256i,
        scale: impl Fn(&T) -> __m256,
        min: impl Fn(&T) -> Option<__m256>,
    ) {
        let sums = |tiles: [&T; P], unit: &Unit32<NT>| {
            let mut pairs = [[_mm256_setzero_si256(); NT]; P];
            for g in 0..4 {
                add_pairs(tiles, unit, 0, g, &quad, &mut pairs);
                if RUN == 8 {
                    add_pairs(tiles, unit, 1, g, &quad, &mut pairs);
                }
            }
            let mut sums = [[_mm256_setzero_si256(); NT]; P];
            add_halves(&mut sums, &pairs);
            if RUN < 8 {
                pairs = [[_mm256_setzero_si256(); NT]; P];
                for g in 0..4 {
                    add_pairs(tiles, unit, 1, g, &quad, &mut pairs);
                }
                add_halves(&mut sums, &pairs);
            }
            if OFFSET > 0 {
                for t in 0..NT {
                    let shift = _mm_cvtsi32_si128(const { OFFSET.trailing_zeros() as i32 });
                    let start = _mm256_sll_epi32(_mm256_set1_epi32(unit.neg_sum[t]), shift);
                    for p in 0..P {
                        sums[p][t] = _mm256_add_epi32(sums[p][t], start);
                    }
                }
            }
            sums
        };
        multiply_by::<T, P, NT>(args, sums, scale, min);
    }

    /// The same with signed values.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::matmul) fn multiply_signed<T: bytemuck::Pod, const P: usize, const NT: usize>(
        args: TileArgs<'_>,
        quad: impl Fn(&T, usize, usize) -> __m256i,
        scale: impl Fn(&T) -> __m256,
    ) {
        let sums = |tiles: [&T; P], unit: &Unit32<NT>| {
            let mut sums = [[_mm256_setzero_si256(); NT]; P];
            for g in 0..4 {
                add_signed(tiles, unit, 0, g, &quad, &mut sums);
                add_signed(tiles, unit, 1, g, &quad, &mut sums);
            }
            sums
        };
        multiply_by::<T, P, NT>(args, sums, scale, |_| None);
    }

    /// What both have in common: `sums` are the exact sums of a unit's products.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn multiply_by<T: bytemuck::Pod, const P: usize, const NT: usize>(
        args: TileArgs<'_>,
        sums: impl Fn([&T; P], &Unit32<NT>) -> [[__m256i; NT]; P],
        scale: impl Fn(&T) -> __m256,
        min: impl Fn(&T) -> Option<__m256>,
    ) {
        let (units, scales) = Unit32::<NT>::of_tile(args.activations);
        let tiles = bytemuck::cast_slice::<u8, T>(args.weights);
        let tiles: [&[T]; P] = std::array::from_fn(|p| &tiles[p * units.len()..][..units.len()]);
        let mut f = [[_mm256_setzero_ps(); NT]; P];
        for (u, unit) in units.iter().enumerate() {
            let tile: [&T; P] = std::array::from_fn(|p| &tiles[p][u]);
            for p in 0..P {
                prefetch(tile[p], args.ahead_bytes);
            }
            let sums = sums(tile, unit);
            for p in 0..P {
                let d = scale(tile[p]);
                let m = min(tile[p]);
                for t in 0..NT {
                    // Times 2^exponent, by the bits.
                    let sum = _mm256_castps_si256(_mm256_cvtepi32_ps(sums[p][t]));
                    let scaled = _mm256_add_epi32(sum, _mm256_set1_epi32(unit.exponent[t]));
                    f[p][t] = _mm256_fmadd_ps(_mm256_castsi256_ps(scaled), d, f[p][t]);
                    if let Some(m) = m {
                        f[p][t] = _mm256_fmadd_ps(_mm256_set1_ps(unit.sum[t]), m, f[p][t]);
                    }
                }
            }
        }
        let (out, _) = args.out.as_chunks_mut::<8>();
        for p in 0..P {
            for t in 0..NT {
                store(&mut out[p * args.panel_stride / 8 + t], _mm256_mul_ps(f[p][t], _mm256_set1_ps(scales[t])));
            }
        }
    }

    /// Adds the products of a quad, in 16 bits: two of each row.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add_pairs<T, const P: usize, const NT: usize>(
        tiles: [&T; P],
        unit: &Unit32<NT>,
        half: usize,
        g: usize,
        quad: &impl Fn(&T, usize, usize) -> __m256i,
        pairs: &mut [[__m256i; NT]; P],
    ) {
        let mut weights = [_mm256_setzero_si256(); P];
        for p in 0..P {
            weights[p] = quad(tiles[p], half, g);
        }
        for t in 0..NT {
            let a = _mm256_set1_epi32(unit.q[4 * half + g][t]);
            for p in 0..P {
                // Two products are at most 2 * 128 / RUN * 127: RUN of these fit into 16 bits.
                pairs[p][t] = _mm256_add_epi16(pairs[p][t], _mm256_maddubs_epi16(weights[p], a));
            }
        }
        pin(pairs);
    }

    /// sums += both halves of `pairs`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add_halves<const P: usize, const NT: usize>(sums: &mut [[__m256i; NT]; P], pairs: &[[__m256i; NT]; P]) {
        for p in 0..P {
            for t in 0..NT {
                sums[p][t] = _mm256_add_epi32(sums[p][t], _mm256_madd_epi16(pairs[p][t], _mm256_set1_epi16(1)));
            }
        }
    }

    /// Adds the products of a quad of signed weights.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add_signed<T, const P: usize, const NT: usize>(
        tiles: [&T; P],
        unit: &Unit32<NT>,
        half: usize,
        g: usize,
        quad: &impl Fn(&T, usize, usize) -> __m256i,
        sums: &mut [[__m256i; NT]; P],
    ) {
        let mut weights = [_mm256_setzero_si256(); P];
        let mut magnitudes = [_mm256_setzero_si256(); P];
        for p in 0..P {
            weights[p] = quad(tiles[p], half, g);
            magnitudes[p] = _mm256_abs_epi8(weights[p]);
        }
        for t in 0..NT {
            let a = _mm256_set1_epi32(unit.q[4 * half + g][t]);
            for p in 0..P {
                // At most 2 * 128 * 127: no saturation. |-128| is 128 as an unsigned byte, and no activation is -128.
                let pairs = _mm256_maddubs_epi16(magnitudes[p], _mm256_sign_epi8(a, weights[p]));
                sums[p][t] = _mm256_add_epi32(sums[p][t], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
        }
        pin(sums);
    }

    /// A quad.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::matmul) fn nibbles(from: &Nibbles<8>, half: usize, g: usize) -> __m256i {
        let bytes = load(&from[g]);
        let shifted = if half == 0 { bytes } else { _mm256_srli_epi16::<4>(bytes) };
        _mm256_and_si256(shifted, _mm256_set1_epi8(0x0f))
    }

    /// A quad with its fifth bits.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::matmul) fn nibbles_and_bits(from: &Nibbles<8>, high: &Bits<8>, half: usize, g: usize) -> __m256i {
        let bits = load(high);
        // Bit 4 half + g of each byte becomes bit 4; what comes from a neighbouring byte does not get that far.
        let shifted = match half {
            0 => _mm256_sllv_epi32(bits, _mm256_set1_epi32([4, 3, 2, 1][g])),
            _ => _mm256_srlv_epi32(bits, _mm256_set1_epi32([0, 1, 2, 3][g])),
        };
        _mm256_or_si256(nibbles(from, half, g), _mm256_and_si256(shifted, _mm256_set1_epi8(0x10)))
    }

    /// A quad from a table of 16 bytes.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::matmul) fn from_table(from: &Nibbles<8>, table: &[u8; 16], half: usize, g: usize) -> __m256i {
        // SAFETY: 16 bytes are behind the reference.
        let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
        _mm256_shuffle_epi8(table, nibbles(from, half, g))
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod neon {
    use bytemuck::Pod;
    use tensor::format::block::Block;

    use super::{Bits, Nibbles};
    use crate::Isa;
    use crate::activation::{Form, Unit32};
    use crate::matmul::{Kernel, Tile, TileArgs, block_kernel, by_rows};
    use crate::simd::neon::registers::*;
    use crate::simd::neon::{
        Dot, Dotprod, I8mm, Octet, Rows, Sums, each, load, load_octet, load_table, octet, prefetch,
    };

    /// What a format's tile of 8 rows has to tell.
    pub(in crate::matmul) trait NeonTile: Pod {
        /// What the values are too great by: a power of two, or 0.
        const OFFSET: u32 = 0;

        /// Values 8 h.. of each row; signed.
        fn octet<D: Dot>(&self, h: usize) -> Octet;

        /// The scales.
        fn scale(&self) -> Rows<float32x4_t>;

        /// What is added, if anything.
        fn min(&self) -> Option<Rows<float32x4_t>> {
            None
        }
    }

    /// The kernels of tiles `T`.
    pub(in crate::matmul) fn kernel<B: Block<32, 1>, T: NeonTile + Tile<32, 1>>(isa: Isa) -> Kernel {
        let one = match isa {
            Isa::NeonI8mm => by_rows!(i8mm::<T, NT>; 1 2 3 4 5 6),
            _ => by_rows!(dotprod::<T, NT>; 1 2 3 4 5 6),
        };
        block_kernel::<B, T, 32, 1>(Form::Block32, one, &[])
    }

    #[target_feature(enable = "neon,fp16,dotprod")]
    fn dotprod<T: NeonTile, const NT: usize>(args: TileArgs<'_>) {
        multiply::<T, Dotprod, NT>(args);
    }

    #[target_feature(enable = "neon,fp16,dotprod,i8mm")]
    fn i8mm<T: NeonTile, const NT: usize>(args: TileArgs<'_>) {
        multiply::<T, I8mm, NT>(args);
    }

    /// One panel times `NT` rows.
    #[inline(always)]
    fn multiply<T: NeonTile, D: Dot, const NT: usize>(args: TileArgs<'_>) {
        let (units, scales) = Unit32::<NT>::of_tile(args.activations);
        let tiles = &bytemuck::cast_slice::<u8, T>(args.weights)[..units.len()];
        let columns = D::columns::<NT>();
        let mut f: Sums<float32x4_t> = [[vdupq_n_f32(0.0); 2]; _];
        for (tile, unit) in tiles.iter().zip(units) {
            prefetch::<T, 1>(tile, 0, args.ahead_bytes);
            let mut sums: Sums<int32x4_t> = [[vdupq_n_s32(0); 2]; _];
            if T::OFFSET > 0 {
                let shift = vdupq_n_s32(const { T::OFFSET.trailing_zeros() as i32 });
                for c in 0..columns {
                    sums[c] = [vshlq_s32(D::of_column(&unit.neg_sum, c), shift); 2];
                }
            }
            let activations = unit.q.as_chunks::<2>().0;
            for h in 0..4 {
                D::add_products(&mut sums, &tile.octet::<D>(h), &activations[h]);
            }
            let d = D::floats_of_rows(tile.scale());
            let m = tile.min().map(D::floats_of_rows);
            for c in 0..columns {
                let exponent = D::of_column(&unit.exponent, c);
                let sum = D::floats_of_column(&unit.sum, c);
                for half in 0..2 {
                    // Times 2^exponent, by the bits.
                    let bits = vreinterpretq_s32_f32(vcvtq_f32_s32(sums[c][half]));
                    let scaled = vreinterpretq_f32_s32(vaddq_s32(bits, exponent));
                    f[c][half] = vfmaq_f32(f[c][half], scaled, d[c % 2][half]);
                    if let Some(m) = m {
                        f[c][half] = vfmaq_f32(f[c][half], sum, m[c % 2][half]);
                    }
                }
            }
        }
        for c in 0..columns {
            let scale = D::floats_of_column(scales, c);
            f[c] = f[c].map(|f| vmulq_f32(f, scale));
        }
        D::store::<NT>(args.out.as_chunks_mut::<8>().0, &f);
    }

    /// Values 8 h.. of each row.
    #[inline(always)]
    pub(in crate::matmul) fn nibbles<D: Dot>(from: &Nibbles<8>, h: usize) -> Octet {
        let bytes = load_octet::<D>(&from[2 * h % 4], &from[2 * h % 4 + 1]);
        if h < 2 { each(bytes, |x| vandq_u8(x, vdupq_n_u8(0x0f))) } else { each(bytes, |x| vshrq_n_u8::<4>(x)) }
    }

    /// Values 8 h.. of each row, with their fifth bit.
    #[inline(always)]
    pub(in crate::matmul) fn nibbles_and_bits<D: Dot>(from: &Nibbles<8>, high: &Bits<8>, h: usize) -> Octet {
        let high = load(high);
        // Bit g to bit 4.
        let bits = |g: usize| {
            let shift = vdupq_n_s8(4 - g as i8);
            high.map(|high| vandq_u8(vshlq_u8(high, shift), vdupq_n_u8(0x10)))
        };
        let (low, high) = (nibbles::<D>(from, h), octet::<D>(bits(2 * h), bits(2 * h + 1)));
        let or = |half: usize, i: usize| vorrq_u8(low[half][i], high[half][i]);
        [[or(0, 0), or(0, 1)], [or(1, 0), or(1, 1)]]
    }

    /// Values 8 h.. of each row, from a table of 16.
    #[inline(always)]
    pub(in crate::matmul) fn from_table<D: Dot>(from: &Nibbles<8>, table: &[i8; 16], h: usize) -> Octet {
        let table = load_table(table);
        each(nibbles::<D>(from, h), |index| vqtbl1q_u8(table, index))
    }
}
