//! The form that quantized weights take on a GPU.
//!
//! A kernel reads 32-bit words, but several GGUF blocks are a multiple of 2 bytes only (q8_0 has 34, q6_k 210). For these
//! the half-precision block scale is taken out: a row is first the scales of all its blocks, padded to 16 bytes, then the
//! rest of each block, which is a multiple of 4. The size stays that of the file but for the padding. Blocks that are a
//! multiple of 4 bytes stay as they are in the file, so that such tensors can be used in place.

use tensor::Format;

/// Weights that a lane of a kernel takes at a time.
pub(crate) const UNIT: usize = 32;

/// Where the parts of a row lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowLayout {
    /// Bytes of the leading scales, 0 where blocks are left as they are.
    pub(crate) header_bytes: usize,
    /// Bytes of a block after the header.
    pub(crate) block_bytes: usize,
    /// Bytes from one row to the next, a multiple of 4.
    pub(crate) stride_bytes: usize,
}

/// Where a block's f16 scale is, for the formats that have it taken out.
fn scale_offset(format: Format) -> Option<usize> {
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::IQ4_NL => Some(0),
        Format::Q3_K => Some(108),
        Format::Q6_K => Some(208),
        _ => None,
    }
}

/// Whether a matrix of `cols` columns lies in a file as the kernels read it.
pub(crate) fn is_as_in_file(format: Format, cols: usize) -> bool {
    let row_bytes = format.row_bytes(cols).unwrap_or(0);
    is_native(format) && RowLayout::new(format, cols).stride_bytes == row_bytes && scale_offset(format).is_none()
}

/// Whether the kernels read this format; others are converted when a model is loaded.
pub(crate) fn is_native(format: Format) -> bool {
    use Format::*;
    matches!(format, F32 | F16 | BF16 | Q4_0 | Q4_1 | Q5_0 | Q8_0 | Q3_K | Q4_K | Q5_K | Q6_K | IQ4_NL)
}

impl RowLayout {
    /// The layout of a row of `cols` weights.
    pub(crate) fn new(format: Format, cols: usize) -> RowLayout {
        // Unquantized rows are padded with zeros to whole units.
        let cols = if format.block_len() == 1 { cols.next_multiple_of(UNIT) } else { cols };
        let blocks = cols / format.block_len();
        match scale_offset(format) {
            Some(_) => {
                let header_bytes = (2 * blocks).next_multiple_of(16);
                let block_bytes = format.block_bytes() - 2;
                RowLayout { header_bytes, block_bytes, stride_bytes: header_bytes + blocks * block_bytes }
            }
            None => {
                let row_bytes = blocks * format.block_bytes();
                RowLayout {
                    header_bytes: 0,
                    block_bytes: format.block_bytes(),
                    stride_bytes: row_bytes.next_multiple_of(4),
                }
            }
        }
    }

    /// Lays out one row of the file, `row`, into `out` of [`RowLayout::stride_bytes`].
    pub(crate) fn fill(&self, format: Format, row: &[u8], out: &mut [u8]) {
        let Some(scale) = scale_offset(format) else {
            out[..row.len()].copy_from_slice(row);
            out[row.len()..].fill(0);
            return;
        };
        let (header, body) = out.split_at_mut(self.header_bytes);
        header.fill(0);
        for (index, block) in row.chunks_exact(format.block_bytes()).enumerate() {
            header[2 * index..2 * index + 2].copy_from_slice(&block[scale..scale + 2]);
            let rest = &mut body[index * self.block_bytes..(index + 1) * self.block_bytes];
            rest[..scale].copy_from_slice(&block[..scale]);
            rest[scale..].copy_from_slice(&block[scale + 2..]);
        }
    }
}
