//! F32: IEEE 754 single precision, little-endian. 4 bytes a value.

/// Reads a row.
pub fn dequantize(bytes: &[u8], out: &mut [f32]) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_le_bytes(bytes);
    }
}

/// Writes a row.
pub(super) fn quantize(row: &[f32], out: &mut [u8]) {
    for (&x, out) in row.iter().zip(out.as_chunks_mut().0) {
        *out = x.to_le_bytes();
    }
}
