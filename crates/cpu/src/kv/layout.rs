//! How a page of one head looks inside.
//!
//! The kernels work on sixteen tokens at a time when they multiply with keys, and on sixteen dimensions at a time when
//! they sum values, without ever transposing. So (d = head dimension, padded with zeros to a multiple of 16):
//!
//! ```text
//! keys    [4 blocks of 16 tokens][d][16 tokens]
//! values  [64 tokens][d]
//! ```
//!
//! for F32, F16 and BF16.

use half::{bf16, f16};
use tensor::{Format, PAGE_TOKENS};

use super::KvError;
use crate::isa::Isa;
use crate::simd::lanes::LANES;

/// Blocks of [`LANES`] tokens in a page.
pub const BLOCKS: usize = PAGE_TOKENS / LANES;

/// How an entry is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// f32
    F32,
    /// IEEE half
    F16,
    /// Upper half of an f32
    Bf16,
}

impl Entry {
    fn new(format: Format, head_dim: usize) -> Result<Entry, KvError> {
        match format {
            Format::F32 => Ok(Entry::F32),
            Format::F16 => Ok(Entry::F16),
            Format::BF16 => Ok(Entry::Bf16),
            _ => Err(KvError::Format { format, head_dim }),
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Entry::F32 => 4,
            Entry::F16 | Entry::Bf16 => 2,
        }
    }

    /// Writes `values[i]` to entry `first + i * stride`.
    fn scatter(self, page: &mut [u8], first: usize, stride: usize, values: &[f32]) {
        match self {
            Entry::F32 => {
                let page: &mut [f32] = bytemuck::cast_slice_mut(page);
                page[first..].iter_mut().step_by(stride).zip(values).for_each(|(entry, &x)| *entry = x);
            }
            Entry::F16 => {
                let page: &mut [u16] = bytemuck::cast_slice_mut(page);
                let halves = page[first..].iter_mut().step_by(stride);
                halves.zip(values).for_each(|(entry, &x)| *entry = f16::from_f32(x.clamp(-F16_MAX, F16_MAX)).to_bits());
            }
            Entry::Bf16 => {
                let page: &mut [u16] = bytemuck::cast_slice_mut(page);
                let halves = page[first..].iter_mut().step_by(stride);
                halves.zip(values).for_each(|(entry, &x)| *entry = bf16::from_f32(x).to_bits());
            }
        }
    }
}

/// Values beyond the greatest half become it: an infinity would make NaN of every row that reads the page.
const F16_MAX: f32 = 65504.0;

/// How keys lie in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLayout {
    /// How an entry is stored.
    pub entry: Entry,
    /// Padded head dimension.
    pub dim: usize,
}

impl KeyLayout {
    /// The layout that the kernels of `isa` read.
    ///
    /// # Errors
    /// When there is none for the format.
    pub fn new(format: Format, head_dim: usize, _isa: Isa) -> Result<KeyLayout, KvError> {
        Ok(KeyLayout { entry: Entry::new(format, head_dim)?, dim: head_dim.next_multiple_of(LANES) })
    }

    /// Bytes of a page.
    pub const fn page_bytes(self) -> usize {
        PAGE_TOKENS * self.dim * self.entry.bytes()
    }

    /// Writes a token's key (`[dim]`, padded) into a page.
    pub fn append(self, page: &mut [u8], token: usize, key: &[f32]) {
        let block = token / LANES;
        self.entry.scatter(page, block * self.dim * LANES + token % LANES, LANES, key);
    }
}

/// How values lie in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueLayout {
    /// How an entry is stored.
    pub entry: Entry,
    /// Padded head dimension.
    pub dim: usize,
}

impl ValueLayout {
    /// The layout that the kernels of `isa` read.
    ///
    /// # Errors
    /// When there is none for the format.
    pub fn new(format: Format, head_dim: usize, _isa: Isa) -> Result<ValueLayout, KvError> {
        Ok(ValueLayout { entry: Entry::new(format, head_dim)?, dim: head_dim.next_multiple_of(LANES) })
    }

    /// Bytes of a page.
    pub const fn page_bytes(self) -> usize {
        PAGE_TOKENS * self.dim * self.entry.bytes()
    }

    /// Writes a token's value (`[dim]`, padded) into a page.
    pub fn append(self, page: &mut [u8], token: usize, value: &[f32]) {
        self.entry.scatter(page, token * self.dim, 1, value);
    }
}
