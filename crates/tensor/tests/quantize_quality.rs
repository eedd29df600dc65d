//! Quantizers fit weights no worse than llama.cpp's do: see `data/measure_peer.py`.

mod support;

use support::gaussian;
use tensor::Format;

const ROWS: usize = 32;
const COLS: usize = 1024;

/// Allowed error in parts of the other implementation's.
const ALLOWED: f64 = 1.001;

#[test]
fn errors_are_no_greater_than_those_of_the_other_implementation() {
    let importance: Vec<f32> = (0..COLS).map(|col| ((col * 7919 % 97 + 1) as f32).powi(2)).collect();
    let mut worse = Vec::new();
    let mut measured = 0;
    for line in include_str!("data/peer_errors.txt").lines() {
        let [name, kind, plain, weighted] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let format = Format::from_name(name).expect("a format");
        let values = rows(kind);
        for (importance, peer) in [(None, plain), (Some(&importance[..]), weighted)] {
            let error = relative_error(format, &values, importance);
            let peer: f64 = peer.parse().expect("a number");
            measured += 1;
            if error > ALLOWED * peer {
                worse.push(format!("{name} {kind}, importance {}: {error:.6}, peer {peer}", importance.is_some()));
            }
        }
    }
    assert_eq!(measured, 3 * 12 * 2);
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}

/// Root mean square error in parts of the root mean square value.
fn relative_error(format: Format, values: &[f32], importance: Option<&[f32]>) -> f64 {
    let mut bytes = vec![0; format.row_bytes(COLS).expect("whole blocks")];
    let mut found = vec![0.0; COLS];
    let (mut error, mut total) = (0.0, 0.0);
    for row in values.chunks_exact(COLS) {
        format.quantize_row(row, importance, &mut bytes).expect("numbers");
        format.dequantize_row(&bytes, &mut found);
        for (col, (x, y)) in row.iter().zip(&found).enumerate() {
            let weight = importance.map_or(1.0, |importance| f64::from(importance[col]));
            error += weight * (f64::from(*x) - f64::from(*y)).powi(2);
            total += weight * f64::from(*x).powi(2);
        }
    }
    f64::sqrt(error / total)
}

/// The rows that the script makes, to the bit.
fn rows(kind: &str) -> Vec<f32> {
    let mut values = gaussian(ROWS * COLS, 1);
    match kind {
        "gaussian" => {}
        "outliers" => values.iter_mut().step_by(397).for_each(|x| *x *= 20.0),
        "heavy" => values.iter_mut().zip(gaussian(ROWS * COLS, 2)).for_each(|(x, y)| *x *= y * 64.0),
        other => panic!("rows of kind {other}"),
    }
    values
}
