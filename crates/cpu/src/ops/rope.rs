//! Rotary position embedding.
//!
//! Sine and cosine are computed once a step and row; heads of all layers share them.

use tensor::{Rope, RopeStyle};

/// Sine and cosine of every angle of a step's rows, times the rope's magnitude.
#[derive(Clone, Debug, Default)]
pub struct Angles {
    pairs: usize,
    /// `[rows][pairs]`
    cos: Vec<f32>,
    /// `[rows][pairs]`
    sin: Vec<f32>,
}

impl Angles {
    /// Computes the angles of rows at `positions`. Allocates only when there are more rows than ever before.
    pub fn set(&mut self, rope: &Rope, positions: &[u32]) {
        self.pairs = rope.inv_freq.len();
        self.cos.clear();
        self.sin.clear();
        for &position in positions {
            for &inv_freq in &rope.inv_freq {
                // The product in f32, as the implementations do that models are trained with.
                let (sin, cos) = (position as f32 * inv_freq).sin_cos();
                self.cos.push(cos * rope.magnitude);
                self.sin.push(sin * rope.magnitude);
            }
        }
    }

    /// Keeps only some rows, given in ascending order.
    pub fn keep(&mut self, rows: &[u32]) {
        for angles in [&mut self.cos, &mut self.sin] {
            for (to, &from) in rows.iter().enumerate() {
                let from = from as usize * self.pairs;
                angles.copy_within(from..from + self.pairs, to * self.pairs);
            }
            angles.truncate(rows.len() * self.pairs);
        }
    }

    /// Turns a head of `row`: at least `2 * pairs` values.
    #[inline(always)]
    pub fn rotate(&self, style: RopeStyle, row: usize, head: &mut [f32]) {
        let cos = &self.cos[row * self.pairs..(row + 1) * self.pairs];
        let sin = &self.sin[row * self.pairs..(row + 1) * self.pairs];
        let turned = &mut head[..2 * self.pairs];
        match style {
            RopeStyle::Halves => {
                let (first, second) = turned.split_at_mut(self.pairs);
                for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
            RopeStyle::Interleaved => {
                for (([a, b], cos), sin) in turned.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_turn_by_position_times_frequency() {
        let rope = |style| Rope { inv_freq: vec![0.5, 0.25], magnitude: 2.0, style };
        let mut angles = Angles::default();
        angles.set(&rope(RopeStyle::Halves), &[0, 3]);
        let mut head = [1.0, 0.0, 0.0, 1.0, 9.0];
        angles.rotate(RopeStyle::Halves, 1, &mut head);
        let expected = [2.0 * 1.5f32.cos(), -2.0 * 0.75f32.sin(), 2.0 * 1.5f32.sin(), 2.0 * 0.75f32.cos(), 9.0];
        assert_eq!(head, expected);

        let mut head = [1.0, 0.0, 0.0, 1.0, 9.0];
        angles.rotate(RopeStyle::Interleaved, 1, &mut head);
        let expected = [2.0 * 1.5f32.cos(), 2.0 * 1.5f32.sin(), -2.0 * 0.75f32.sin(), 2.0 * 0.75f32.cos(), 9.0];
        assert_eq!(head, expected);

        let mut kept = angles.clone();
        kept.keep(&[1]);
        let mut head = [1.0, 0.0, 0.0, 1.0];
        kept.rotate(RopeStyle::Interleaved, 0, &mut head);
        assert_eq!(head, expected[..4]);
    }
}
