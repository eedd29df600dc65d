//! [`Form::F32`](super::Form::F32) and [`Form::Bf16`](super::Form::Bf16).

use super::RowMut;
use crate::simd::Simd;
use crate::simd::lanes::LANES;

#[inline(always)]
pub(super) fn fill_f32(row: &mut RowMut<'_>, values: &[f32]) {
    row.set_bytes(0, bytemuck::cast_slice(values));
    for word in values.len()..row.len() {
        row.set(word, 0);
    }
}

#[inline(always)]
pub(super) fn fill_bf16<S: Simd>(s: S, row: &mut RowMut<'_>, values: &[f32]) {
    let (vectors, rest) = values.as_chunks::<LANES>();
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    let words_per_vector = LANES / 2;
    for (index, x) in vectors.iter().chain(std::iter::once(&last)).enumerate() {
        let first = index * words_per_vector;
        let mut halves = [0; LANES];
        s.store_bf16(s.load(x), &mut halves);
        let words = words_per_vector.min(row.len() - first);
        row.set_bytes(first, &bytemuck::cast_slice(&halves)[..4 * words]);
    }
    for word in (vectors.len() + 1) * words_per_vector..row.len() {
        row.set(word, 0);
    }
}
