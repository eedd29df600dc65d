//! Quantizing rows of weights, in any format.
//!
//! Rows are independent of one another and nothing is allocated, so that threads can share a matrix by rows. What is
//! best is a weighted least-squares fit: see `fit`. Activations are quantized in [`super::activation`].

use bytemuck::Pod;

use super::{
    Format, bf16, f16, f32, iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0,
};

/// Greatest magnitude of a value in the quantized formats. Far above any network's weights, and low enough
/// for every scale and minimum to be finite.
pub const MOST_MAGNITUDE: f32 = 32_768.0;

impl Format {
    /// Quantizes a row, or any run of whole blocks. `importance` says what a squared error in each column costs, by
    /// any common factor (the mean square of the activations that meet the column is the natural choice); without it
    /// all columns cost the same.
    ///
    /// # Errors
    /// [`QuantizeError`] for values or importances that are no use; `out` is then unspecified.
    ///
    /// # Panics
    /// When `out` is not what `row.len()` values take, or `importance` differs from `row` in length.
    pub fn quantize_row(self, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) -> Result<(), QuantizeError> {
        assert_eq!(Some(out.len()), self.row_bytes(row.len()), "{} bytes of {} values", self.name(), row.len());
        let limit = match self {
            Format::F32 | Format::BF16 => f32::MAX,
            Format::F16 => half::f16::MAX.to_f32(),
            _ => MOST_MAGNITUDE,
        };
        if let Some(index) = row.iter().position(|x| !x.is_finite() || x.abs() > limit) {
            return Err(QuantizeError::Value { index, value: row[index], format: self, limit });
        }
        let columns = Columns::new(importance, row.len())?;
        match self {
            Format::F32 => f32::quantize(row, out),
            Format::F16 => f16::quantize(row, out),
            Format::BF16 => bf16::quantize(row, out),
            Format::Q4_0 => quantize_chunks(row, columns, out, q4_0::quantize),
            Format::Q4_1 => quantize_chunks(row, columns, out, q4_1::quantize),
            Format::Q5_0 => quantize_chunks(row, columns, out, q5_0::quantize),
            Format::Q5_1 => quantize_chunks(row, columns, out, q5_1::quantize),
            Format::Q8_0 => quantize_chunks(row, columns, out, q8_0::quantize),
            Format::Q2_K => quantize_chunks(row, columns, out, q2_k::quantize),
            Format::Q3_K => quantize_chunks(row, columns, out, q3_k::quantize),
            Format::Q4_K => quantize_chunks(row, columns, out, q4_k::quantize),
            Format::Q5_K => quantize_chunks(row, columns, out, q5_k::quantize),
            Format::Q6_K => quantize_chunks(row, columns, out, q6_k::quantize),
            Format::IQ4_NL => quantize_chunks(row, columns, out, iq4_nl::quantize),
            Format::IQ4_XS => quantize_chunks(row, columns, out, iq4_xs::quantize),
            Format::MXFP4 => quantize_chunks(row, columns, out, mxfp4::quantize),
        }
        Ok(())
    }
}

/// Why a row could not be quantized.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum QuantizeError {
    /// NaN, infinite, or too great for the format.
    #[error("value {value} at column {index} does not fit {}: its limit is {limit}", .format.name())]
    Value {
        /// Its place in the row.
        index: usize,
        /// The value.
        value: f32,
        /// What it was to become.
        format: Format,
        /// Greatest magnitude.
        limit: f32,
    },
    /// An importance that is negative or not finite.
    #[error("importance {value} at column {index} is not a finite number from 0")]
    Importance {
        /// Its place in the row.
        index: usize,
        /// The importance.
        value: f32,
    },
}

/// What squared errors cost, column by column.
#[derive(Clone, Copy)]
struct Columns<'a> {
    importance: Option<&'a [f32]>,
    inverse_mean: f32,
}

impl<'a> Columns<'a> {
    fn new(importance: Option<&'a [f32]>, cols: usize) -> Result<Columns<'a>, QuantizeError> {
        let Some(values) = importance else { return Ok(Columns { importance, inverse_mean: 1.0 }) };
        assert_eq!(values.len(), cols, "importances of {cols} columns");
        if let Some(index) = values.iter().position(|x| !x.is_finite() || *x < 0.0) {
            return Err(QuantizeError::Importance { index, value: values[index] });
        }
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / cols.max(1) as f64;
        let inverse_mean = (1.0 / mean) as f32;
        let usable = inverse_mean.is_normal();
        Ok(Columns { importance: importance.filter(|_| usable), inverse_mean })
    }

    fn weights(&self, first: usize, weights: &mut [f32]) {
        let Some(importance) = self.importance else { return weights.fill(1.0) };
        for (weight, importance) in weights.iter_mut().zip(&importance[first..]) {
            *weight = (importance * self.inverse_mean).clamp(LEAST_IMPORTANCE, MOST_IMPORTANCE);
        }
    }
}

/// Quantizes by chunks of at most [`CHUNK`] values. `quantize` gets the values, the weights and the blocks of a chunk.
fn quantize_chunks<B: Pod>(
    row: &[f32],
    columns: Columns<'_>,
    out: &mut [u8],
    quantize: impl Fn(&[f32], &[f32], &mut [B]),
) {
    let blocks: &mut [B] = bytemuck::cast_slice_mut(out);
    if blocks.is_empty() {
        return;
    }
    let blocks_per_chunk = CHUNK / (row.len() / blocks.len());
    let mut weights = [1.0; CHUNK];
    for (chunk, (values, blocks)) in row.chunks(CHUNK).zip(blocks.chunks_mut(blocks_per_chunk)).enumerate() {
        let weights = &mut weights[..values.len()];
        columns.weights(chunk * CHUNK, weights);
        quantize(values, weights, blocks);
    }
}

/// Values that are quantized at a time: the longest block.
pub(super) const CHUNK: usize = 256;

/// Least importance of a column in relation to the mean, so that columns which a calibration text never reached
/// are not torn apart.
const LEAST_IMPORTANCE: f32 = 1e-3;

/// Greatest importance of a column in relation to the mean, which keeps sums in f32 exact enough.
const MOST_IMPORTANCE: f32 = 1e4;
