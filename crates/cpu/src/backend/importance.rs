//! What matrices are multiplied with, summed up by column: the importance that quantizers weigh errors with.

use std::collections::HashMap;

use tensor::Role;

use super::inputs::Source;
use crate::isa::Isa;
use crate::ops::norm::RmsNorm;
use crate::simd::lanes::LANES;

/// Sums of squares by layer and role.
#[derive(Debug, Default)]
pub struct Importance {
    sums: HashMap<(usize, Role), ColumnSquares>,
    row: Vec<f32>,
}

/// Of the rows that one matrix was multiplied with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ColumnSquares {
    /// Sum over the rows of each column's square.
    pub squares: Vec<f32>,
    /// Rows.
    pub rows: usize,
}

impl Importance {
    /// Layer (0 for the head), role and sums of every matrix that was multiplied.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Role, &ColumnSquares)> {
        self.sums.iter().map(|(&(layer, role), sums)| (layer, role, sums))
    }

    /// Adds the rows that a matrix is about to be multiplied with.
    pub(super) fn add(&mut self, layer: usize, role: Role, source: &Source<'_>, isa: Isa) {
        let sums = self.sums.entry((layer, role)).or_default();
        sums.squares.resize(source.width, 0.0);
        self.row.resize(source.width.next_multiple_of(LANES), 0.0);
        for row in 0..source.rows.rows() {
            source.rows.gather(row, source.width, &mut self.row);
            if let Some(norm) = source.norm {
                let weight = &norm.weight.values;
                isa.dispatch(RmsNorm { x: &mut self.row, weight, width: source.width, eps: norm.eps });
            }
            for (sum, x) in sums.squares.iter_mut().zip(&self.row) {
                *sum += x * x;
            }
        }
        sums.rows += source.rows.rows();
    }
}
