//! Packed weights times quantized rows, one file a format.
//!
//! A format's file has its packed layout (a *tile*: one block of each row of a panel), which a test compares with
//! `tensor::format`, and what a kernel for each instruction set needs of it; frames that formats share are in [`blocks32`]
//! and [`blocks256`]. All kernels but that of `bf16_pairs` compute the same
//! bits: products of integers are summed exactly, and float operations come in one order, with fused multiply-adds.
//!
//! [`kernel`] is the table: what serves a format on an instruction set, chosen once when a matrix is packed. Start
//! there, then with [`scalar`], the oracle, and [`q4_k`].

#[cfg(target_arch = "x86_64")]
mod bf16_pairs;
mod blocks256;
mod blocks32;
mod float;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod scalar;

use bytemuck::Pod;
use tensor::Format;
use tensor::format::block::{Block, Unpacked};

use crate::Isa;
use crate::activation::{Activations, Form};

/// What one format needs on one instruction set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    /// The activations it reads.
    pub(crate) form: Form,
    /// Bytes of a panel of so many columns.
    pub(crate) panel_bytes: fn(cols: usize) -> usize,
    /// Packs up to `panel_rows` rows of a file into a zeroed panel.
    pub(crate) pack: fn(rows: &[&[u8]], panel: &mut [u8]),
    /// A row of a panel as f32, as `tensor::format` defines it.
    pub(crate) unpack: fn(panel: &[u8], row: usize, out: &mut [f32]),
    /// Multiplies one panel by a tile of activations: by rows of the tile, less one.
    pub(crate) one: &'static [TileFn],
    /// Multiplies two adjacent panels at once: each broadcast activation then serves twice. By rows of the tile like `one`, but
    /// from as many as pay.
    pub(crate) two: &'static [TileFn],
    /// What stands in for `one` and `two` where there are many rows.
    pub(crate) sweep: Option<Sweep>,
}

/// Multiplies any number of panels by all rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sweep {
    /// For rows of so many tiles or more.
    pub(crate) from_tiles: usize,
    pub(crate) multiply: SweepFn,
}

/// Multiplies panels by a tile of activations.
///
/// # Safety
/// The machine has the instruction set that the function was taken for.
pub(crate) type TileFn = unsafe fn(TileArgs<'_>);

/// Arguments of a [`TileFn`].
#[derive(Debug)]
pub(crate) struct TileArgs<'a> {
    /// One panel, or two adjacent ones.
    pub(crate) weights: &'a [u8],
    /// The tile in the kernel's form.
    pub(crate) activations: &'a [u32],
    /// Row `t` of panel `p` goes to `[p * panel_stride + t * panel_rows..][..panel_rows]`.
    pub(crate) out: &'a mut [f32],
    /// See `out`.
    pub(crate) panel_stride: usize,
    /// See [`ahead_bytes`].
    pub(crate) ahead_bytes: usize,
}

impl TileArgs<'_> {
    /// How far behind byte `at` of each of `P` panels the weights lie that are read [`ahead_bytes`] later. Behind a panel comes
    /// one that is read at the same time, and only then what is read next.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn ahead_of<const P: usize>(&self, at: usize) -> usize {
        let panel_bytes = self.weights.len() / P;
        if at + self.ahead_bytes < panel_bytes { self.ahead_bytes } else { self.ahead_bytes + (P - 1) * panel_bytes }
    }
}

/// Multiplies panels by all rows.
///
/// # Safety
/// The machine has the instruction set that the function was taken for.
pub(crate) type SweepFn = unsafe fn(SweepArgs<'_>);

/// Arguments of a [`SweepFn`].
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 has such kernels"))]
#[derive(Debug)]
pub(crate) struct SweepArgs<'a> {
    /// Panels.
    pub(crate) weights: &'a [u8],
    /// Bytes of each.
    pub(crate) panel_bytes: usize,
    /// All rows, in the kernel's form among others.
    pub(crate) activations: &'a Activations,
    /// `[panel][row][row of the panel]`
    pub(crate) out: &'a mut [f32],
    /// See [`ahead_bytes`].
    pub(crate) ahead_bytes: usize,
}

/// The kernel of a format on an instruction set.
pub(crate) fn kernel(format: Format, isa: Isa) -> Kernel {
    match format {
        Format::F32 => float::f32_kernel(isa),
        Format::F16 => float::f16_kernel(isa),
        Format::BF16 => float::bf16_kernel(isa),
        Format::Q4_0 => q4_0::kernel(isa),
        Format::Q4_1 => q4_1::kernel(isa),
        Format::Q5_0 => q5_0::kernel(isa),
        Format::Q5_1 => q5_1::kernel(isa),
        Format::Q8_0 => q8_0::kernel(isa),
        Format::IQ4_NL => iq4_nl::kernel(isa),
        Format::MXFP4 => mxfp4::kernel(isa),
        Format::Q2_K => q2_k::kernel(isa),
        Format::Q3_K => q3_k::kernel(isa),
        Format::Q4_K => q4_k::kernel(isa),
        Format::Q5_K => q5_k::kernel(isa),
        Format::Q6_K => q6_k::kernel(isa),
        Format::IQ4_XS => iq4_xs::kernel(isa),
    }
}

/// Rows of a panel on an instruction set, for every format.
pub(crate) const fn panel_rows(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 | Isa::Avx512Bf16 => 16,
        Isa::Scalar | Isa::Avx2 | Isa::AvxVnni | Isa::NeonDotprod | Isa::NeonI8mm => 8,
    }
}

/// How far ahead of its reading a kernel asks for weights: with AVX-512 into the first cache, and of 2 to 12 KiB this is
/// where one row and four read a format fastest; elsewhere into the second, where the distance matters little.
pub(crate) const fn ahead_bytes(format: Format, isa: Isa) -> usize {
    match (isa, format) {
        (Isa::Avx2 | Isa::AvxVnni, _) => 2 << 10,
        (Isa::Avx512 | Isa::Avx512Bf16, Format::F16) => 6 << 10,
        (Isa::Avx512 | Isa::Avx512Bf16, _) => 8 << 10,
        (Isa::Scalar | Isa::NeonDotprod | Isa::NeonI8mm, _) => 6 << 10,
    }
}

impl Kernel {
    /// What multiplies all panels by rows of so many tiles, if that is not done tile by tile.
    pub(crate) fn sweep_of(&self, tiles: usize) -> Option<SweepFn> {
        self.sweep.filter(|sweep| tiles >= sweep.from_tiles).map(|sweep| sweep.multiply)
    }

    /// What multiplies a tile of so many rows, at least one, by the next `panels`, and how many of these.
    pub(crate) fn of_tile(&self, rows: usize, panels: usize) -> (TileFn, usize) {
        let left_out = self.one.len() - self.two.len();
        match rows.checked_sub(1 + left_out) {
            Some(index) if panels > 1 => (self.two[index], 2),
            _ => (self.one[rows - 1], 1),
        }
    }
}

/// One block of `LEN` values in `SUBS` sub-blocks of each row of a panel, in the order in which the kernels read it.
pub(crate) trait Tile<const LEN: usize, const SUBS: usize>: Pod {
    /// Rows of a panel.
    const ROWS: usize;

    /// Puts a row's block into the zeroed tile.
    fn put(&mut self, row: usize, block: &Unpacked<LEN, SUBS>);

    /// The block of a row.
    fn get(&self, row: usize) -> Unpacked<LEN, SUBS>;
}

/// The kernel of a format of blocks `B`, packed as tiles `T`.
fn block_kernel<B, T, const LEN: usize, const SUBS: usize>(
    form: Form,
    one: &'static [TileFn],
    two: &'static [TileFn],
) -> Kernel
where
    B: Block<LEN, SUBS>,
    T: Tile<LEN, SUBS>,
{
    Kernel {
        form,
        panel_bytes: |cols| cols / LEN * size_of::<T>(),
        pack: |rows, panel| {
            for (index, tile) in bytemuck::cast_slice_mut::<u8, T>(panel).iter_mut().enumerate() {
                for (row, bytes) in rows.iter().enumerate() {
                    tile.put(row, &bytemuck::cast_slice::<u8, B>(bytes)[index].unpack());
                }
            }
        },
        unpack: |panel, row, out| {
            for (tile, out) in bytemuck::cast_slice::<u8, T>(panel).iter().zip(out.as_chunks_mut().0) {
                tile.get(row).dequantize(out);
            }
        },
        one,
        two,
        sweep: None,
    }
}

/// The instances of a kernel by rows of a tile: `by_rows!(f::<NT>; 1 2)` is `[f::<1>, f::<2>]`.
macro_rules! by_rows {
    ($f:expr; $($rows:literal)*) => {
        const {
            &[$({
                const NT: usize = $rows;
                $f as $crate::matmul::TileFn
            }),*]
        }
    };
}
use by_rows;

#[cfg(test)]
mod tests;
