//! Lanes in plain Rust: any machine, and the oracle of the others.
//!
//! What does more than move lanes is a call: inlined into every kernel, sixteen times each, these would be most of the code of
//! this crate and most of the time to compile it.

use half::{bf16, f16};

use super::{LANES, Simd};

/// Plain Rust.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scalar;

impl Simd for Scalar {
    type F = [f32; LANES];
    type Mask = [bool; LANES];
    type Words = [u32; LANES];
    type I = [i32; LANES];

    const REGISTERS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::F {
        *from
    }

    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32; LANES]) {
        *to = x;
    }

    #[inline(never)]
    fn load_f16(self, from: &[u16; LANES]) -> Self::F {
        from.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(never)]
    fn store_bf16(self, x: Self::F, to: &mut [u16; LANES]) {
        *to = x.map(|x| bf16::from_f32(x).to_bits());
    }

    #[inline(never)]
    fn load_i8(self, from: &[i8; LANES]) -> Self::F {
        from.map(f32::from)
    }

    #[inline(never)]
    fn store_i8(self, x: Self::F, to: &mut [i8; LANES]) {
        *to = x.map(|x| x as i8);
    }

    #[inline(never)]
    fn load_nibbles(self, from: &[u8; LANES]) -> (Self::F, Self::F) {
        (from.map(|byte| f32::from(byte & 15) - 8.0), from.map(|byte| f32::from(byte >> 4) - 8.0))
    }

    #[inline(always)]
    fn load_words(self, from: &[u32; LANES]) -> Self::Words {
        *from
    }

    #[inline(never)]
    fn low_nibbles(self, x: Self::Words) -> Self::Words {
        x.map(|word| word & 0x0f0f_0f0f)
    }

    #[inline(never)]
    fn high_nibbles(self, x: Self::Words) -> Self::Words {
        x.map(|word| word >> 4 & 0x0f0f_0f0f)
    }

    #[inline(never)]
    fn dot_bf16(self, words: Self::Words, factors: u32, sum: Self::F) -> Self::F {
        let [low, high] = [f32::from_bits(factors << 16), f32::from_bits(factors & 0xffff_0000)];
        std::array::from_fn(|i| {
            let sum = f32::from_bits(words[i] << 16).mul_add(low, sum[i]);
            f32::from_bits(words[i] & 0xffff_0000).mul_add(high, sum)
        })
    }

    #[inline(never)]
    fn dot_small(self, words: Self::Words, factors: u32, sum: Self::I) -> Self::I {
        let factors = factors.to_le_bytes().map(|byte| i32::from(byte as i8));
        std::array::from_fn(|i| {
            let products =
                words[i].to_le_bytes().into_iter().zip(factors).map(|(byte, factor)| i32::from(byte) * factor);
            sum[i] + products.sum::<i32>()
        })
    }

    #[inline(never)]
    fn dot_offset(self, words: Self::Words, factors: u32, sum: Self::I) -> Self::I {
        self.dot_small(words, factors, sum)
    }

    #[inline(always)]
    fn offset_start(self, sum_of_factors: i32) -> Self::I {
        [-128 * sum_of_factors; LANES]
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        [x; LANES]
    }

    #[inline(never)]
    fn to_float(self, x: Self::I) -> Self::F {
        x.map(|x| x as f32)
    }

    #[inline(never)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(never)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(never)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(never)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] / b[i])
    }

    #[inline(never)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(never)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(never)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(never)]
    fn round(self, x: Self::F) -> Self::F {
        x.map(f32::round_ties_even)
    }

    #[inline(never)]
    fn exp2_of_integer(self, x: Self::F) -> Self::F {
        x.map(|x| f32::from_bits(((x as i32 + 127) << 23) as u32))
    }

    #[inline(never)]
    fn less(self, a: Self::F, b: Self::F) -> Self::Mask {
        std::array::from_fn(|i| a[i] < b[i])
    }

    #[inline(never)]
    fn select(self, mask: Self::Mask, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if mask[i] { a[i] } else { b[i] })
    }

    #[inline(never)]
    fn lanes_between(self, from: usize, to: usize) -> Self::Mask {
        std::array::from_fn(|i| from <= i && i < to)
    }

    #[inline(never)]
    fn sum(self, x: Self::F) -> f32 {
        let x8: [f32; 8] = std::array::from_fn(|i| x[i] + x[i + 8]);
        let x4: [f32; 4] = std::array::from_fn(|i| x8[i] + x8[i + 4]);
        let x2: [f32; 2] = std::array::from_fn(|i| x4[i] + x4[i + 2]);
        x2[0] + x2[1]
    }

    #[inline(never)]
    fn greatest(self, x: Self::F) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
