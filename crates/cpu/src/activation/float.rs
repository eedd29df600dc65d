//! [`Form::F32`](super::Form::F32) and [`Form::Bf16`](super::Form::Bf16).

use half::bf16;

use super::RowMut;

#[inline(always)]
pub(super) fn fill_f32(row: &mut RowMut<'_>, values: &[f32]) {
    for (word, value) in values.iter().enumerate() {
        row.set(word, value.to_bits());
    }
    for word in values.len()..row.len() {
        row.set(word, 0);
    }
}

#[inline(always)]
pub(super) fn fill_bf16(row: &mut RowMut<'_>, values: &[f32]) {
    let (pairs, rest) = values.as_chunks::<2>();
    for (word, &[low, high]) in pairs.iter().enumerate() {
        row.set(word, pair(low, high));
    }
    for word in pairs.len()..row.len() {
        row.set(word, 0);
    }
    if let [last] = rest {
        row.set(pairs.len(), pair(*last, 0.0));
    }
}

#[inline(always)]
fn pair(low: f32, high: f32) -> u32 {
    u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
}
