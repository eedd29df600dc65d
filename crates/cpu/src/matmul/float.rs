//! Float weights: F32, F16, BF16. Values of a panel stand as `[value][row]`, padded with zeros to a multiple of
//! [`FLOAT_PAD`] values, and are widened to f32, which is exact, where they are multiplied.
//!
//! Products are added up over [`CHAIN`] values, and these sums are added up in turn: consecutive chains overlap in the
//! processor, where a single one would wait for each sum, and the rounding error is smaller.

use half::{bf16, f16};

use super::{Kernel, TileArgs, TileFn, by_rows};
use crate::Isa;
use crate::activation::{FLOAT_PAD, Form};

/// Values whose products are added up before they join the total. Divides [`FLOAT_PAD`].
const CHAIN: usize = 32;

/// The kernel for weights of a [`Value`] of so many bytes; `$f` names it in the modules of the instruction sets.
macro_rules! kernel {
    ($isa:expr, $value:ty, $bytes:literal, $f:ident) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => {
                let one = by_rows!(avx512::$f::<1, NT>; 1 2 3 4 5 6);
                let two = by_rows!(avx512::$f::<2, NT>; 1 2 3 4 5 6);
                layout::<$value, $bytes, 16>(one, two)
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => {
                let one = by_rows!(avx2::$f::<1, NT>; 1 2 3 4 5 6);
                let two = by_rows!(avx2::$f::<2, NT>; 1 2 3 4 5 6);
                layout::<$value, $bytes, 8>(one, two)
            }
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::NeonI8mm => {
                layout::<$value, $bytes, 8>(by_rows!(neon::$f::<NT>; 1 2 3 4 5 6), &[])
            }
            _ => layout::<$value, $bytes, 8>(by_rows!(scalar::<$value, $bytes, 8, NT>; 1), &[]),
        }
    };
}

pub(super) fn f32_kernel(isa: Isa) -> Kernel {
    kernel!(isa, f32, 4, f32s)
}

pub(super) fn f16_kernel(isa: Isa) -> Kernel {
    kernel!(isa, f16, 2, f16s)
}

pub(super) fn bf16_kernel(isa: Isa) -> Kernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => super::bf16_pairs::kernel(),
        _ => kernel!(isa, bf16, 2, bf16s),
    }
}

/// A weight of `BYTES` bytes, as files have it.
trait Value<const BYTES: usize> {
    /// The value, exactly.
    fn widen(bytes: [u8; BYTES]) -> f32;
}

impl Value<4> for f32 {
    fn widen(bytes: [u8; 4]) -> f32 {
        f32::from_le_bytes(bytes)
    }
}

impl Value<2> for f16 {
    fn widen(bytes: [u8; 2]) -> f32 {
        f16::from_le_bytes(bytes).to_f32()
    }
}

impl Value<2> for bf16 {
    fn widen(bytes: [u8; 2]) -> f32 {
        bf16::from_le_bytes(bytes).to_f32()
    }
}

fn layout<V: Value<BYTES>, const BYTES: usize, const R: usize>(
    one: &'static [TileFn],
    two: &'static [TileFn],
) -> Kernel {
    Kernel {
        form: Form::F32,
        panel_bytes: |cols| cols.next_multiple_of(FLOAT_PAD) * R * BYTES,
        pack: |rows, panel| {
            let columns = panel.as_chunks_mut::<BYTES>().0.chunks_exact_mut(R);
            for (index, column) in columns.enumerate() {
                for (value, row) in column.iter_mut().zip(rows) {
                    if let Some(bytes) = row.as_chunks::<BYTES>().0.get(index) {
                        *value = *bytes;
                    }
                }
            }
        },
        unpack: |panel, row, out| {
            for (column, out) in panel.as_chunks::<BYTES>().0.chunks_exact(R).zip(out) {
                *out = V::widen(column[row]);
            }
        },
        one,
        two,
        sweep: None,
    }
}

fn scalar<V: Value<BYTES>, const BYTES: usize, const R: usize, const NT: usize>(args: TileArgs<'_>) {
    let activations = bytemuck::cast_slice::<u32, [f32; NT]>(args.activations);
    let weights = args.weights.as_chunks::<BYTES>().0.chunks_exact(R);
    let mut total = [[0.0_f32; R]; NT];
    let mut chain = [[0.0_f32; R]; NT];
    for (index, (weights, a)) in weights.zip(activations).enumerate() {
        for t in 0..NT {
            for row in 0..R {
                chain[t][row] = V::widen(weights[row]).mul_add(a[t], chain[t][row]);
            }
        }
        if (index + 1).is_multiple_of(CHAIN) {
            for t in 0..NT {
                for row in 0..R {
                    total[t][row] += chain[t][row];
                }
            }
            chain = [[0.0; R]; NT];
        }
    }
    args.out[..NT * R].copy_from_slice(total.as_flattened());
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::CHAIN;
    use crate::matmul::TileArgs;
    use crate::simd::avx512::{load, load_f16, load_u16, prefetch_near, store};
    use crate::simd::rolled;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn f32s<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        multiply::<_, P, NT>(args, |values| _mm512_castsi512_ps(load(values)));
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn f16s<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        multiply::<_, P, NT>(args, |values| load_f16(values));
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn bf16s<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        multiply::<_, P, NT>(args, |values| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(load_u16(values))));
    }

    /// `P` panels times `NT` rows. `widen` makes f32 of a value of each row.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn multiply<V: bytemuck::AnyBitPattern, const P: usize, const NT: usize>(
        args: TileArgs<'_>,
        widen: impl Fn(&[V; 16]) -> __m512,
    ) {
        let chains = args.activations.as_chunks::<NT>().0.as_chunks::<CHAIN>().0;
        let weights = bytemuck::cast_slice::<u8, V>(args.weights).as_chunks::<16>().0.as_chunks::<CHAIN>().0;
        let weights: [&[[[V; 16]; CHAIN]]; P] = std::array::from_fn(|p| &weights[p * chains.len()..][..chains.len()]);
        let len = rolled(CHAIN);
        let mut total = [[_mm512_setzero_ps(); NT]; P];
        for (index, a) in chains.iter().enumerate() {
            let a = &a[..len];
            let w: [&[[V; 16]]; P] = std::array::from_fn(|p| &weights[p][index][..len]);
            let ahead_bytes = args.ahead_of::<P>(index * size_of_val(&weights[0][0]));
            let mut chain = [[_mm512_setzero_ps(); NT]; P];
            for k in 0..len {
                let mut values = [_mm512_setzero_ps(); P];
                for p in 0..P {
                    prefetch_near(&w[p][k], ahead_bytes);
                    values[p] = widen(&w[p][k]);
                }
                for t in 0..NT {
                    let a = _mm512_castsi512_ps(_mm512_set1_epi32(a[k][t] as i32));
                    for p in 0..P {
                        chain[p][t] = _mm512_fmadd_ps(values[p], a, chain[p][t]);
                    }
                }
            }
            for p in 0..P {
                for t in 0..NT {
                    total[p][t] = _mm512_add_ps(total[p][t], chain[p][t]);
                }
            }
        }
        let (out, _) = args.out.as_chunks_mut::<16>();
        for p in 0..P {
            for t in 0..NT {
                store(&mut out[p * args.panel_stride / 16 + t], total[p][t]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::CHAIN;
    use crate::matmul::TileArgs;
    use crate::simd::avx2::{load, load_f16, load_u16, prefetch, store};
    use crate::simd::rolled;

    /// Parts of a chain that are asked for, and unrolled, one after another.
    const PARTS: usize = 4;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn f32s<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        multiply::<_, P, NT>(args, |values| _mm256_castsi256_ps(load(values)));
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn f16s<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        multiply::<_, P, NT>(args, |values| load_f16(values));
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn bf16s<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        multiply::<_, P, NT>(args, |values| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(load_u16(values))));
    }

    /// `P` panels times `NT` rows. `widen` makes f32 of a value of each row.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn multiply<V: bytemuck::AnyBitPattern, const P: usize, const NT: usize>(
        args: TileArgs<'_>,
        widen: impl Fn(&[V; 8]) -> __m256,
    ) {
        let chains = args.activations.as_chunks::<NT>().0.as_chunks::<CHAIN>().0;
        let weights = bytemuck::cast_slice::<u8, V>(args.weights).as_chunks::<8>().0.as_chunks::<CHAIN>().0;
        let weights: [&[[[V; 8]; CHAIN]]; P] = std::array::from_fn(|p| &weights[p * chains.len()..][..chains.len()]);
        let parts = rolled(PARTS);
        let mut total = [[_mm256_setzero_ps(); NT]; P];
        for (index, a) in chains.iter().enumerate() {
            let ahead_bytes = args.ahead_of::<P>(index * size_of_val(&weights[0][0]));
            let mut chain = [[_mm256_setzero_ps(); NT]; P];
            for part in 0..parts {
                let a = &a.as_chunks::<{ CHAIN / PARTS }>().0[part];
                let w: [&[[V; 8]; CHAIN / PARTS]; P] = std::array::from_fn(|p| &weights[p][index].as_chunks().0[part]);
                for p in 0..P {
                    prefetch(w[p], ahead_bytes);
                }
                for k in 0..CHAIN / PARTS {
                    let mut values = [_mm256_setzero_ps(); P];
                    for p in 0..P {
                        values[p] = widen(&w[p][k]);
                    }
                    for t in 0..NT {
                        let a = _mm256_castsi256_ps(_mm256_set1_epi32(a[k][t] as i32));
                        for p in 0..P {
                            chain[p][t] = _mm256_fmadd_ps(values[p], a, chain[p][t]);
                        }
                    }
                }
            }
            for p in 0..P {
                for t in 0..NT {
                    total[p][t] = _mm256_add_ps(total[p][t], chain[p][t]);
                }
            }
        }
        let (out, _) = args.out.as_chunks_mut::<8>();
        for p in 0..P {
            for t in 0..NT {
                store(&mut out[p * args.panel_stride / 8 + t], total[p][t]);
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::CHAIN;
    use crate::matmul::TileArgs;
    use crate::simd::neon::registers::*;
    use crate::simd::neon::{Rows, load_f16, load_u16, load_u32, prefetch, store};
    use crate::simd::rolled;

    #[target_feature(enable = "neon,fp16,dotprod")]
    pub(super) fn f32s<const NT: usize>(args: TileArgs<'_>) {
        multiply::<_, NT>(args, |values| load_u32(values).map(vreinterpretq_f32_u32));
    }

    #[target_feature(enable = "neon,fp16,dotprod")]
    pub(super) fn f16s<const NT: usize>(args: TileArgs<'_>) {
        multiply::<_, NT>(args, |values| load_f16(values));
    }

    #[target_feature(enable = "neon,fp16,dotprod")]
    pub(super) fn bf16s<const NT: usize>(args: TileArgs<'_>) {
        multiply::<_, NT>(args, |values| load_u16(values).map(|x| vreinterpretq_f32_u32(vshlq_n_u32::<16>(x))));
    }

    /// One panel times `NT` rows. `widen` makes f32 of a value of each row.
    #[inline(always)]
    fn multiply<V: bytemuck::AnyBitPattern, const NT: usize>(
        args: TileArgs<'_>,
        widen: impl Fn(&[V; 8]) -> Rows<float32x4_t>,
    ) {
        let chains = args.activations.as_chunks::<NT>().0.as_chunks::<CHAIN>().0;
        let weights = bytemuck::cast_slice::<u8, V>(args.weights).as_chunks::<8>().0.as_chunks::<CHAIN>().0;
        let len = rolled(CHAIN);
        let mut total = [[vdupq_n_f32(0.0); 2]; NT];
        for (w, a) in weights.iter().zip(chains) {
            prefetch::<_, 1>(w, 0, args.ahead_bytes);
            let (w, a) = (&w[..len], &a[..len]);
            let mut chain = [[vdupq_n_f32(0.0); 2]; NT];
            for k in 0..len {
                let values = widen(&w[k]);
                for t in 0..NT {
                    let a = f32::from_bits(a[k][t]);
                    for half in 0..2 {
                        chain[t][half] = vfmaq_n_f32(chain[t][half], values[half], a);
                    }
                }
            }
            for t in 0..NT {
                for half in 0..2 {
                    total[t][half] = vaddq_f32(total[t][half], chain[t][half]);
                }
            }
        }
        for (out, total) in args.out.as_chunks_mut::<8>().0.iter_mut().zip(total) {
            store(out, total);
        }
    }
}
