//! Float weights: F32. Values of a panel stand as `[value][row]`, padded with zeros to a multiple of
//! [`FLOAT_PAD`] values.
//!
//! Products are added up over [`CHAIN`] values, and these sums are added up in turn: consecutive chains overlap in the
//! processor, where a single one would wait for each sum, and the rounding error is smaller.

use super::{Kernel, TileArgs, by_rows};
use crate::Isa;
use crate::activation::{FLOAT_PAD, Form};

/// Values whose products are added up before they join the total. Divides [`FLOAT_PAD`].
const CHAIN: usize = 16;

pub(super) fn f32_kernel(isa: Isa) -> Kernel {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => {
            let one = by_rows!(avx512::f32s::<1, NT>; 1 2 3 4 5 6);
            let two = by_rows!(avx512::f32s::<2, NT>; 1 2 3 4 5 6);
            f32_layout::<16>(one, two)
        }
        _ => f32_scalar::<8>(),
    }
}

pub(super) fn f32_scalar<const R: usize>() -> Kernel {
    f32_layout::<R>(by_rows!(scalar_f32s::<R, NT>; 1 2 3 4 5 6), &[])
}

fn f32_layout<const R: usize>(one: &'static [super::TileFn], two: &'static [super::TileFn]) -> Kernel {
    Kernel {
        form: Form::F32,
        panel_bytes: |cols| cols.next_multiple_of(FLOAT_PAD) * R * 4,
        pack: |rows, panel| {
            let columns = panel.as_chunks_mut::<4>().0.chunks_exact_mut(R);
            for (index, column) in columns.enumerate() {
                for (value, row) in column.iter_mut().zip(rows) {
                    if let Some(bytes) = row.as_chunks::<4>().0.get(index) {
                        *value = *bytes;
                    }
                }
            }
        },
        unpack: |panel, row, out| {
            for (column, out) in panel.as_chunks::<4>().0.chunks_exact(R).zip(out) {
                *out = f32::from_le_bytes(column[row]);
            }
        },
        one,
        two,
    }
}

fn scalar_f32s<const R: usize, const NT: usize>(args: TileArgs<'_>) {
    let activations = bytemuck::cast_slice::<u32, [f32; NT]>(args.activations);
    let weights = args.weights.as_chunks::<4>().0.chunks_exact(R);
    let mut total = [[0.0_f32; R]; NT];
    let mut chain = [[0.0_f32; R]; NT];
    for (index, (weights, a)) in weights.zip(activations).enumerate() {
        for t in 0..NT {
            for row in 0..R {
                chain[t][row] = f32::from_le_bytes(weights[row]).mul_add(a[t], chain[t][row]);
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
    use crate::simd::avx512::{Quad, load, prefetch, store};
    use crate::simd::rolled;

    /// `P` panels times `NT` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn f32s<const P: usize, const NT: usize>(args: TileArgs<'_>) {
        let chains = args.activations.as_chunks::<NT>().0.as_chunks::<CHAIN>().0;
        let weights = bytemuck::cast_slice::<u8, Quad>(args.weights).as_chunks::<CHAIN>().0;
        let weights: [&[[Quad; CHAIN]]; P] = std::array::from_fn(|p| &weights[p * chains.len()..][..chains.len()]);
        let len = rolled(CHAIN);
        let mut total = [[_mm512_setzero_ps(); NT]; P];
        for (index, a) in chains.iter().enumerate() {
            let a = &a[..len];
            let w: [&[Quad]; P] = std::array::from_fn(|p| &weights[p][index][..len]);
            let mut chain = [[_mm512_setzero_ps(); NT]; P];
            for k in 0..len {
                let mut values = [_mm512_setzero_ps(); P];
                for p in 0..P {
                    prefetch(&w[p][k], args.ahead_bytes);
                    values[p] = _mm512_castsi512_ps(load(&w[p][k]));
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
