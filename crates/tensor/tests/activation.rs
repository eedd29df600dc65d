//! Quantized activations and their dot products with weights.

use proptest::prelude::*;
use tensor::{Format, QuantizedRow};

/// Allowed error of a dot product, relative to the greatest weight times the sum of the activations' magnitudes: the
/// dequantizer, which serves as oracle, rounds scale and minimum of each sub-block to f32, the dot product does not.
const DOT_TOLERANCE: f64 = 2.0 * f32::EPSILON as f64;

/// Allowed error of an activation in steps: half a step, and the rounding of the step itself.
const HALF_STEP: f64 = 0.5 + 127.0 * f32::EPSILON as f64;

const COLS: usize = 512;

/// Bytes that take COLS values in the largest format.
const MOST_BYTES: usize = 2 * 272;

proptest! {
    #[test]
    fn activations_keep_within_half_a_step(
        values in prop::collection::vec(prop_oneof![3 => -1.0_f32..1.0, 1 => -1e30_f32..1e30, 1 => Just(0.0)], 96),
        block_len in prop::sample::select(vec![32_usize, 48, 256]),
    ) {
        let row = QuantizedRow::quantize(&values, block_len);
        prop_assert_eq!(row.scale.len(), values.len().div_ceil(block_len));
        for (i, &value) in values.iter().enumerate() {
            let scale = f64::from(row.scale[i / block_len]);
            let error = (f64::from(value) - scale * f64::from(row.q[i])).abs();
            prop_assert!(error <= scale * HALF_STEP, "value {i} = {value}: off by {error}, step {scale}");
        }
        for (sum, q) in row.sums.iter().zip(row.q.chunks(16)) {
            prop_assert_eq!(*sum, q.iter().map(|&q| i32::from(q)).sum::<i32>());
        }
    }

    #[test]
    fn dot_product_is_that_of_the_dequantized_rows(
        bytes in prop::collection::vec(any::<u8>(), MOST_BYTES),
        activations in prop::collection::vec(-3.0_f32..3.0, COLS),
    ) {
        for format in Format::ALL.into_iter().filter(|format| format.block_len() > 1) {
            let mut weights = bytes[..format.row_bytes(COLS).expect("whole blocks")].to_vec();
            for block in weights.chunks_exact_mut(format.block_bytes()) {
                tame_scales(format, block);
            }
            let mut values = [0.0; COLS];
            format.dequantize_row(&weights, &mut values);
            let greatest = values.iter().fold(0.0_f64, |max, &w| max.max(f64::from(w).abs()));
            for block_len in [32, 256] {
                let row = QuantizedRow::quantize(&activations, block_len);
                let result = f64::from(format.dot_row(&weights, &row).expect("a quantized format"));
                let (mut expected, mut magnitude) = (0.0, 0.0);
                for i in 0..COLS {
                    let activation = f64::from(row.scale[i / block_len]) * f64::from(row.q[i]);
                    expected += f64::from(values[i]) * activation;
                    magnitude += activation.abs();
                }
                prop_assert!(
                    (result - expected).abs() <= DOT_TOLERANCE * greatest * magnitude,
                    "{} by {block_len}: {result}, expected {expected}", format.name()
                );
            }
        }
    }
}

#[test]
fn activations_that_are_not_numbers_poison_their_block_only() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![1.0; 64];
        values[40] = bad;
        let row = QuantizedRow::quantize(&values, 32);
        assert_eq!(row.scale[0], 1.0 / 127.0);
        assert!(row.scale[1].is_nan());
        let weights = [0x00, 0x3c].into_iter().chain([1; 32]).collect::<Vec<u8>>().repeat(2);
        assert!(Format::Q8_0.dot_row(&weights, &row).expect("quantized").is_nan());
    }
}

#[test]
fn activations_too_small_for_a_scale_are_zero() {
    let row = QuantizedRow::quantize(&[1e-40; 32], 32);
    assert_eq!((row.scale[0], &row.q), (0.0, &vec![0; 32]));
}

#[test]
fn float_formats_have_no_integer_dot_product() {
    let row = QuantizedRow::quantize(&[1.0; 16], 16);
    assert_eq!(Format::F16.dot_row(&[0; 32], &row), None);
}

/// Sets the f16 scales (and MXFP4's exponent) of a random block to ordinary values near 0.07.
fn tame_scales(format: Format, block: &mut [u8]) {
    let offsets: &[usize] = match format {
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[1, 3],
        Format::Q2_K => &[81, 83],
        Format::Q3_K => &[109],
        Format::Q6_K => &[209],
        Format::MXFP4 => &[0],
        _ => &[1],
    };
    for &offset in offsets {
        block[offset] = if format == Format::MXFP4 { 124 } else { 0x2c };
    }
}
