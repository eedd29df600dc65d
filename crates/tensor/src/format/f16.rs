//! F16: IEEE 754 half precision, little-endian. 2 bytes a value.
//!
//! ```text
//! bit 15     14..10           9..0
//!     sign   exponent + 15    mantissa
//! ```

use half::f16;

/// Reads a row; exact.
pub fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f16::from_le_bytes(bytes).to_f32();
    }
}

/// Writes a row; nearest, ties to even.
pub(super) fn quantize(row: &[f32], out: &mut [u8]) {
    for (&x, out) in row.iter().zip(out.as_chunks_mut().0) {
        *out = f16::from_f32(x).to_le_bytes();
    }
}
