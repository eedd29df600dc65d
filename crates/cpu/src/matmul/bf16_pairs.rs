//! BF16 weights for `vdpbf16ps`: `[pair of values][row][2]`, padded with zeros to a multiple of [`FLOAT_PAD`] values.
//!
//! Activations are rounded to bf16, and how the instruction rounds sums is its own: products are near those of
//! [`super::float`], not the same bits. A row is the same in any company all the same. Sums are chained as there.

use std::arch::x86_64::*;

use super::{Kernel, TileArgs, by_rows};
use crate::activation::{FLOAT_PAD, Form};
use crate::simd::avx512::{Quad, load, prefetch_near, store};
use crate::simd::rolled;

/// Rows of a panel.
const ROWS: usize = 16;

/// Pairs whose products are added up before they join the total: all of [`FLOAT_PAD`] values.
const CHAIN: usize = FLOAT_PAD / 2;

pub(super) fn kernel() -> Kernel {
    Kernel {
        form: Form::Bf16,
        panel_bytes: |cols| cols.next_multiple_of(FLOAT_PAD) * ROWS * 2,
        pack: |rows, panel| {
            for (row, bytes) in rows.iter().enumerate() {
                for (index, value) in bytes.as_chunks::<2>().0.iter().enumerate() {
                    panel.as_chunks_mut::<2>().0[place(index, row)] = *value;
                }
            }
        },
        unpack: |panel, row, out| {
            for (index, out) in out.iter_mut().enumerate() {
                *out = half::bf16::from_le_bytes(panel.as_chunks::<2>().0[place(index, row)]).to_f32();
            }
        },
        one: by_rows!(multiply::<1, NT>; 1 2 3 4 5 6),
        two: by_rows!(multiply::<2, NT>; 1 2 3 4 5 6),
        sweep: None,
    }
}

/// Where in a panel a row's value stands.
fn place(index: usize, row: usize) -> usize {
    (index / 2 * ROWS + row) * 2 + index % 2
}

/// `P` panels times `NT` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn multiply<const P: usize, const NT: usize>(args: TileArgs<'_>) {
    let chains = args.activations.as_chunks::<NT>().0.as_chunks::<CHAIN>().0;
    let weights = bytemuck::cast_slice::<u8, Quad>(args.weights).as_chunks::<CHAIN>().0;
    let weights: [&[[Quad; CHAIN]]; P] = std::array::from_fn(|p| &weights[p * chains.len()..][..chains.len()]);
    let len = rolled(CHAIN);
    let mut total = [[_mm512_setzero_ps(); NT]; P];
    for (index, a) in chains.iter().enumerate() {
        let a = &a[..len];
        let mut w: [&[Quad]; P] = [&[]; P];
        for p in 0..P {
            w[p] = &weights[p][index][..len];
        }
        let mut chain = [[_mm512_setzero_ps(); NT]; P];
        for k in 0..len {
            let mut pairs = [_mm512_setzero_si512(); P];
            for p in 0..P {
                prefetch_near(&w[p][k], args.ahead_bytes);
                pairs[p] = load(&w[p][k]);
            }
            for t in 0..NT {
                let a = _mm512_set1_epi32(a[k][t] as i32);
                for p in 0..P {
                    chain[p][t] = add_products(chain[p][t], pairs[p], a);
                }
            }
        }
        for p in 0..P {
            for t in 0..NT {
                total[p][t] = _mm512_add_ps(total[p][t], chain[p][t]);
            }
        }
    }
    let (out, _) = args.out.as_chunks_mut::<ROWS>();
    for p in 0..P {
        for t in 0..NT {
            store(&mut out[p * args.panel_stride / ROWS + t], total[p][t]);
        }
    }
}

/// sum + a * b, for pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn add_products(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: a register of bf16 has a type of its own and no cast; the bits are the same.
    let [a, b] = unsafe { [a, b].map(|x| std::mem::transmute::<__m512i, __m512bh>(x)) };
    _mm512_dpbf16_ps(sum, a, b)
}
