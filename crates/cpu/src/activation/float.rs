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

/// For the kernels of AVX-512 with bf16 alone. There what is no number stays none, and what is below 2^-126 becomes zero,
/// which products would take it for.
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

#[cfg(test)]
mod tests {
    use half::bf16;

    use crate::Isa;
    use crate::activation::{Activations, Form, Forms};

    #[test]
    fn pairs_are_the_library_s() {
        let mut values: Vec<f32> = (0..203).map(|k| (k as f32 * 0.37).sin() * (k as f32 - 100.0).exp2()).collect();
        values[7] = 0.0;
        for isa in Isa::available() {
            if isa == Isa::Avx512Bf16 {
                values.splice(20..23, [f32::NAN, f32::INFINITY, f32::from_bits(0xff80_0001)]);
            }
            for cols in [values.len(), 64, 1] {
                let mut activations = Activations::new(isa, Forms::NONE.with(Form::Bf16), 1, cols);
                activations.fill(&values[..cols]);
                let words: Vec<u32> = activations.tile_words(0, Form::Bf16).to_vec();
                let halves = words.iter().flat_map(|word| [*word as u16, (*word >> 16) as u16]);
                for (k, half) in halves.enumerate() {
                    let expected = values[..cols].get(k).map_or(0, |x| bf16::from_f32(*x).to_bits());
                    let is_nan = bf16::from_bits(half).is_nan() && bf16::from_bits(expected).is_nan();
                    assert!(half == expected || is_nan, "{isa}: value {k} of {cols} is {half:04x}, not {expected:04x}");
                }
            }
        }
    }
}
