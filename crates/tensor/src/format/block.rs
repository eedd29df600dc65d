//! What all quantized formats have in common: a block unpacks to small integers with a few scales.
//!
//! Start with [`Block`]. The float formats (F32, F16, BF16) are no blocks; they convert value by value.

use bytemuck::Pod;
use half::f16;

/// A quantized block of `LEN` values in `SUBS` sub-blocks of equal length, laid out as in a GGUF file.
///
/// Every block type consists of bytes only (alignment 1), so that a row can be read in place wherever a file put it.
pub trait Block<const LEN: usize, const SUBS: usize>: Pod {
    /// The block's integers and scales: the definition of what its bytes mean.
    fn unpack(&self) -> Unpacked<LEN, SUBS>;

    /// The block's values, rounded as other implementations round them: see [`Unpacked::dequantize`].
    fn dequantize(&self, out: &mut [f32; LEN]) {
        self.unpack().dequantize(out);
    }
}

/// A block as integers. Value `i` of sub-block `j = i / (LEN / SUBS)` is
/// `d * scales[j] * q[i] - dmin * mins[j]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unpacked<const LEN: usize, const SUBS: usize> {
    /// Scale of the whole block.
    pub d: f32,
    /// Scale of the minima; 0.0 in formats without.
    pub dmin: f32,
    /// Integer scale of each sub-block; 1 in formats without.
    pub scales: [i8; SUBS],
    /// Integer minimum of each sub-block, subtracted; 0 in formats without.
    pub mins: [u8; SUBS],
    /// The quantized values, with any constant offset or codebook already applied.
    pub q: [i8; LEN],
}

impl<const LEN: usize, const SUBS: usize> Unpacked<LEN, SUBS> {
    /// The values in f32. The order of operations is part of the definition: `d * scale` and `dmin * min` are each
    /// rounded, then their use is: `(d * scale) * q - (dmin * min)`.
    pub fn dequantize(&self, out: &mut [f32; LEN]) {
        let sub_len = LEN / SUBS;
        for (j, (out, q)) in out.chunks_exact_mut(sub_len).zip(self.q.chunks_exact(sub_len)).enumerate() {
            let scale = self.d * f32::from(self.scales[j]);
            let min = self.dmin * f32::from(self.mins[j]);
            for (out, &q) in out.iter_mut().zip(q) {
                *out = scale * f32::from(q) - min;
            }
        }
    }
}

/// The blocks of a row, in place.
pub(super) fn blocks_of<B: Block<LEN, SUBS>, const LEN: usize, const SUBS: usize>(bytes: &[u8]) -> &[B] {
    bytemuck::cast_slice(bytes)
}

/// An IEEE half in two little-endian bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct F16Bytes(pub [u8; 2]);

impl F16Bytes {
    /// Nearest half, ties to even.
    pub fn from_f32(value: f32) -> F16Bytes {
        F16Bytes(f16::from_f32(value).to_le_bytes())
    }

    /// Nearest half, except that a scale which would vanish becomes the least there is: integers and integer scales can
    /// still make something of it.
    pub fn from_scale(scale: f32) -> F16Bytes {
        let half = f16::from_f32(scale);
        let vanished = half.to_f32() == 0.0 && scale != 0.0;
        F16Bytes(if vanished { f16::MIN_POSITIVE_SUBNORMAL.copysign(half) } else { half }.to_le_bytes())
    }

    /// Next half of no less magnitude: a scale that certainly spans.
    pub fn spanning(scale: f32) -> F16Bytes {
        let half = f16::from_f32(scale);
        let short = half.to_f32().abs() < scale.abs();
        F16Bytes((half.to_bits() + u16::from(short)).to_le_bytes())
    }

    /// The value, exactly.
    pub fn to_f32(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }
}

/// 32 four-bit integers: the low nibbles of 16 bytes, then the high ones.
pub(super) fn nibbles_of_16(bytes: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| (bytes[i % 16] >> (4 * (i / 16))) & 0xf)
}

/// The inverse of [`nibbles_of_16`].
pub(super) fn pack_nibbles_of_16(values: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| values[i] | values[i + 16] << 4)
}
