//! Activations as 8-bit integers, and their dot products with quantized weights.
//!
//! This is what the integer kernels of a backend compute, written plainly. A kernel chooses the block length of its
//! activations; the definition holds for any multiple of 16. Float weights take float activations and have no part
//! here. Start with [`QuantizedRow::quantize`] and [`Format::dot_row`].

use super::block::{Block, blocks_of};
use super::{Format, iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// Values that share an entry of [`QuantizedRow::sums`]: the shortest sub-block of any weight format.
pub const SUM_LEN: usize = 16;

/// Greatest magnitude of a quantized activation.
const Q_MAX: f32 = 127.0;

/// A row of activations: value `i` is `scale[i / block_len] * q[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedRow {
    /// Values that share a scale, a multiple of [`SUM_LEN`]. The last block of a row may be shorter.
    pub block_len: usize,
    /// `[cols]`, within -127 and 127.
    pub q: Vec<i8>,
    /// `[cols / block_len, rounded up]`.
    pub scale: Vec<f32>,
    /// `[cols / SUM_LEN]`: sums of `q`, which weights with an offset or a minimum need.
    pub sums: Vec<i32>,
}

impl QuantizedRow {
    /// Each block's scale takes its greatest magnitude to 127; values round to the nearest integer, ties to even.
    ///
    /// A block with an infinity or a NaN gets the scale NaN, which makes every dot product with it NaN. A block whose
    /// values are all below about 4e-37 is zero.
    ///
    /// # Panics
    /// When `block_len` or the number of values is not a multiple of [`SUM_LEN`].
    pub fn quantize(values: &[f32], block_len: usize) -> QuantizedRow {
        assert!(block_len > 0 && block_len.is_multiple_of(SUM_LEN), "activation block of {block_len}");
        assert!(values.len().is_multiple_of(SUM_LEN), "{} activations", values.len());
        let mut q = Vec::with_capacity(values.len());
        let mut scale = Vec::with_capacity(values.len().div_ceil(block_len));
        for block in values.chunks(block_len) {
            let max = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            let inverse = Q_MAX / max;
            if block.iter().any(|x| !x.is_finite()) {
                scale.push(f32::NAN);
                q.resize(q.len() + block.len(), 0);
            } else if !inverse.is_finite() {
                scale.push(0.0);
                q.resize(q.len() + block.len(), 0);
            } else {
                scale.push(max / Q_MAX);
                q.extend(block.iter().map(|x| (x * inverse).round_ties_even() as i8));
            }
        }
        let sums = q.as_chunks::<SUM_LEN>().0.iter().map(|q| q.iter().map(|&q| i32::from(q)).sum()).collect();
        QuantizedRow { block_len, q, scale, sums }
    }
}

impl Format {
    /// The dot product of a row of weights with a row of activations, or `None` for the float formats.
    ///
    /// Within a span of values that share both the weights' `d` and the activations' scale, all is exact in i32:
    /// `t` = sum of `scales[j] * q * a`, `m` = sum of `mins[j] * a`. The result is the sum over the spans of
    /// `scale * (d * t - dmin * m)` in f64, in ascending order, rounded to f32 once: so a kernel's distance from it is
    /// the kernel's own rounding.
    ///
    /// # Panics
    /// When `weights` is not a row of as many values as `activations`, or the activations' block length neither
    /// divides nor is a multiple of the weights'.
    pub fn dot_row(self, weights: &[u8], activations: &QuantizedRow) -> Option<f32> {
        assert_eq!(Some(weights.len()), self.row_bytes(activations.q.len()), "a {} row", self.name());
        match self {
            Format::F32 | Format::F16 | Format::BF16 => None,
            Format::Q4_0 => Some(dot_blocks::<q4_0::Block, _, _>(weights, activations)),
            Format::Q4_1 => Some(dot_blocks::<q4_1::Block, _, _>(weights, activations)),
            Format::Q5_0 => Some(dot_blocks::<q5_0::Block, _, _>(weights, activations)),
            Format::Q5_1 => Some(dot_blocks::<q5_1::Block, _, _>(weights, activations)),
            Format::Q8_0 => Some(dot_blocks::<q8_0::Block, _, _>(weights, activations)),
            Format::Q2_K => Some(dot_blocks::<q2_k::Block, _, _>(weights, activations)),
            Format::Q3_K => Some(dot_blocks::<q3_k::Block, _, _>(weights, activations)),
            Format::Q4_K => Some(dot_blocks::<q4_k::Block, _, _>(weights, activations)),
            Format::Q5_K => Some(dot_blocks::<q5_k::Block, _, _>(weights, activations)),
            Format::Q6_K => Some(dot_blocks::<q6_k::Block, _, _>(weights, activations)),
            Format::IQ4_NL => Some(dot_blocks::<iq4_nl::Block, _, _>(weights, activations)),
            Format::IQ4_XS => Some(dot_blocks::<iq4_xs::Block, _, _>(weights, activations)),
            Format::MXFP4 => Some(dot_blocks::<mxfp4::Block, _, _>(weights, activations)),
        }
    }
}

fn dot_blocks<B: Block<LEN, SUBS>, const LEN: usize, const SUBS: usize>(weights: &[u8], row: &QuantizedRow) -> f32 {
    let sub_len = LEN / SUBS;
    let span_len = LEN.min(row.block_len);
    assert!(
        LEN.is_multiple_of(span_len) && row.block_len.is_multiple_of(span_len) && span_len.is_multiple_of(sub_len),
        "weight blocks of {LEN}, activation blocks of {}",
        row.block_len
    );
    let mut result = 0.0_f64;
    for (block, first) in blocks_of::<B, LEN, SUBS>(weights).iter().zip((0..).step_by(LEN)) {
        let weights = block.unpack();
        for span in (0..LEN).step_by(span_len) {
            let (mut t, mut m) = (0_i32, 0_i32);
            for j in span / sub_len..(span + span_len) / sub_len {
                let (values, at) = (j * sub_len..(j + 1) * sub_len, first + j * sub_len);
                let products = weights.q[values].iter().zip(&row.q[at..at + sub_len]);
                t += i32::from(weights.scales[j]) * products.map(|(&w, &a)| i32::from(w) * i32::from(a)).sum::<i32>();
                let sum: i32 = row.sums[at / SUM_LEN..(at + sub_len) / SUM_LEN].iter().sum();
                m += i32::from(weights.mins[j]) * sum;
            }
            let scale = f64::from(row.scale[(first + span) / row.block_len]);
            result += scale * (f64::from(weights.d) * f64::from(t) - f64::from(weights.dmin) * f64::from(m));
        }
    }
    result as f32
}
