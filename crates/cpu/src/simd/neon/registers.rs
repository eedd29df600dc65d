//! NEON's operations on registers, as functions that are safe to call: every ARM machine of 64 bits has NEON, but the compiler
//! asks for a promise wherever a function does not say so by an attribute, which closures, trait methods and what must be
//! inlined cannot.

pub(crate) use std::arch::aarch64::{
    float16x4_t, float16x8_t, float32x4_t, int8x16_t, int16x4_t, int16x8_t, int32x4_t, int64x2_t, uint8x8_t,
    uint8x16_t, uint16x4_t, uint16x8_t, uint32x4_t,
};

macro_rules! operations {
    ($($name:ident $(<$n:ident>)? ($($x:ident: $t:ty),*) -> $r:ty;)*) => {$(
        #[inline(always)]
        pub(crate) fn $name $(<const $n: i32>)? ($($x: $t),*) -> $r {
            // SAFETY: the target has NEON, and registers alone are touched.
            unsafe { std::arch::aarch64::$name $(::<$n>)? ($($x),*) }
        }
    )*};
}

operations! {
    vaddq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vandq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vandq_u16(a: uint16x8_t, b: uint16x8_t) -> uint16x8_t;
    vandq_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t;
    vandq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vbslq_u32(a: uint32x4_t, b: uint32x4_t, c: uint32x4_t) -> uint32x4_t;
    vcltq_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t;
    vcvt_f32_f16(a: float16x4_t) -> float32x4_t;
    vcvtq_f32_s32(a: int32x4_t) -> float32x4_t;
    vdupq_n_f32(value: f32) -> float32x4_t;
    vdupq_n_s32(value: i32) -> int32x4_t;
    vdupq_n_s64(value: i64) -> int64x2_t;
    vdupq_n_s8(value: i8) -> int8x16_t;
    vdupq_n_u16(value: u16) -> uint16x8_t;
    vdupq_n_u32(value: u32) -> uint32x4_t;
    vdupq_n_u8(value: u8) -> uint8x16_t;
    veorq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vfmaq_f32(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t;
    vfmaq_n_f32(a: float32x4_t, b: float32x4_t, c: f32) -> float32x4_t;
    vfmsq_f32(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t;
    vget_high_f16(a: float16x8_t) -> float16x4_t;
    vget_high_s16(a: int16x8_t) -> int16x4_t;
    vget_high_u16(a: uint16x8_t) -> uint16x4_t;
    vget_low_f16(a: float16x8_t) -> float16x4_t;
    vget_low_s16(a: int16x8_t) -> int16x4_t;
    vget_low_u16(a: uint16x8_t) -> uint16x4_t;
    vmlaq_s32(a: int32x4_t, b: int32x4_t, c: int32x4_t) -> int32x4_t;
    vmlsq_s32(a: int32x4_t, b: int32x4_t, c: int32x4_t) -> int32x4_t;
    vmovl_s16(a: int16x4_t) -> int32x4_t;
    vmovl_u16(a: uint16x4_t) -> uint32x4_t;
    vmovl_u8(a: uint8x8_t) -> uint16x8_t;
    vmulq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vorrq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vqtbl1q_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vreinterpretq_f16_u16(a: uint16x8_t) -> float16x8_t;
    vreinterpretq_f32_s32(a: int32x4_t) -> float32x4_t;
    vreinterpretq_f32_u32(a: uint32x4_t) -> float32x4_t;
    vreinterpretq_s16_u16(a: uint16x8_t) -> int16x8_t;
    vreinterpretq_s32_f32(a: float32x4_t) -> int32x4_t;
    vreinterpretq_s32_s64(a: int64x2_t) -> int32x4_t;
    vreinterpretq_s32_u32(a: uint32x4_t) -> int32x4_t;
    vreinterpretq_u32_u8(a: uint8x16_t) -> uint32x4_t;
    vreinterpretq_u8_u32(a: uint32x4_t) -> uint8x16_t;
    vshlq_n_s16<N>(a: int16x8_t) -> int16x8_t;
    vshlq_n_u32<N>(a: uint32x4_t) -> uint32x4_t;
    vshlq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vshlq_u32(a: uint32x4_t, b: int32x4_t) -> uint32x4_t;
    vshlq_u8(a: uint8x16_t, b: int8x16_t) -> uint8x16_t;
    vshrq_n_s16<N>(a: int16x8_t) -> int16x8_t;
    vshrq_n_s32<N>(a: int32x4_t) -> int32x4_t;
    vshrq_n_u16<N>(a: uint16x8_t) -> uint16x8_t;
    vshrq_n_u32<N>(a: uint32x4_t) -> uint32x4_t;
    vshrq_n_u8<N>(a: uint8x16_t) -> uint8x16_t;
    vsliq_n_s32<N>(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vsliq_n_u8<N>(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vsubq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vsubq_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t;
    vuzp1q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vuzp2q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vzip1q_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vzip1q_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t;
    vzip2q_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vzip2q_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t;
}
