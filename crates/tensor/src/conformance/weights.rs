//! Random weights: bytes that are valid in a format and decode to values of a wanted size.

use half::{bf16, f16};

use super::net::Fill;
use crate::{Format, TensorView};

/// A small counter-based generator (splitmix64): cases must be the same on every machine, for ever.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// A generator whose stream depends on every part of `key`.
    pub(super) fn new(key: &[u64]) -> Random {
        key.iter().fold(Random(0), |random, &part| Random(random.0 ^ part).stepped())
    }

    fn stepped(mut self) -> Random {
        let state = self.next();
        Random(state)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `[0, below)`.
    pub(super) fn below(&mut self, below: usize) -> usize {
        (self.next() % below as u64) as usize
    }

    /// In `[0, 1)`.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Mean 0, standard deviation 1: the sum of twelve uniform values is near enough to a normal one.
    pub(super) fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }

    /// A permutation of `[0, len)`.
    pub(super) fn permutation(&mut self, len: usize) -> Vec<u32> {
        let mut items: Vec<u32> = (0..len as u32).collect();
        for i in (1..len).rev() {
            items.swap(i, self.below(i + 1));
        }
        items
    }
}

/// Random values of a format, `values` of them (whole blocks), with a root mean square of about `rms`; equal seeds give
/// equal bytes on every machine.
///
/// # Panics
/// When `values` is no whole number of blocks.
pub fn random_values(format: Format, values: usize, rms: f32, seed: u64) -> Vec<u8> {
    Weights::new(Fill::Random(format), 1, values, rms, &mut Random::new(&[seed])).data
}

/// A matrix in file layout, owned.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    format: Format,
    rows: usize,
    cols: usize,
    data: Vec<u8>,
}

impl Weights {
    /// `rows` x `cols` values; random ones have a root mean square of about `rms`.
    pub(super) fn new(fill: Fill, rows: usize, cols: usize, rms: f32, random: &mut Random) -> Weights {
        let format = match fill {
            Fill::Random(format) => format,
            Fill::Zero | Fill::Identity => Format::F32,
        };
        let blocks = rows * cols / format.block_len();
        let mut data = Vec::with_capacity(blocks * format.block_bytes());
        match fill {
            Fill::Random(_) => (0..blocks).for_each(|_| data.extend(random_block(format, rms, random))),
            Fill::Zero => data.resize(4 * rows * cols, 0),
            Fill::Identity => {
                for i in 0..rows * cols {
                    let value = if i / cols == i % cols { 1.0f32 } else { 0.0 };
                    data.extend(value.to_le_bytes());
                }
            }
        }
        Weights { format, rows, cols, data }
    }

    pub(super) fn view(&self) -> TensorView<'_> {
        TensorView::new(self.format, self.rows, self.cols, &self.data).expect("made of whole blocks")
    }
}

/// A block of random bytes whose scales are set so that its values have a root mean square of about `rms`. Scales differ
/// from block to block, in sign too, and the quants take every value that the bits allow.
fn random_block(format: Format, rms: f32, random: &mut Random) -> Vec<u8> {
    /// f16 scales of a block: where the scale lies, the root mean square of a value at scale 1, and where the minimum
    /// lies and how many scales it is, so that values have mean 0.
    struct Scales {
        at: usize,
        unit_rms: f32,
        minimum: Option<(usize, f32)>,
    }
    let scales = match format {
        Format::F32 => return (random.normal() * rms).to_le_bytes().to_vec(),
        Format::F16 => return f16::from_f32(random.normal() * rms).to_le_bytes().to_vec(),
        Format::BF16 => return bf16::from_f32(random.normal() * rms).to_le_bytes().to_vec(),
        Format::Q4_0 => Scales { at: 0, unit_rms: 4.6, minimum: None },
        Format::Q4_1 => Scales { at: 0, unit_rms: 4.6, minimum: Some((2, -7.5)) },
        Format::Q5_0 => Scales { at: 0, unit_rms: 9.2, minimum: None },
        Format::Q5_1 => Scales { at: 0, unit_rms: 9.2, minimum: Some((2, -15.5)) },
        Format::Q8_0 => Scales { at: 0, unit_rms: 74.0, minimum: None },
        Format::Q2_K => Scales { at: 80, unit_rms: 13.8, minimum: Some((82, 1.5)) },
        Format::Q3_K => Scales { at: 108, unit_rms: 43.6, minimum: None },
        Format::Q4_K => Scales { at: 0, unit_rms: 258.0, minimum: Some((2, 7.5)) },
        Format::Q5_K => Scales { at: 0, unit_rms: 522.0, minimum: Some((2, 15.5)) },
        Format::Q6_K => Scales { at: 208, unit_rms: 1370.0, minimum: None },
        Format::IQ4_NL => Scales { at: 0, unit_rms: 67.4, minimum: None },
        Format::IQ4_XS => Scales { at: 0, unit_rms: 1240.0, minimum: None },
        Format::MXFP4 => return random_mxfp4_block(rms, random),
    };
    let mut block: Vec<u8> = (0..format.block_bytes()).map(|_| random.next() as u8).collect();
    let sign = if random.below(2) == 0 { 1.0 } else { -1.0 };
    // Scales from 0.5 to 1.5 times the usual, whose mean square is 1 + 1/12.
    let spread = (0.5 + random.unit()) / (13.0f32 / 12.0).sqrt();
    let scale = sign * rms / scales.unit_rms * spread;
    block[scales.at..scales.at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    if let Some((at, factor)) = scales.minimum {
        block[at..at + 2].copy_from_slice(&f16::from_f32(scale * factor).to_le_bytes());
    }
    block
}

/// The first byte of an MXFP4 block is the exponent of its scale.
fn random_mxfp4_block(rms: f32, random: &mut Random) -> Vec<u8> {
    /// Root mean square of the sixteen codes 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
    const CODE_RMS: f32 = 2.9;
    let exponent = (rms / CODE_RMS).log2().round() as i32 + random.below(3) as i32 - 1;
    let mut block: Vec<u8> = (0..Format::MXFP4.block_bytes()).map(|_| random.next() as u8).collect();
    block[0] = (127 + exponent) as u8;
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_weights_have_the_wanted_size_and_no_bias() {
        for format in Format::ALL {
            for rms in [0.03f32, 1.0] {
                let weights = Weights::new(Fill::Random(format), 64, 512, rms, &mut Random::new(&[7]));
                let mut values = vec![0.0; 512];
                let (mut sum, mut square) = (0.0, 0.0);
                for row in 0..64 {
                    weights.view().dequantize_row(row, &mut values);
                    sum += values.iter().map(|&x| f64::from(x)).sum::<f64>();
                    square += values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
                }
                let count = 64.0 * 512.0;
                let got = (square / count).sqrt() as f32;
                let mean = (sum / count) as f32;
                assert!((0.9..1.1).contains(&(got / rms)), "{}: rms {got}, wanted {rms}", format.name());
                assert!(mean.abs() < 0.2 * rms, "{}: mean {mean} at rms {rms}", format.name());
            }
        }
    }
}
