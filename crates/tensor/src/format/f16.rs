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
