//! Sixteen f32 at a time, on every instruction set.
//!
//! A [`Kernel`] is written once, generic over [`Simd`], and [`Isa::dispatch`] runs it with the registers of an
//! instruction set: one on AVX-512, two on AVX2, four on NEON. Sixteen lanes everywhere means one memory layout
//! everywhere, and one order of float operations: a kernel's result is the same to the last bit on each of them
//! (`fma` is fused on all, sums over lanes have one tree).
//!
//! To become one function with the right instructions, everything that a kernel calls must be `#[inline(always)]`, and
//! it must not use closures in its loops.

mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use crate::isa::Isa;

/// Lanes in a vector.
pub const LANES: usize = 16;

/// Code that runs on the lanes of any instruction set.
pub trait Kernel {
    /// What it returns.
    type Output;

    /// The code; mark it `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Isa {
    /// Runs a kernel with this instruction set.
    ///
    /// # Panics
    /// When the machine does not have it.
    pub fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Isa::Scalar => kernel.run(scalar::Scalar),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::run(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => avx2::run_vnni(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::run(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => avx512::run_bf16(kernel),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod | Isa::NeonI8mm => neon::run(kernel),
            #[allow(unreachable_patterns, reason = "every tier is listed on x86 and on ARM, not on others")]
            _ => panic!("{self} is not an instruction set of this machine"),
        }
    }
}

/// The operations of one instruction set on [`LANES`] f32. A value of the type is the proof that the machine has it.
pub trait Simd: Copy + Send + Sync {
    /// Sixteen f32.
    type F: Copy;
    /// One boolean a lane.
    type Mask: Copy;
    /// Sixteen words of 32 bits.
    type Words: Copy;
    /// Sixteen i32.
    type I: Copy;

    /// Vectors that fit into the registers: kernels choose their tile by it.
    const REGISTERS: usize;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// From memory.
    fn load(self, from: &[f32; LANES]) -> Self::F;
    /// Lanes 0 to 7, lanes 8 to 15.
    #[inline(always)]
    fn load_halves(self, low: &[f32; LANES / 2], high: &[f32; LANES / 2]) -> Self::F {
        let mut lanes = [0.0; LANES];
        lanes[..LANES / 2].copy_from_slice(low);
        lanes[LANES / 2..].copy_from_slice(high);
        self.load(&lanes)
    }
    /// To memory.
    fn store(self, x: Self::F, to: &mut [f32; LANES]);
    /// IEEE halves, widened exactly.
    fn load_f16(self, from: &[u16; LANES]) -> Self::F;
    /// Rounded to the nearest bf16, ties to even. Not for NaN; what is below 2^-126 may become zero.
    fn store_bf16(self, x: Self::F, to: &mut [u16; LANES]);
    /// Signed bytes, exactly.
    fn load_i8(self, from: &[i8; LANES]) -> Self::F;
    /// Whole numbers within an i8, as bytes.
    fn store_i8(self, x: Self::F, to: &mut [i8; LANES]);
    /// Of each sixteen bytes, their sum and that of their magnitudes. No byte is -128.
    #[inline(always)]
    fn byte_sums(self, bytes: &[[i8; LANES]; 16]) -> [[i32; 16]; 2] {
        let mut sums = [[0; 16]; 2];
        for (i, bytes) in bytes.iter().enumerate() {
            sums[0][i] = bytes.iter().map(|&byte| i32::from(byte)).sum();
            sums[1][i] = bytes.iter().map(|&byte| i32::from(byte.abs())).sum();
        }
        sums
    }
    /// Nibbles less 8: the low ones, the high ones.
    fn load_nibbles(self, from: &[u8; LANES]) -> (Self::F, Self::F);

    /// Words as they are.
    fn load_words(self, from: &[u32; LANES]) -> Self::Words;
    /// The low nibble of each byte.
    fn low_nibbles(self, x: Self::Words) -> Self::Words;
    /// The high nibble of each byte, moved down.
    fn high_nibbles(self, x: Self::Words) -> Self::Words;
    /// sum + low * low + high * high, where words and `factors` are pairs of bf16. How this is rounded differs
    /// between instruction sets; no other operation does.
    fn dot_bf16(self, words: Self::Words, factors: u32, sum: Self::F) -> Self::F;
    /// sum + byte * factor, four times. Bytes are unsigned and at most 15, `factors` four signed bytes.
    fn dot_small(self, words: Self::Words, factors: u32, sum: Self::I) -> Self::I;
    /// [`Simd::dot_small`] with as many products an instruction as the matrix kernels get, in sums that may be too narrow
    /// to hold it: to measure the machine by.
    #[inline(always)]
    fn dot_narrow(self, words: Self::Words, factors: u32, sum: Self::I) -> Self::I {
        self.dot_small(words, factors, sum)
    }
    /// sum + (byte - 128) * factor, four times, if the first sum was [`Simd::offset_start`]. Bytes are unsigned and not 0,
    /// `factors` four signed bytes, none -128.
    fn dot_offset(self, words: Self::Words, factors: u32, sum: Self::I) -> Self::I;
    /// Where sums of [`Simd::dot_offset`] start, given the sum of all factors to come.
    fn offset_start(self, sum_of_factors: i32) -> Self::I;
    /// `x` in every lane.
    fn splat_i(self, x: i32) -> Self::I;
    /// The nearest f32.
    fn to_float(self, x: Self::I) -> Self::F;

    /// a + b
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a - b
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The lesser; b when either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The greater; b when either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The nearest integer, ties to even.
    fn round(self, x: Self::F) -> Self::F;
    /// 2^x of integers in [-126, 127].
    fn exp2_of_integer(self, x: Self::F) -> Self::F;
    /// a * 2^x of integers in [-126, 127].
    #[inline(always)]
    fn times_power(self, a: Self::F, x: Self::F) -> Self::F {
        self.mul(a, self.exp2_of_integer(x))
    }

    /// a < b
    fn less(self, a: Self::F, b: Self::F) -> Self::Mask;
    /// `a` where the mask is set, `b` elsewhere.
    fn select(self, mask: Self::Mask, a: Self::F, b: Self::F) -> Self::F;
    /// Lanes `[from, to)`.
    fn lanes_between(self, from: usize, to: usize) -> Self::Mask;

    /// Sum of the lanes: i + (i + 8), then + 4, + 2, + 1.
    fn sum(self, x: Self::F) -> f32;
    /// The greatest lane. Not for NaN.
    fn greatest(self, x: Self::F) -> f32;
}

#[cfg(test)]
mod tests;
