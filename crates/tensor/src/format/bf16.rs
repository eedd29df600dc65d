//! BF16: the upper half of an F32, little-endian. 2 bytes a value.
//!
//! ```text
//! bit 15     14..7             6..0
//!     sign   exponent + 127    mantissa
//! ```

use half::bf16;

/// Reads a row; exact.
pub fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = bf16::from_le_bytes(bytes).to_f32();
    }
}

/// Writes a row; nearest, ties to even, except that no number becomes infinite.
pub(super) fn quantize(row: &[f32], out: &mut [u8]) {
    for (&x, out) in row.iter().zip(out.as_chunks_mut().0) {
        let greatest = bf16::MAX.to_f32();
        *out = bf16::from_f32(x.clamp(-greatest, greatest)).to_le_bytes();
    }
}
