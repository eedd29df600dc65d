//! Quantizers: error bounds on ordinary and extreme rows, what importance does, what bad values do.

mod support;

use proptest::prelude::*;
use support::gaussian;
use tensor::{Format, QuantizeError};

const COLS: usize = 512;

/// The least f16 above zero: a scale is a multiple of it.
const LEAST_SCALE: f32 = 5.960_464_5e-8;

/// Bound on the root mean square error of a block, in parts of its greatest magnitude: what the plain choice of scales
/// allows, which the search must not exceed; and the greatest factor of a scale, which counts where scales are so small
/// that f16 rounds them by a large part.
///
/// The plain choice: a step spans the range [-max, max] in `top` parts for formats with minimum, and -max is `half`
/// steps for the others, in which case +max is clipped by a step. Integer scales add half a unit of the scale and of
/// the minimum.
fn error_bound(format: Format) -> (f32, f32) {
    let affine = |top: f32, scale_top: f32| 1.0 / top + 1.5 / scale_top;
    match format {
        Format::F32 => (0.0, 0.0),
        Format::F16 => (0.5_f32.powi(11), 1.0),
        Format::BF16 => (0.5_f32.powi(8), 0.0),
        Format::Q4_0 => (1.0 / 8.0, 8.0),
        Format::Q4_1 => (1.0 / 15.0, 15.0),
        Format::Q5_0 => (1.0 / 16.0, 16.0),
        Format::Q5_1 => (1.0 / 31.0, 31.0),
        Format::Q8_0 => (0.5 / 127.0, 127.0),
        Format::Q2_K => (affine(3.0, 15.0), 15.0 * 3.0),
        Format::Q3_K => (1.0 / 4.0 + 0.5 / 32.0, 32.0 * 4.0),
        Format::Q4_K => (affine(15.0, 63.0), 63.0 * 15.0),
        Format::Q5_K => (affine(31.0, 63.0), 63.0 * 31.0),
        Format::Q6_K => (1.0 / 32.0 + 0.5 / 128.0, 128.0 * 32.0),
        Format::IQ4_NL => (12.0 / 127.0, 127.0),
        Format::IQ4_XS => (12.0 / 127.0 + 0.5 / 32.0, 32.0 * 127.0),
        Format::MXFP4 => (1.0 / 4.0, 0.0),
    }
}

/// A row of one of the kinds that break quantizers.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let magnitude = prop_oneof![Just(1.0_f32), Just(0.02), Just(3e4), Just(1e-3), Just(1e-5), Just(1e-7), Just(1e-30)];
    let kind = prop_oneof![
        prop::collection::vec(-1.0_f32..1.0, COLS),
        prop::collection::vec(0.5_f32..1.0, COLS),
        prop::collection::vec(-1.0_f32..-0.9, COLS),
        prop::collection::vec(prop_oneof![9 => Just(0.0_f32), 1 => -1.0_f32..1.0], COLS),
        (prop::collection::vec(-0.01_f32..0.01, COLS), 0..COLS, prop::sample::select(vec![-1.0_f32, 1.0])).prop_map(
            |(mut row, at, outlier)| {
                row[at] = outlier;
                row
            }
        ),
        (-1.0_f32..1.0).prop_map(|constant| vec![constant; COLS]),
        prop::sample::select(vec![0.0_f32, -0.0]).prop_map(|zero| vec![zero; COLS]),
    ];
    (kind, magnitude).prop_map(|(row, magnitude)| row.into_iter().map(|x| x * magnitude).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn quantized_rows_keep_the_error_bound(row in rows()) {
        for format in Format::ALL {
            let values = round_trip(format, &row, None);
            let (relative, factor) = error_bound(format);
            let block_len = format.block_len();
            for (block, (x, y)) in row.chunks(block_len).zip(values.chunks(block_len)).enumerate() {
                let greatest = x.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                let mean_square = x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / x.len() as f64;
                let bound = 1.001 * (relative * greatest + 0.5 * factor * LEAST_SCALE);
                prop_assert!(
                    mean_square.sqrt() <= f64::from(bound),
                    "{} block {block}: error {:e}, bound {bound:e}, greatest value {greatest:e}",
                    format.name(), mean_square.sqrt()
                );
            }
        }
    }

    #[test]
    fn formats_without_search_are_idempotent(row in rows()) {
        // Below this, Q8_0's scale is no normal f16 any more.
        let row: Vec<f32> = row.iter().map(|x| if x.abs() < 0.01 { 0.0 } else { *x }).collect();
        for format in [Format::F32, Format::F16, Format::BF16, Format::Q8_0] {
            let once = round_trip(format, &row, None);
            let twice = round_trip(format, &once, None);
            prop_assert_eq!(&once, &twice, "{}", format.name());
        }
    }

    #[test]
    fn importance_counts_by_ratio_only(row in prop::collection::vec(-1.0_f32..1.0, COLS), importance in prop::collection::vec(0.0_f32..4.0, COLS)) {
        let greater: Vec<f32> = importance.iter().map(|x| x * 1024.0).collect();
        for format in Format::ALL {
            prop_assert_eq!(quantize(format, &row, Some(&importance)), quantize(format, &row, Some(&greater)));
            prop_assert_eq!(quantize(format, &row, None), quantize(format, &row, Some(&[0.0; COLS])));
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for format in Format::ALL {
        for zero in [0.0, -0.0] {
            assert!(round_trip(format, &[zero; COLS], None).iter().all(|&x| x == 0.0), "{}", format.name());
        }
    }
}

#[test]
fn importance_moves_error_to_columns_that_matter_less() {
    let row = gaussian(COLS * 16, 7);
    let importance: Vec<f32> = (0..row.len()).map(|i| if i % 7 == 0 { 50.0 } else { 1.0 }).collect();
    let cost = |values: &[f32]| -> f64 {
        let square = |((x, y), w): ((&f32, &f32), &f32)| f64::from(w * (x - y).powi(2));
        row.iter().zip(values).zip(&importance).map(square).sum()
    };
    for format in Format::ALL.into_iter().filter(|&format| format.block_len() > 1 && format != Format::Q8_0) {
        let with = cost(&round_trip(format, &row, Some(&importance)));
        let without = cost(&round_trip(format, &row, None));
        assert!(with < 0.98 * without, "{}: {with} with importance, {without} without", format.name());
    }
}

#[test]
fn values_that_are_no_numbers_are_refused() {
    for format in Format::ALL {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = vec![0.5; COLS];
            row[300] = bad;
            let error = try_quantize(format, &row, None).expect_err("no number");
            assert!(matches!(error, QuantizeError::Value { index: 300, .. }), "{}: {error}", format.name());
        }
    }
}

#[test]
fn values_beyond_the_limit_are_refused_and_named() {
    let mut row = vec![0.5; COLS];
    row[3] = -1e6;
    let error = try_quantize(Format::Q4_K, &row, None).expect_err("too great");
    assert_eq!(error.to_string(), "value -1000000 at column 3 does not fit q4_k: its limit is 32768");
    assert!(try_quantize(Format::F16, &row, None).is_err());
    assert_eq!(round_trip(Format::BF16, &row, None)[3], -999_424.0);
    assert_eq!(round_trip(Format::BF16, &[f32::MAX], None), [f32::from_bits(0x7f7f_0000)]);
}

#[test]
fn bad_importance_is_refused_and_named() {
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let mut importance = vec![1.0; COLS];
        importance[9] = bad;
        let error = try_quantize(Format::Q4_K, &[0.5; COLS], Some(&importance)).expect_err("no importance");
        assert!(matches!(error, QuantizeError::Importance { index: 9, .. }), "{error}");
    }
}

fn round_trip(format: Format, row: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let bytes = quantize(format, row, importance);
    let mut values = vec![f32::NAN; row.len()];
    format.dequantize_row(&bytes, &mut values);
    values
}

fn quantize(format: Format, row: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    try_quantize(format, row, importance).expect("numbers")
}

fn try_quantize(format: Format, row: &[f32], importance: Option<&[f32]>) -> Result<Vec<u8>, QuantizeError> {
    let mut bytes = vec![0xa5; format.row_bytes(row.len()).expect("whole blocks")];
    format.quantize_row(row, importance, &mut bytes).map(|()| bytes)
}
