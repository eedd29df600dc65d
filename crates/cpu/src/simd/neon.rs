//! NEON for the matrix kernels: the two instructions that multiply bytes, and typed loads and stores.
//!
//! A panel has 8 rows. [`Dot`] hides what differs between the dot product (`sdot`, in [`Dotprod`]) and the matrix product
//! (`smmla`, in [`I8mm`]): the order of the bytes in an operand, and which sum stands in which lane. Kernels are written
//! once, generic over it.
//!
//! The intrinsics of both instructions are not stable yet, hence the assembly; it is one instruction each, which the
//! compiler schedules like any other. What is here must be inlined into a function with the target feature. [`registers`]
//! has the other operations.

pub(crate) mod registers;

use std::arch::aarch64::{vld1_u8, vld1q_s32, vld1q_u8, vld1q_u16, vst1q_f32};
use std::arch::asm;

use tensor::format::block::F16Bytes;

use crate::activation::MAX_TILE_ROWS;
use registers::*;

/// 4 values, each a byte, of 8 rows.
pub(crate) type Quad = [[u8; 4]; 8];

/// 8 values, each a byte, of 8 rows, in the order of a [`Dot`]: two registers for rows 0 to 3, two for rows 4 to 7.
pub(crate) type Octet = [[uint8x16_t; 2]; 2];

/// A number of each of 8 rows.
pub(crate) type Rows<T> = [T; 2];

/// Sums of 8 rows of weights by rows of activations: `[column][0]` for rows 0 to 3, `[column][1]` for rows 4 to 7. What a
/// column holds, and how many there are, is up to the [`Dot`].
pub(crate) type Sums<T> = [[T; 2]; MAX_TILE_ROWS];

/// An instruction that multiplies bytes. `NT` is how many rows of activations there are.
pub(crate) trait Dot: Copy {
    /// Columns of sums.
    fn columns<const NT: usize>() -> usize;

    /// Values 0 to 3 and 4 to 7 of four rows, 4 bytes a row each, in the order of an operand. Any operation on single bytes
    /// may come after it as well as before.
    fn arrange(first: uint8x16_t, second: uint8x16_t) -> [uint8x16_t; 2];

    /// sums += weights * activations, over 8 values. All bytes are signed.
    fn add_products<const NT: usize>(sums: &mut Sums<int32x4_t>, weights: &Octet, activations: &[[i32; NT]; 2]);

    /// A number of each row of weights, as it is needed in column `c`: `[c % 2]`.
    fn of_rows(values: Rows<int32x4_t>) -> [Rows<int32x4_t>; 2];

    /// A number of each row of activations, as it is needed in column `c`.
    fn of_column<const NT: usize>(values: &[i32; NT], c: usize) -> int32x4_t;

    /// Stores finished sums, `[row of activations][row of weights]`.
    fn store<const NT: usize>(out: &mut [[f32; 8]], sums: &Sums<float32x4_t>);

    /// [`Dot::of_rows`] of floats.
    #[inline(always)]
    fn floats_of_rows(values: Rows<float32x4_t>) -> [Rows<float32x4_t>; 2] {
        Self::of_rows(values.map(vreinterpretq_s32_f32)).map(|rows| rows.map(vreinterpretq_f32_s32))
    }

    /// [`Dot::of_column`] of floats.
    #[inline(always)]
    fn floats_of_column<const NT: usize>(values: &[f32; NT], c: usize) -> float32x4_t {
        vreinterpretq_f32_s32(Self::of_column(bytemuck::cast_ref::<[f32; NT], [i32; NT]>(values), c))
    }
}

/// `sdot`: 4 products for each of 4 sums. A column is one row of activations, whose 4 values are a lane of the second
/// operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dotprod;

impl Dot for Dotprod {
    #[inline(always)]
    fn columns<const NT: usize>() -> usize {
        NT
    }

    #[inline(always)]
    fn arrange(first: uint8x16_t, second: uint8x16_t) -> [uint8x16_t; 2] {
        [first, second]
    }

    #[inline(always)]
    fn add_products<const NT: usize>(sums: &mut Sums<int32x4_t>, weights: &Octet, activations: &[[i32; NT]; 2]) {
        let (fours, rest) = activations.as_flattened().as_chunks::<4>();
        for (index, four) in fours.iter().enumerate() {
            let four = load_i32(four);
            add_lane::<0, NT>(sums, weights, four, 4 * index);
            add_lane::<1, NT>(sums, weights, four, 4 * index + 1);
            add_lane::<2, NT>(sums, weights, four, 4 * index + 2);
            add_lane::<3, NT>(sums, weights, four, 4 * index + 3);
        }
        if let &[x, y] = rest {
            let two = vreinterpretq_s32_s64(vdupq_n_s64(i64::from(x as u32) | i64::from(y) << 32));
            add_lane::<0, NT>(sums, weights, two, 2 * NT - 2);
            add_lane::<1, NT>(sums, weights, two, 2 * NT - 1);
        }
    }

    #[inline(always)]
    fn of_rows(values: Rows<int32x4_t>) -> [Rows<int32x4_t>; 2] {
        [values; 2]
    }

    #[inline(always)]
    fn of_column<const NT: usize>(values: &[i32; NT], c: usize) -> int32x4_t {
        vdupq_n_s32(values[c])
    }

    #[inline(always)]
    fn store<const NT: usize>(out: &mut [[f32; 8]], sums: &Sums<float32x4_t>) {
        for t in 0..NT {
            store(&mut out[t], sums[t]);
        }
    }
}

/// Adds the products with the four activations in one lane: those at `index` of `[word][row]`.
#[inline(always)]
fn add_lane<const LANE: usize, const NT: usize>(
    sums: &mut Sums<int32x4_t>,
    weights: &Octet,
    activations: int32x4_t,
    index: usize,
) {
    let (word, t) = (index / NT, index % NT);
    for half in 0..2 {
        let sum = &mut sums[t][half];
        // SAFETY: reads and writes registers alone. Only the kernels of tiers with `sdot` use `Dotprod`.
        unsafe {
            asm!(
                "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{lane}]",
                inout(vreg) *sum,
                in(vreg) weights[half][word],
                in(vreg) activations,
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    }
}

/// `smmla`: 8 products for each of 4 sums, two rows of weights by two rows of activations. Columns `c` and `c + 1`, `c` even,
/// have the sums of activations `c` and `c + 1`: the first those of rows 0, 1 (4, 5) of the weights, the second those of rows
/// 2, 3 (6, 7), as `[row][activations]`. An odd row of activations stands beside itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct I8mm;

impl Dot for I8mm {
    #[inline(always)]
    fn columns<const NT: usize>() -> usize {
        NT.next_multiple_of(2)
    }

    #[inline(always)]
    fn arrange(first: uint8x16_t, second: uint8x16_t) -> [uint8x16_t; 2] {
        let [first, second] = [first, second].map(vreinterpretq_u32_u8);
        [vzip1q_u32(first, second), vzip2q_u32(first, second)].map(vreinterpretq_u8_u32)
    }

    #[inline(always)]
    fn add_products<const NT: usize>(sums: &mut Sums<int32x4_t>, weights: &Octet, activations: &[[i32; NT]; 2]) {
        for c in (0..NT).step_by(2) {
            let first = Self::of_column(&activations[0], c);
            let second = Self::of_column(&activations[1], c);
            let activations = vzip1q_s32(first, second);
            for i in 0..2 {
                for half in 0..2 {
                    let sum = &mut sums[c + i][half];
                    // SAFETY: reads and writes registers alone. Only the kernels of tiers with `smmla` use `I8mm`.
                    unsafe {
                        asm!(
                            "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
                            inout(vreg) *sum,
                            in(vreg) weights[half][i],
                            in(vreg) activations,
                            options(pure, nomem, nostack, preserves_flags)
                        );
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn of_rows(values: Rows<int32x4_t>) -> [Rows<int32x4_t>; 2] {
        [values.map(|x| vzip1q_s32(x, x)), values.map(|x| vzip2q_s32(x, x))]
    }

    #[inline(always)]
    fn of_column<const NT: usize>(values: &[i32; NT], c: usize) -> int32x4_t {
        match values[c - c % 2..] {
            [x, y, ..] => vreinterpretq_s32_s64(vdupq_n_s64(i64::from(x as u32) | i64::from(y) << 32)),
            _ => vdupq_n_s32(values[NT - 1]),
        }
    }

    #[inline(always)]
    fn store<const NT: usize>(out: &mut [[f32; 8]], sums: &Sums<float32x4_t>) {
        for c in (0..NT).step_by(2) {
            let (first, second) = (sums[c], sums[c + 1]);
            store(&mut out[c], [vuzp1q_f32(first[0], second[0]), vuzp1q_f32(first[1], second[1])]);
            if c + 1 < NT {
                store(&mut out[c + 1], [vuzp2q_f32(first[0], second[0]), vuzp2q_f32(first[1], second[1])]);
            }
        }
    }
}

/// Asks for the cache lines of a `1 / PARTS` of what lies `ahead_bytes` behind `at`, into the second level: once for each
/// part, all are asked for. Addresses without memory do no harm.
#[inline(always)]
pub(crate) fn prefetch<T, const PARTS: usize>(at: &T, part: usize, ahead_bytes: usize) {
    let len = const { size_of::<T>().div_ceil(PARTS) };
    for line in (0..len).step_by(64) {
        let address = std::ptr::from_ref(at).addr().wrapping_add(ahead_bytes + part * len + line);
        // SAFETY: a prefetch has no effect but on the cache.
        unsafe { asm!("prfm pldl2keep, [{0}]", in(reg) address, options(nomem, nostack, preserves_flags)) };
    }
}

/// A quad as two registers: rows 0 to 3, rows 4 to 7.
#[inline(always)]
pub(crate) fn load(from: &Quad) -> Rows<uint8x16_t> {
    let at = from.as_ptr().cast::<u8>();
    // SAFETY: 32 bytes are behind the reference.
    unsafe { [vld1q_u8(at), vld1q_u8(at.add(16))] }
}

/// Two quads as they are, in the order of `D`.
#[inline(always)]
pub(crate) fn load_octet<D: Dot>(first: &Quad, second: &Quad) -> Octet {
    octet::<D>(load(first), load(second))
}

/// Values 0 to 3 and 4 to 7 of each row, in the order of `D`.
#[inline(always)]
pub(crate) fn octet<D: Dot>(first: Rows<uint8x16_t>, second: Rows<uint8x16_t>) -> Octet {
    [D::arrange(first[0], second[0]), D::arrange(first[1], second[1])]
}

/// An operation on every register of an octet.
#[inline(always)]
pub(crate) fn each(octet: Octet, operation: impl Fn(uint8x16_t) -> uint8x16_t + Copy) -> Octet {
    octet.map(|registers| registers.map(operation))
}

/// A table of 16 values, for `vqtbl1q_u8`.
#[inline(always)]
pub(crate) fn load_table(from: &[i8; 16]) -> uint8x16_t {
    // SAFETY: 16 bytes are behind the reference.
    unsafe { vld1q_u8(from.as_ptr().cast()) }
}

/// Two bytes of each row: the first ones, the second ones, widened.
#[inline(always)]
pub(crate) fn load_pairs(from: &[[u8; 2]; 8]) -> [Rows<int32x4_t>; 2] {
    // SAFETY: 16 bytes are behind the reference.
    let pairs = unsafe { vld1q_u16(from.as_ptr().cast()) };
    [vandq_u16(pairs, vdupq_n_u16(0xff)), vshrq_n_u16::<8>(pairs)]
        .map(|x| [vmovl_u16(vget_low_u16(x)), vmovl_u16(vget_high_u16(x))].map(vreinterpretq_s32_u32))
}

/// Two signed bytes of each row, likewise.
#[inline(always)]
pub(crate) fn load_signed_pairs(from: &[[u8; 2]; 8]) -> [Rows<int32x4_t>; 2] {
    // SAFETY: 16 bytes are behind the reference.
    let pairs = vreinterpretq_s16_u16(unsafe { vld1q_u16(from.as_ptr().cast()) });
    [vshrq_n_s16::<8>(vshlq_n_s16::<8>(pairs)), vshrq_n_s16::<8>(pairs)]
        .map(|x| [vmovl_s16(vget_low_s16(x)), vmovl_s16(vget_high_s16(x))])
}

/// Four bytes of each row, widened: the first ones, the second ones, ...
#[inline(always)]
pub(crate) fn widen_quad(quad: Rows<uint8x16_t>) -> [Rows<int32x4_t>; 4] {
    let bytes = vdupq_n_u32(0xff);
    let words = quad.map(vreinterpretq_u32_u8);
    [
        words.map(|x| vreinterpretq_s32_u32(vandq_u32(x, bytes))),
        words.map(|x| vreinterpretq_s32_u32(vandq_u32(vshrq_n_u32::<8>(x), bytes))),
        words.map(|x| vreinterpretq_s32_u32(vandq_u32(vshrq_n_u32::<16>(x), bytes))),
        words.map(|x| vreinterpretq_s32_u32(vshrq_n_u32::<24>(x))),
    ]
}

/// 8 halves as f32.
#[inline(always)]
pub(crate) fn load_f16(from: &[F16Bytes; 8]) -> Rows<float32x4_t> {
    // SAFETY: 16 bytes are behind the reference.
    let halves = vreinterpretq_f16_u16(unsafe { vld1q_u16(from.as_ptr().cast()) });
    [vcvt_f32_f16(vget_low_f16(halves)), vcvt_f32_f16(vget_high_f16(halves))]
}

/// 8 bytes as 32-bit integers.
#[inline(always)]
pub(crate) fn load_u8(from: &[u8; 8]) -> Rows<uint32x4_t> {
    // SAFETY: 8 bytes are behind the reference.
    let bytes = vmovl_u8(unsafe { vld1_u8(from.as_ptr()) });
    [vmovl_u16(vget_low_u16(bytes)), vmovl_u16(vget_high_u16(bytes))]
}

/// 8 integers of 16 bits, widened.
#[inline(always)]
pub(crate) fn load_u16(from: &[[u8; 2]; 8]) -> Rows<uint32x4_t> {
    // SAFETY: 16 bytes are behind the reference.
    let halves = unsafe { vld1q_u16(from.as_ptr().cast()) };
    [vmovl_u16(vget_low_u16(halves)), vmovl_u16(vget_high_u16(halves))]
}

/// 8 integers of 32 bits.
#[inline(always)]
pub(crate) fn load_u32(from: &[[u8; 4]; 8]) -> Rows<uint32x4_t> {
    load(from).map(vreinterpretq_u32_u8)
}

#[inline(always)]
fn load_i32(from: &[i32; 4]) -> int32x4_t {
    // SAFETY: 16 bytes are behind the reference.
    unsafe { vld1q_s32(from.as_ptr()) }
}

/// Stores 8 f32.
#[inline(always)]
pub(crate) fn store(to: &mut [f32; 8], values: Rows<float32x4_t>) {
    let at = to.as_mut_ptr();
    // SAFETY: 32 bytes are behind the reference.
    unsafe {
        vst1q_f32(at, values[0]);
        vst1q_f32(at.add(4), values[1]);
    }
}
