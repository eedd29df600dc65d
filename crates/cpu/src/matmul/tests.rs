//! Every format on every instruction set of this machine: against the definition in `tensor::format`, against the scalar
//! kernels, and against itself in batches of other sizes.

use tensor::{Format, TensorView};

use crate::activation::{Activations, Form};
use crate::pack::{PackedMatrix, Stacking};
use crate::{Isa, Pool, PoolConfig};

/// Rows of activations: every tile size, and several tiles, few and many, whose last has one, two, three or four rows.
const BATCHES: [usize; 17] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 18, 23, 24, 33];

fn pool() -> Pool {
    Pool::new(&PoolConfig { threads: Some(2), pin: false }).expect("two threads")
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In `[-1, 1)`.
    fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Where the scales of a block are, so that random bytes make numbers of ordinary size.
fn half_scales(format: Format) -> &'static [usize] {
    match format {
        Format::F32 | Format::F16 | Format::BF16 | Format::MXFP4 => &[],
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::IQ4_NL | Format::IQ4_XS => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q2_K => &[80, 82],
        Format::Q3_K => &[108],
        Format::Q6_K => &[208],
    }
}

/// Random weights in a format; every bit pattern of a block except for its scales, which are ordinary numbers. Some blocks
/// have the least or the greatest of everything, so that sums reach the limits of 16 bits.
fn weights(format: Format, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0; rows * format.row_bytes(cols).expect("whole blocks")];
    bytes.fill_with(|| random.bits() as u8);
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        let extreme = random.bits() as usize % 8;
        if extreme < 2 {
            block.fill([0x00, 0xff][extreme]);
            // Scales that are whole signed bytes.
            if format == Format::Q6_K {
                block[192..208].fill([0x80, 0x7f][extreme]);
            }
        }
        match format {
            Format::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            Format::F16 => block.copy_from_slice(&half::f16::from_f32(random.float()).to_le_bytes()),
            Format::BF16 => block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes()),
            Format::MXFP4 => block[0] = 120 + (random.bits() % 8) as u8,
            _ => {}
        }
        for &at in half_scales(format) {
            let scale = half::f16::from_f32(random.float() * 0.01);
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

/// Activations with outliers, blocks of equal magnitude and blocks of zeros among ordinary ones. Some super-blocks are of
/// equal magnitude throughout: an outlier would leave the others small.
fn activations(rows: usize, cols: usize, random: &mut Random) -> Vec<f32> {
    let mut values: Vec<f32> = (0..rows * cols).map(|_| random.float()).collect();
    for super_block in values.chunks_mut(256) {
        let is_flat = random.bits().is_multiple_of(4);
        for block in super_block.chunks_mut(32) {
            match random.bits() % 8 {
                _ if is_flat => block.fill(0.7_f32.copysign(block[0])),
                0 => block.fill(0.0),
                1 => block.iter_mut().for_each(|x| *x = x.signum()),
                2 => block.fill(0.7_f32.copysign(block[0])),
                3 => block[0] *= 100.0,
                4 => block.iter_mut().for_each(|x| *x *= 0.01),
                _ => {}
            }
        }
    }
    values
}

/// Rows and columns of weights; with super-blocks up to more panels than are spread at once.
fn shapes(format: Format) -> [(usize, usize); 3] {
    match format.block_len() {
        256 => [(16, 256), (33, 768), (70, 512)],
        32 => [(16, 32), (33, 576), (50, 160)],
        _ => [(16, 32), (33, 100), (50, 75)],
    }
}

/// Products as `[row of activations][row of weights]`, all panels at once.
fn multiply(matrix: &PackedMatrix, isa: Isa, values: &[f32]) -> Vec<Vec<f32>> {
    let rows = values.len() / matrix.cols();
    let mut activations = Activations::new(isa, matrix.forms(), rows, matrix.cols());
    activations.fill(values);
    let mut out = vec![f32::NAN; matrix.panels() * rows * matrix.panel_rows()];
    matrix.multiply(0..matrix.panels(), &activations, &mut out);
    let product = |t: usize, row: usize| {
        let (panel, lane) = matrix.place_of(0, row);
        out[(panel * rows + t) * matrix.panel_rows() + lane]
    };
    (0..rows).map(|t| (0..matrix.rows()).map(|row| product(t, row)).collect()).collect()
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn packed_rows_unpack_to_the_definition() {
    let pool = pool();
    let mut random = Random(1);
    for format in Format::ALL {
        for isa in Isa::available() {
            for (rows, cols) in shapes(format) {
                let data = weights(format, rows, cols, &mut random);
                let view = TensorView::new(format, rows, cols, &data).expect("sizes agree");
                for stacking in [Stacking::Concatenated, Stacking::Interleaved] {
                    let matrix = PackedMatrix::pack(&[view, view], stacking, isa, &pool).expect("packs");
                    let (mut expected, mut got) = (vec![0.0; cols], vec![0.0; cols]);
                    for row in 0..2 * rows {
                        view.dequantize_row(row % rows, &mut expected);
                        matrix.dequantize_row(row, &mut got);
                        assert_eq!(got, expected, "{format:?} {isa} row {row} of {rows} x {cols}");
                    }
                }
            }
        }
    }
}

/// Pieces are told once, and nearly all of the part.
#[test]
fn what_has_been_packed_is_told_piece_by_piece() {
    let (rows, cols) = (4099, 512);
    let data = weights(Format::F32, rows, cols, &mut Random(3));
    let view = TensorView::new(Format::F32, rows, cols, &data).expect("sizes agree");
    let told = std::sync::Mutex::new(Vec::new());
    let tell = |bytes: &[u8]| {
        let start = bytes.as_ptr() as usize - data.as_ptr() as usize;
        told.lock().expect("no panic").push(start..start + bytes.len());
    };
    PackedMatrix::pack_and_tell(&[view], Stacking::Concatenated, Isa::detect(), &pool(), &tell).expect("packs");
    let mut told = told.into_inner().expect("no panic");
    told.sort_by_key(|range| range.start);
    assert!(told.windows(2).all(|pair| pair[0].end <= pair[1].start), "{told:?}");
    let total: usize = told.iter().map(ExactSizeIterator::len).sum();
    assert!(total <= data.len() && total + (2 << 20) > data.len(), "{total} of {}", data.len());
}

#[test]
fn products_are_the_same_bits_on_every_isa_and_in_every_batch() {
    let pool = pool();
    let mut random = Random(2);
    for format in Format::ALL {
        for (rows, cols) in shapes(format) {
            let data = weights(format, rows, cols, &mut random);
            let view = TensorView::new(format, rows, cols, &data).expect("sizes agree");
            let scalar = PackedMatrix::pack(&[view], Stacking::Concatenated, Isa::Scalar, &pool).expect("packs");
            for batch in BATCHES {
                let values = activations(batch, cols, &mut random);
                let alone = |matrix: &PackedMatrix, isa: Isa| -> Vec<Vec<f32>> {
                    values.chunks(cols).flat_map(|row| multiply(matrix, isa, row)).collect()
                };
                let expected = alone(&scalar, Isa::Scalar);
                for isa in Isa::available() {
                    let matrix = PackedMatrix::pack(&[view], Stacking::Concatenated, isa, &pool).expect("packs");
                    let got = multiply(&matrix, isa, &values);
                    // Products of bf16 are rounded as the processor likes: they are equal to themselves alone.
                    let own = matrix.forms().contains(Form::Bf16).then(|| alone(&matrix, isa));
                    let expected = own.as_ref().unwrap_or(&expected);
                    assert_eq!(bits(&got), bits(expected), "{format:?} {isa} {rows} x {cols} by {batch}");
                }
            }
        }
    }
}

#[test]
fn products_are_near_those_of_float_activations() {
    /// Of the product of the norms. 8-bit activations: a rounding error of up to 1/254 of the greatest value in a block,
    /// evenly spread, independent.
    const TOLERANCE_INT8: f64 = 0.03;
    /// f32 sums of some hundred products.
    const TOLERANCE_F32: f64 = 1e-6;
    let pool = pool();
    let mut random = Random(3);
    for format in Format::ALL {
        for isa in Isa::available() {
            for (rows, cols) in shapes(format) {
                let data = weights(format, rows, cols, &mut random);
                let view = TensorView::new(format, rows, cols, &data).expect("sizes agree");
                let matrix = PackedMatrix::pack(&[view], Stacking::Concatenated, isa, &pool).expect("packs");
                let values = activations(3, cols, &mut random);
                let got = multiply(&matrix, isa, &values);
                let is_bf16 = matrix.forms().contains(Form::Bf16);
                let is_float = is_bf16 || matrix.forms().contains(Form::F32);
                let tolerance = if is_float { TOLERANCE_F32 } else { TOLERANCE_INT8 };
                // Rounding activations to bf16 is meant; nothing but that may be lost.
                let meant = |a: f32| if is_bf16 { half::bf16::from_f32(a).to_f32() } else { a };
                let mut w = vec![0.0; cols];
                for row in 0..rows {
                    view.dequantize_row(row, &mut w);
                    let norm = |v: &[f32]| v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                    for (t, a) in values.chunks(cols).enumerate() {
                        let exact: f64 = w.iter().zip(a).map(|(&w, &a)| f64::from(w) * f64::from(meant(a))).sum();
                        let error = (f64::from(got[t][row]) - exact).abs() / (norm(&w) * norm(a)).max(1e-30);
                        assert!(error <= tolerance, "{format:?} {isa} {rows} x {cols}: row {row}: {error}");
                    }
                }
            }
        }
    }
}
