//! Storage formats of weights and KV entries, as GGUF defines them.
//!
//! One file a format: its block layout and the plain scalar code that defines what the bytes mean. Nothing here is
//! tuned for speed; the kernels of a backend are tested against it. Start with [`Format`], then [`block`] and the
//! file of a format, [`q4_k`] for one.

pub mod activation;
pub mod bf16;
pub mod block;
pub mod f16;
pub mod f32;
mod fit;
pub mod iq4_nl;
pub mod iq4_xs;
pub mod mxfp4;
pub mod q2_k;
pub mod q3_k;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;
pub mod quantize;
pub mod recipe;

use block::{Block, blocks_of};

pub use activation::QuantizedRow;
pub use quantize::QuantizeError;
pub use recipe::{ModelFacts, Recipe, TensorKind, TensorPlace};

/// A storage format. Quantized formats group [`Format::block_len`] values of a row into a block of
/// [`Format::block_bytes`] bytes; a row is a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the field writes these names so")]
pub enum Format {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an F32.
    BF16,
    /// 4 bits, one scale per 32.
    Q4_0,
    /// 4 bits, scale and minimum per 32.
    Q4_1,
    /// 5 bits, one scale per 32.
    Q5_0,
    /// 5 bits, scale and minimum per 32.
    Q5_1,
    /// 8 bits, one scale per 32.
    Q8_0,
    /// 2 bits, 4-bit scales and minima per 16, super-block of 256.
    Q2_K,
    /// 3 bits, 6-bit scales per 16, super-block of 256.
    Q3_K,
    /// 4 bits, 6-bit scales and minima per 32, super-block of 256.
    Q4_K,
    /// 5 bits, 6-bit scales and minima per 32, super-block of 256.
    Q5_K,
    /// 6 bits, 8-bit scales per 16, super-block of 256.
    Q6_K,
    /// 4-bit codebook, one scale per 32.
    IQ4_NL,
    /// 4-bit codebook, 6-bit scales per 32, super-block of 256.
    IQ4_XS,
    /// 4-bit floating point (E2M1), one power-of-two scale per 32.
    MXFP4,
}

impl Format {
    /// Every format, in the order of the enum: tests and benchmarks iterate this.
    pub const ALL: [Format; 16] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q2_K,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
        Format::IQ4_NL,
        Format::IQ4_XS,
        Format::MXFP4,
    ];

    /// Values in a block (1 for the unquantized formats).
    pub const fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q4_0
            | Format::Q4_1
            | Format::Q5_0
            | Format::Q5_1
            | Format::Q8_0
            | Format::IQ4_NL
            | Format::MXFP4 => 32,
            Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K | Format::IQ4_XS => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q4_0 | Format::IQ4_NL => 18,
            Format::Q4_1 => 20,
            Format::Q5_0 => 22,
            Format::Q5_1 => 24,
            Format::Q8_0 => 34,
            Format::Q2_K => 84,
            Format::Q3_K => 110,
            Format::Q4_K => 144,
            Format::Q5_K => 176,
            Format::Q6_K => 210,
            Format::IQ4_XS => 136,
            Format::MXFP4 => 17,
        }
    }

    /// Bytes of a row of `cols` values, or `None` when `cols` is no whole number of blocks or the size overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The name that files, settings and logs use: `q4_k`, `f16`.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::BF16 => "bf16",
            Format::Q4_0 => "q4_0",
            Format::Q4_1 => "q4_1",
            Format::Q5_0 => "q5_0",
            Format::Q5_1 => "q5_1",
            Format::Q8_0 => "q8_0",
            Format::Q2_K => "q2_k",
            Format::Q3_K => "q3_k",
            Format::Q4_K => "q4_k",
            Format::Q5_K => "q5_k",
            Format::Q6_K => "q6_k",
            Format::IQ4_NL => "iq4_nl",
            Format::IQ4_XS => "iq4_xs",
            Format::MXFP4 => "mxfp4",
        }
    }

    /// The format with this [`Format::name`], in any case.
    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|f| f.name().eq_ignore_ascii_case(name))
    }

    /// The type number in a GGUF tensor header.
    pub const fn ggml_type(self) -> u32 {
        match self {
            Format::F32 => 0,
            Format::F16 => 1,
            Format::Q4_0 => 2,
            Format::Q4_1 => 3,
            Format::Q5_0 => 6,
            Format::Q5_1 => 7,
            Format::Q8_0 => 8,
            Format::Q2_K => 10,
            Format::Q3_K => 11,
            Format::Q4_K => 12,
            Format::Q5_K => 13,
            Format::Q6_K => 14,
            Format::IQ4_NL => 20,
            Format::IQ4_XS => 23,
            Format::BF16 => 30,
            Format::MXFP4 => 39,
        }
    }

    /// The format with this GGUF type number.
    pub fn from_ggml_type(number: u32) -> Option<Format> {
        Format::ALL.into_iter().find(|f| f.ggml_type() == number)
    }

    /// The values of a row, or of any run of whole blocks, in f32.
    ///
    /// # Panics
    /// When `bytes` is not what `out.len()` values take.
    pub fn dequantize_row(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(Some(bytes.len()), self.row_bytes(out.len()), "{} bytes of {} values", self.name(), out.len());
        match self {
            Format::F32 => f32::dequantize(bytes, out),
            Format::F16 => f16::dequantize(bytes, out),
            Format::BF16 => bf16::dequantize(bytes, out),
            Format::Q4_0 => dequantize_blocks::<q4_0::Block, _, _>(bytes, out),
            Format::Q4_1 => dequantize_blocks::<q4_1::Block, _, _>(bytes, out),
            Format::Q5_0 => dequantize_blocks::<q5_0::Block, _, _>(bytes, out),
            Format::Q5_1 => dequantize_blocks::<q5_1::Block, _, _>(bytes, out),
            Format::Q8_0 => dequantize_blocks::<q8_0::Block, _, _>(bytes, out),
            Format::Q2_K => dequantize_blocks::<q2_k::Block, _, _>(bytes, out),
            Format::Q3_K => dequantize_blocks::<q3_k::Block, _, _>(bytes, out),
            Format::Q4_K => dequantize_blocks::<q4_k::Block, _, _>(bytes, out),
            Format::Q5_K => dequantize_blocks::<q5_k::Block, _, _>(bytes, out),
            Format::Q6_K => dequantize_blocks::<q6_k::Block, _, _>(bytes, out),
            Format::IQ4_NL => dequantize_blocks::<iq4_nl::Block, _, _>(bytes, out),
            Format::IQ4_XS => dequantize_blocks::<iq4_xs::Block, _, _>(bytes, out),
            Format::MXFP4 => dequantize_blocks::<mxfp4::Block, _, _>(bytes, out),
        }
    }
}

fn dequantize_blocks<B: Block<LEN, SUBS>, const LEN: usize, const SUBS: usize>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in blocks_of::<B, LEN, SUBS>(bytes).iter().zip(out.as_chunks_mut().0) {
        block.dequantize(out);
    }
}

/// A matrix of `rows` x `cols` values in row-major order, borrowed from wherever the file lies. A vector has one row.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// How the values are stored.
    pub format: Format,
    /// Output features of a projection, tokens of an embedding table.
    pub rows: usize,
    /// Values in a row.
    pub cols: usize,
    /// Exactly `rows * format.row_bytes(cols)` bytes.
    pub data: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// A view over `data`, or `None` when its length is not what format and shape ask for.
    pub fn new(format: Format, rows: usize, cols: usize, data: &'a [u8]) -> Option<TensorView<'a>> {
        let size_bytes = format.row_bytes(cols)?.checked_mul(rows)?;
        (size_bytes == data.len()).then_some(TensorView { format, rows, cols, data })
    }

    /// The bytes of one row.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let row_bytes = self.data.len() / self.rows;
        &self.data[row * row_bytes..(row + 1) * row_bytes]
    }

    /// The values of one row in f32; `out` has [`TensorView::cols`] values.
    ///
    /// # Panics
    /// When the row or the length of `out` is out of range.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        self.format.dequantize_row(self.row(row), out);
    }
}
