//! How a page of one head looks inside, and how a token is written to it.
//!
//! The kernels work on sixteen tokens at a time when they multiply with keys, and on sixteen dimensions at a time when
//! they sum values, without ever transposing. So, with d the head dimension, padded with zeros to a multiple of 16:
//!
//! ```text
//!            keys                                        values
//! f32, f16   [4 blocks][d][16 tokens]                    [64 tokens][d]
//! bf16       [4 blocks][d / 2][16 tokens][2]             [32 pairs of tokens][d][2]
//! q8_0       [4 blocks][d / 32 groups]                   [d / 32 groups]
//!              { scale [16 tokens], f16                    { scale [64 tokens], f16
//!                code  [8][16 tokens][4], value + 128 }      code  [64 tokens][32] }
//! q4_0       as q8_0, with                               as q8_0, with
//!                code  [4][16 tokens][4]                     code  [64 tokens][16]
//! ```
//!
//! In a q4_0 code byte, the low nibble belongs to the first half of a group and the high nibble to the second half, each
//! value + 8. A page takes exactly as many bytes as its entries do in a file of that format.

use bytemuck::{Pod, Zeroable};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use tensor::{Format, PAGE_TOKENS};

use super::KvError;
use crate::simd::lanes::LANES;

/// Blocks of [`LANES`] tokens in a page.
pub const BLOCKS: usize = PAGE_TOKENS / LANES;

/// Dimensions that share a scale in the quantized formats.
pub const GROUP: usize = 32;

/// Values beyond the greatest half become it: an infinity would make NaN of every row that reads the page.
const F16_MAX: f32 = 65504.0;

/// How entries are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// f32
    F32,
    /// IEEE half
    F16,
    /// Upper half of an f32
    Bf16,
    /// 8 bits, a scale per [`GROUP`]
    Q8_0,
    /// 4 bits, a scale per [`GROUP`]
    Q4_0,
}

/// How the entries of one head lie in a page: `KEYS` or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout<const KEYS: bool> {
    /// How entries are stored.
    pub entry: Entry,
    /// Padded head dimension.
    pub dim: usize,
}

/// How keys lie in a page.
pub type KeyLayout = Layout<true>;

/// How values lie in a page.
pub type ValueLayout = Layout<false>;

/// A group of sixteen q8_0 keys.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Q8Keys {
    /// f16 bits.
    pub scales: [u16; LANES],
    /// Four dimensions a word.
    pub codes: [[u32; LANES]; GROUP / 4],
}

/// A group of sixteen q4_0 keys.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Q4Keys {
    /// f16 bits.
    pub scales: [u16; LANES],
    /// Four dimensions a word in the low nibbles, four more in the high ones.
    pub codes: [[u32; LANES]; GROUP / 8],
}

/// A group of a page's q8_0 values.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Q8Values {
    /// f16 bits.
    pub scales: [u16; PAGE_TOKENS],
    /// By token.
    pub codes: [[[i8; LANES]; 2]; PAGE_TOKENS],
}

/// A group of a page's q4_0 values.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Q4Values {
    /// f16 bits.
    pub scales: [u16; PAGE_TOKENS],
    /// By token.
    pub codes: [[u8; LANES]; PAGE_TOKENS],
}

impl<const KEYS: bool> Layout<KEYS> {
    /// The layout of a format.
    ///
    /// # Errors
    /// When no kernel reads the format, or a head is no whole number of its groups.
    pub fn new(format: Format, head_dim: usize) -> Result<Self, KvError> {
        let entry = match format {
            Format::F32 => Entry::F32,
            Format::F16 => Entry::F16,
            Format::BF16 => Entry::Bf16,
            Format::Q8_0 if head_dim.is_multiple_of(GROUP) => Entry::Q8_0,
            Format::Q4_0 if head_dim.is_multiple_of(GROUP) => Entry::Q4_0,
            _ => return Err(KvError::Format { format, head_dim }),
        };
        Ok(Layout { entry, dim: head_dim.next_multiple_of(LANES) })
    }

    /// Bytes of a page.
    pub const fn page_bytes(self) -> usize {
        let groups = PAGE_TOKENS * self.dim / GROUP;
        match self.entry {
            Entry::F32 => PAGE_TOKENS * self.dim * 4,
            Entry::F16 | Entry::Bf16 => PAGE_TOKENS * self.dim * 2,
            Entry::Q8_0 => groups * Format::Q8_0.block_bytes(),
            Entry::Q4_0 => groups * Format::Q4_0.block_bytes(),
        }
    }
}

impl KeyLayout {
    /// Writes a token's key (`[dim]`, padded) into a page.
    pub fn append(self, page: &mut [u8], token: usize, key: &[f32]) {
        let (block, lane) = (token / LANES, token % LANES);
        let block_start = block * self.dim * LANES;
        match self.entry {
            Entry::F32 => {
                let entries = bytemuck::cast_slice_mut::<u8, [f32; LANES]>(page);
                entries[block * self.dim..].iter_mut().zip(key).for_each(|(entry, &x)| entry[lane] = x);
            }
            Entry::F16 => {
                let entries = bytemuck::cast_slice_mut::<u8, [u16; LANES]>(page);
                let entries = entries[block * self.dim..].as_chunks_mut::<LANES>().0;
                for (entries, key) in entries.iter_mut().zip(key.as_chunks().0) {
                    entries.iter_mut().zip(halves_bits(key)).for_each(|(entry, bits)| entry[lane] = bits);
                }
            }
            Entry::Bf16 => {
                let entries = &mut bytemuck::cast_slice_mut::<u8, u16>(page)[block_start..];
                for (pair, x) in entries.chunks_exact_mut(2 * LANES).zip(key.as_chunks::<2>().0) {
                    pair[2 * lane] = bf16::from_f32(x[0]).to_bits();
                    pair[2 * lane + 1] = bf16::from_f32(x[1]).to_bits();
                }
            }
            Entry::Q8_0 => {
                let groups = &mut bytemuck::cast_slice_mut::<u8, Q8Keys>(page)[block * self.dim / GROUP..];
                for (group, key) in groups.iter_mut().zip(key.as_chunks::<GROUP>().0) {
                    let (scale, codes) = quantize_q8(key);
                    group.scales[lane] = scale;
                    for (word, codes) in group.codes.iter_mut().zip(codes.as_chunks::<4>().0) {
                        word[lane] = u32::from_le_bytes(codes.map(|code| code as u8 ^ 0x80));
                    }
                }
            }
            Entry::Q4_0 => {
                let groups = &mut bytemuck::cast_slice_mut::<u8, Q4Keys>(page)[block * self.dim / GROUP..];
                for (group, key) in groups.iter_mut().zip(key.as_chunks::<GROUP>().0) {
                    let (scale, codes) = quantize_q4(key);
                    group.scales[lane] = scale;
                    for (word, codes) in group.codes.iter_mut().zip(codes.as_chunks::<4>().0) {
                        word[lane] = u32::from_le_bytes(*codes);
                    }
                }
            }
        }
    }
}

impl ValueLayout {
    /// Writes a token's value (`[dim]`, padded) into a page.
    pub fn append(self, page: &mut [u8], token: usize, value: &[f32]) {
        match self.entry {
            Entry::F32 => {
                let entries = bytemuck::cast_slice_mut::<u8, f32>(page);
                entries[token * self.dim..(token + 1) * self.dim].copy_from_slice(value);
            }
            Entry::F16 => {
                let entries = &mut bytemuck::cast_slice_mut::<u8, u16>(page)[token * self.dim..];
                for (entries, value) in entries.as_chunks_mut().0.iter_mut().zip(value.as_chunks().0) {
                    *entries = halves_bits(value);
                }
            }
            Entry::Bf16 => {
                let pairs = &mut bytemuck::cast_slice_mut::<u8, [u16; 2]>(page)[token / 2 * self.dim..];
                for (pair, &x) in pairs.iter_mut().zip(value) {
                    if token.is_multiple_of(2) {
                        // A kernel reads both tokens of a pair: what an earlier owner left must not count, and 0 times
                        // infinity would.
                        pair[1] = 0;
                    }
                    pair[token % 2] = bf16::from_f32(x).to_bits();
                }
            }
            Entry::Q8_0 => {
                let groups = bytemuck::cast_slice_mut::<u8, Q8Values>(page);
                for (group, value) in groups.iter_mut().zip(value.as_chunks::<GROUP>().0) {
                    let (scale, codes) = quantize_q8(value);
                    set_scale(&mut group.scales, token, scale);
                    group.codes[token].as_flattened_mut().copy_from_slice(&codes);
                }
            }
            Entry::Q4_0 => {
                let groups = bytemuck::cast_slice_mut::<u8, Q4Values>(page);
                for (group, value) in groups.iter_mut().zip(value.as_chunks::<GROUP>().0) {
                    let (scale, codes) = quantize_q4(value);
                    set_scale(&mut group.scales, token, scale);
                    group.codes[token] = codes;
                }
            }
        }
    }
}

/// Sets the scale of a token's group of values. Kernels read both tokens of a pair: what an earlier owner left in the second
/// must not count, and 0 times what is no number would.
fn set_scale(scales: &mut [u16; PAGE_TOKENS], token: usize, scale: u16) {
    if token.is_multiple_of(2) {
        scales[token + 1] = 0;
    }
    scales[token] = scale;
}

fn half_bits(x: f32) -> u16 {
    f16::from_f32(x.clamp(-F16_MAX, F16_MAX)).to_bits()
}

/// [`half_bits`] of sixteen: together, `half` converts them by vector instructions.
fn halves_bits(values: &[f32; LANES]) -> [u16; LANES] {
    let mut halves = [f16::ZERO; LANES];
    halves.convert_from_f32_slice(&values.map(|x| x.clamp(-F16_MAX, F16_MAX)));
    halves.map(f16::to_bits)
}

/// The values, infinities made finite; none if one is no number.
fn finite(values: &[f32; GROUP]) -> Option<[f32; GROUP]> {
    let is_number = values.iter().all(|x| !x.is_nan());
    is_number.then(|| values.map(|x| x.clamp(f32::MIN, f32::MAX)))
}

/// Scale and codes of a group: the value farthest from zero becomes 127 or -127. With a value that is no number, none is.
fn quantize_q8(values: &[f32; GROUP]) -> (u16, [i8; GROUP]) {
    let Some(values) = finite(values) else { return (f16::NAN.to_bits(), [0; GROUP]) };
    let scale = values.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    (half_bits(scale), values.map(|x| (x * inverse).round() as i8))
}

/// Scale and codes of a group: the value farthest from zero becomes -8. With a value that is no number, none is.
fn quantize_q4(values: &[f32; GROUP]) -> (u16, [u8; GROUP / 2]) {
    let Some(values) = finite(values) else { return (f16::NAN.to_bits(), [0; GROUP / 2]) };
    let farthest = values.iter().fold(0.0f32, |far, &x| if x.abs() > far.abs() { x } else { far });
    let scale = farthest / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let code = |x: f32| (x * inverse + 8.5).clamp(0.0, 15.0) as u8;
    (half_bits(scale), std::array::from_fn(|i| code(values[i]) | code(values[i + GROUP / 2]) << 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_as_large_as_files() {
        for format in [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0] {
            for head_dim in [32, 64, 96, 128, 256] {
                let bytes = format.row_bytes(head_dim).expect("whole blocks") * PAGE_TOKENS;
                assert_eq!(KeyLayout::new(format, head_dim).expect("a layout").page_bytes(), bytes);
                assert_eq!(ValueLayout::new(format, head_dim).expect("a layout").page_bytes(), bytes);
            }
        }
        assert_eq!(size_of::<Q8Keys>(), LANES * 34);
        assert_eq!(size_of::<Q4Keys>(), LANES * 18);
        assert_eq!(size_of::<Q8Values>(), PAGE_TOKENS * 34);
        assert_eq!(size_of::<Q4Values>(), PAGE_TOKENS * 18);
    }

    #[test]
    fn formats_that_do_not_fit_are_errors() {
        for (format, head_dim) in [(Format::Q8_0, 80), (Format::Q4_0, 16), (Format::Q4_K, 256)] {
            let error = KeyLayout::new(format, head_dim).expect_err("no kernel");
            assert!(error.to_string().contains(format.name()), "{error}");
        }
    }
}
