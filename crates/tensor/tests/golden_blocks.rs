//! Dequantizers against blocks that another implementation dequantized: see `data/make_golden.py`.

use std::path::PathBuf;

use tensor::{Format, TensorView};

/// Values a record holds for the float formats.
const FLOAT_RUN: usize = 32;

#[test]
fn every_format_reads_blocks_as_the_other_implementation_does() {
    for format in Format::ALL {
        let records = Records::open(format);
        assert!(records.count() >= 8, "{}: {} records", format.name(), records.count());
        for index in 0..records.count() {
            let (bytes, expected) = records.get(index);
            let mut values = vec![f32::MAX; expected.len()];
            format.dequantize_row(bytes, &mut values);
            for (i, (&value, &expected)) in values.iter().zip(&expected).enumerate() {
                assert!(
                    same(value, expected),
                    "{} block {index} value {i}: {value:e}, expected {expected:e}",
                    format.name()
                );
            }
        }
    }
}

#[test]
fn tensor_view_reads_its_rows_at_any_alignment() {
    for format in Format::ALL {
        let records = Records::open(format);
        let (first, expected) = records.get(2);
        let rows = [&[0_u8], first, first].concat();
        let view = TensorView::new(format, 2, expected.len(), &rows[1..]).expect("two rows");
        let mut values = vec![0.0; expected.len()];
        view.dequantize_row(1, &mut values);
        assert!(values.iter().zip(&expected).all(|(&value, &expected)| same(value, expected)), "{}", format.name());
    }
}

/// Equal bits, or both NaN: sign and payload of a NaN are the processor's.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

struct Records {
    data: Vec<u8>,
    block_bytes: usize,
    values: usize,
}

impl Records {
    fn open(format: Format) -> Records {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/golden/{}.bin", format.name()));
        let data = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let values = if format.block_len() == 1 { FLOAT_RUN } else { format.block_len() };
        let block_bytes = format.row_bytes(values).expect("whole blocks");
        assert_eq!(data.len() % (block_bytes + 4 * values), 0, "{}", path.display());
        Records { data, block_bytes, values }
    }

    fn count(&self) -> usize {
        self.data.len() / (self.block_bytes + 4 * self.values)
    }

    fn get(&self, index: usize) -> (&[u8], Vec<f32>) {
        let size = self.block_bytes + 4 * self.values;
        let (block, values) = self.data[index * size..(index + 1) * size].split_at(self.block_bytes);
        (block, values.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }
}
