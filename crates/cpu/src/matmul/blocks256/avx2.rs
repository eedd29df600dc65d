//! AVX2 and AVX-VNNI: how a format's tile of eight rows unpacks. Two frames multiply what comes of it: `paired.rs` with AVX2,
//! `avx_vnni.rs` with AVX-VNNI.

use std::arch::x86_64::*;

use bytemuck::Pod;
use tensor::format::block::Block;

use super::{avx_vnni, paired};
use crate::Isa;
use crate::matmul::{Kernel, Tile};

/// What the sums of a tile of eight rows are multiplied with.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Factors {
    /// Scales of each chain, 16 bits: of its values of A, of its values of B (see [`Unpack`]).
    pub(in crate::matmul) scales: [__m256i; 8],
    /// Of the sums of activations: see [`Mins`].
    pub(in crate::matmul) mins: [__m256i; 8],
    pub(in crate::matmul) d: __m256,
    pub(in crate::matmul) dmin: __m256,
}

/// What is subtracted from the sum of the products.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::matmul) enum Mins {
    /// Nothing.
    None,
    /// `dmin` times minima of 16 values; `mins` has eight pairs.
    Of16,
    /// `dmin` times minima of 32 values; `mins` has four pairs.
    Of32,
    /// An offset of the values times their scales, for 32 values; `mins` has four pairs.
    Offset32,
}

/// A tile of eight rows as `V` vectors of unsigned bytes, a lane of four for each row, in groups of `G` that share packed
/// bytes. Which values a vector has, the frame decides.
///
/// 64 values are two halves, A and B, of 32. A chain of 16 vectors has all of them, a chain of 8 the first or the second 16
/// of A and of B: with AVX2 in each vector two of A and two of B, with AVX-VNNI those of A first.
pub(in crate::matmul) trait Unpack<const V: usize, const G: usize>: Pod {
    /// Vectors in a chain.
    const CHAIN: usize;
    /// log2 of what is subtracted from each value, where sums start.
    const OFFSET_BITS: Option<i32> = None;
    /// What is subtracted at the end.
    const MINS: Mins = Mins::None;
    /// Whether unpacking leaves enough registers for the sums of eight rows of activations.
    const EIGHT_ROWS: bool = false;

    /// Of chain `c`, vectors `i`, `i + CHAIN / G`, `i + 2 * CHAIN / G`, ... Chain `c` belongs to the 64 values at
    /// `4 * CHAIN * c`, modulo 256.
    ///
    /// # Safety
    /// The machine has AVX2, FMA and F16C.
    unsafe fn vectors(&self, c: usize, i: usize) -> [__m256i; G];

    /// Puts the factors. Those that the format does not need are left alone.
    ///
    /// # Safety
    /// The machine has AVX2, FMA and F16C.
    unsafe fn factors(&self, to: &mut Factors);
}

/// The kernel of a format of blocks `B`, packed as tiles `T`.
pub(in crate::matmul) fn kernel<B, T, const V: usize, const G: usize, const SUBS: usize>(isa: Isa) -> Kernel
where
    B: Block<256, SUBS>,
    T: Tile<256, SUBS> + Unpack<V, G>,
{
    match isa {
        Isa::AvxVnni => avx_vnni::kernel::<B, T, V, G, SUBS>(),
        _ => paired::kernel::<B, T, V, G, SUBS>(),
    }
}

/// Of sixteen sub-blocks the second and third of every four change places.
pub(super) fn sub_blocks<T: Copy, const SUBS: usize>(of: &[T; SUBS]) -> [T; SUBS] {
    match SUBS {
        16 => std::array::from_fn(|j| of[j / 4 * 4 + [0, 2, 1, 3][j % 4]]),
        _ => *of,
    }
}

impl Factors {
    #[target_feature(enable = "avx2")]
    pub(super) fn zeroed() -> Factors {
        let (zero, zero_ps) = (_mm256_setzero_si256(), _mm256_setzero_ps());
        Factors { scales: [zero; 8], mins: [zero; 8], d: zero_ps, dmin: zero_ps }
    }
}
