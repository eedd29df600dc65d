//! Lanes in four 128-bit registers.

use std::arch::aarch64::*;

use super::{Kernel, LANES, Simd};

/// NEON with half-precision conversion. Made by [`run`] alone, where the compiler is told that the machine has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neon(());

/// Runs a kernel with NEON.
///
/// # Panics
/// When the machine does not have it.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    assert!(crate::Isa::NeonDotprod.is_available(), "this machine has no NEON with dot products");
    // SAFETY: the machine has the instructions, as just checked.
    unsafe { with_neon(kernel) }
}

#[target_feature(enable = "neon,fp16,dotprod")]
fn with_neon<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

/// Lanes 0 to 3, 4 to 7, 8 to 11, 12 to 15.
type Quad = [float32x4_t; 4];

type WordQuad = [uint32x4_t; 4];
type IntQuad = [int32x4_t; 4];

/// sum + byte * byte of sixteen signed bytes, four to a lane.
#[inline(always)]
fn dot(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: called through `Neon` alone, which proves that the machine has the instruction. (Its intrinsic is not
    // stable yet.)
    unsafe {
        std::arch::asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sum,
            in(vreg) a,
            in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// A method that is one expression of intrinsics.
macro_rules! operation {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty = $body:expr) => {
        #[inline(always)]
        fn $name(self, $($arg: $type),*) -> $result {
            // SAFETY: `self` proves that the machine has NEON; memory is reached through array references alone, and a
            // quarter of an array lies within it.
            unsafe { $body }
        }
    };
}

/// A method that does the same to each of the four registers.
macro_rules! each {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty = $body:expr) => {
        operation!($name($($arg: $type),*) -> $result = {
            $(let $arg: &$type = &$arg;)*
            let quarter = |i: usize| { $(let $arg = $arg[i];)* $body };
            [quarter(0), quarter(1), quarter(2), quarter(3)]
        });
    };
}

impl Simd for Neon {
    type F = Quad;
    type Mask = [uint32x4_t; 4];
    type Words = [uint32x4_t; 4];
    type I = [int32x4_t; 4];

    const REGISTERS: usize = 8;

    operation!(splat(x: f32) -> Quad = [vdupq_n_f32(x); 4]);
    operation!(load(from: &[f32; LANES]) -> Quad = {
        let at = from.as_ptr();
        [vld1q_f32(at), vld1q_f32(at.add(4)), vld1q_f32(at.add(8)), vld1q_f32(at.add(12))]
    });
    operation!(store(x: Quad, to: &mut [f32; LANES]) -> () = {
        let at = to.as_mut_ptr();
        vst1q_f32(at, x[0]);
        vst1q_f32(at.add(4), x[1]);
        vst1q_f32(at.add(8), x[2]);
        vst1q_f32(at.add(12), x[3]);
    });
    operation!(load_f16(from: &[u16; LANES]) -> Quad = {
        let low = vreinterpretq_f16_u16(vld1q_u16(from.as_ptr()));
        let high = vreinterpretq_f16_u16(vld1q_u16(from.as_ptr().add(8)));
        [
            vcvt_f32_f16(vget_low_f16(low)),
            vcvt_f32_f16(vget_high_f16(low)),
            vcvt_f32_f16(vget_low_f16(high)),
            vcvt_f32_f16(vget_high_f16(high)),
        ]
    });
    operation!(store_bf16(x: Quad, to: &mut [u16; LANES]) -> () = {
        let round = |x: float32x4_t| {
            // Adds half of the last kept bit, less one unless that bit is set: nearest, ties to even.
            let bits = vreinterpretq_u32_f32(x);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            vshrn_n_u32::<16>(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd))
        };
        let at = to.as_mut_ptr();
        vst1q_u16(at, vcombine_u16(round(x[0]), round(x[1])));
        vst1q_u16(at.add(8), vcombine_u16(round(x[2]), round(x[3])));
    });
    operation!(load_i8(from: &[i8; LANES]) -> Quad = {
        let bytes = vld1q_s8(from.as_ptr());
        let low = vmovl_s8(vget_low_s8(bytes));
        let high = vmovl_s8(vget_high_s8(bytes));
        [
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
            vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
            vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))),
        ]
    });

    operation!(store_i8(x: Quad, to: &mut [i8; LANES]) -> () = {
        let words = |a: float32x4_t, b: float32x4_t| {
            vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a)), vmovn_s32(vcvtnq_s32_f32(b)))
        };
        let (low, high) = (words(x[0], x[1]), words(x[2], x[3]));
        vst1q_s8(to.as_mut_ptr(), vcombine_s8(vmovn_s16(low), vmovn_s16(high)))
    });

    operation!(load_nibbles(from: &[u8; LANES]) -> (Quad, Quad) = {
        let bytes = vld1q_u8(from.as_ptr());
        let low = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), vdupq_n_s8(8));
        let high = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes)), vdupq_n_s8(8));
        let widen = |bytes: int8x16_t| {
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))),
            ]
        };
        (widen(low), widen(high))
    });

    operation!(load_words(from: &[u32; LANES]) -> WordQuad = {
        let at = from.as_ptr();
        [vld1q_u32(at), vld1q_u32(at.add(4)), vld1q_u32(at.add(8)), vld1q_u32(at.add(12))]
    });
    operation!(low_nibbles(x: WordQuad) -> WordQuad = x.map(|x| vandq_u32(x, vdupq_n_u32(0x0f0f_0f0f))));
    operation!(high_nibbles(x: WordQuad) -> WordQuad = {
        x.map(|x| vandq_u32(vshrq_n_u32::<4>(x), vdupq_n_u32(0x0f0f_0f0f)))
    });
    operation!(dot_bf16(words: WordQuad, factors: u32, sum: Quad) -> Quad = {
        let low_factor = vdupq_n_f32(f32::from_bits(factors << 16));
        let high_factor = vdupq_n_f32(f32::from_bits(factors & 0xffff_0000));
        let quarter = |i: usize| {
            let low = vreinterpretq_f32_u32(vshlq_n_u32::<16>(words[i]));
            let high = vreinterpretq_f32_u32(vandq_u32(words[i], vdupq_n_u32(0xffff_0000)));
            vfmaq_f32(vfmaq_f32(sum[i], low, low_factor), high, high_factor)
        };
        [quarter(0), quarter(1), quarter(2), quarter(3)]
    });
    operation!(dot_small(words: WordQuad, factors: u32, sum: IntQuad) -> IntQuad = {
        let factors = vreinterpretq_s8_u32(vdupq_n_u32(factors));
        let quarter = |i: usize| dot(sum[i], vreinterpretq_s8_u32(words[i]), factors);
        [quarter(0), quarter(1), quarter(2), quarter(3)]
    });
    operation!(dot_offset(words: WordQuad, factors: u32, sum: IntQuad) -> IntQuad = {
        let factors = vreinterpretq_s8_u32(vdupq_n_u32(factors));
        let quarter = |i: usize| {
            let signed = veorq_u32(words[i], vdupq_n_u32(0x8080_8080));
            dot(sum[i], vreinterpretq_s8_u32(signed), factors)
        };
        [quarter(0), quarter(1), quarter(2), quarter(3)]
    });
    operation!(offset_start(_sum_of_factors: i32) -> IntQuad = [vdupq_n_s32(0); 4]);
    operation!(splat_i(x: i32) -> IntQuad = [vdupq_n_s32(x); 4]);
    operation!(to_float(x: IntQuad) -> Quad = x.map(|x| vcvtq_f32_s32(x)));

    each!(add(a: Quad, b: Quad) -> Quad = vaddq_f32(a, b));
    each!(sub(a: Quad, b: Quad) -> Quad = vsubq_f32(a, b));
    each!(mul(a: Quad, b: Quad) -> Quad = vmulq_f32(a, b));
    each!(div(a: Quad, b: Quad) -> Quad = vdivq_f32(a, b));
    each!(fma(a: Quad, b: Quad, c: Quad) -> Quad = vfmaq_f32(c, a, b));
    each!(min(a: Quad, b: Quad) -> Quad = vbslq_f32(vcltq_f32(a, b), a, b));
    each!(max(a: Quad, b: Quad) -> Quad = vbslq_f32(vcgtq_f32(a, b), a, b));
    each!(round(x: Quad) -> Quad = vrndnq_f32(x));
    each!(exp2_of_integer(x: Quad) -> Quad = {
        vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtnq_s32_f32(x), vdupq_n_s32(127))))
    });

    each!(less(a: Quad, b: Quad) -> [uint32x4_t; 4] = vcltq_f32(a, b));

    #[inline(always)]
    fn select(self, mask: [uint32x4_t; 4], a: Quad, b: Quad) -> Quad {
        // SAFETY: `self` proves that the machine has NEON.
        unsafe {
            [
                vbslq_f32(mask[0], a[0], b[0]),
                vbslq_f32(mask[1], a[1], b[1]),
                vbslq_f32(mask[2], a[2], b[2]),
                vbslq_f32(mask[3], a[3], b[3]),
            ]
        }
    }

    operation!(lanes_between(from: usize, to: usize) -> [uint32x4_t; 4] = {
        let first = vld1q_u32([0, 1, 2, 3].as_ptr());
        let (from, to) = (vdupq_n_u32(from.min(LANES) as u32), vdupq_n_u32(to.min(LANES) as u32));
        let inside = |offset: u32| {
            let lane = vaddq_u32(first, vdupq_n_u32(offset));
            vandq_u32(vcgeq_u32(lane, from), vcltq_u32(lane, to))
        };
        [inside(0), inside(4), inside(8), inside(12)]
    });

    operation!(sum(x: Quad) -> f32 = {
        let x4 = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
        let x2 = vadd_f32(vget_low_f32(x4), vget_high_f32(x4));
        vget_lane_f32::<0>(x2) + vget_lane_f32::<1>(x2)
    });
    operation!(greatest(x: Quad) -> f32 = vmaxvq_f32(vmaxq_f32(vmaxq_f32(x[0], x[2]), vmaxq_f32(x[1], x[3]))));
}
