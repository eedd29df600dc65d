//! Fits of a scale alone, for integers that a format fixes.

use super::{Lanes, REFINEMENTS, SPANS, clamp, inverse_or_zero, round};

/// The integers that a format has, for fits with a scale of any sign and no minimum.
pub(crate) trait Grid: Copy {
    /// The nearest integer there is.
    fn nearest(self, x: f32) -> f32;

    /// What to try as integer, or between integers, for the value of greatest magnitude in a lane.
    fn targets(self) -> impl Iterator<Item = f32>;

    /// The scale of each lane; 0 for a lane of zeros.
    fn fit<const N: usize, const L: usize>(self, lanes: &Lanes<N, L>) -> [f32; L] {
        let extremes = lanes.extremes();
        let mut best = BestScales { scales: [0.0; L], gains: [0.0; L] };
        for target in self.targets() {
            best.keep(&self.sums(lanes, &extremes.map(|extreme| inverse_or_zero(extreme / target))));
        }
        for _ in 0..REFINEMENTS {
            best.keep(&self.sums(lanes, &best.scales.map(inverse_or_zero)));
        }
        best.scales
    }

    /// The sums that decide about a scale, for the integers nearest to `x * inverse`.
    fn sums<const N: usize, const L: usize>(self, lanes: &Lanes<N, L>, inverse: &[f32; L]) -> GridSums<L> {
        let mut sums = GridSums { xq: [0.0; L], qq: [0.0; L] };
        for (x, w) in lanes.x.iter().zip(&lanes.w) {
            for l in 0..L {
                let q = self.nearest(x[l] * inverse[l]);
                let wq = w[l] * q;
                sums.xq[l] += wq * x[l];
                sums.qq[l] += wq * q;
            }
        }
        sums
    }
}

/// The best scale so far of each lane, and by how much it lessens the error.
struct BestScales<const L: usize> {
    scales: [f32; L],
    gains: [f32; L],
}

impl<const L: usize> BestScales<L> {
    fn keep(&mut self, sums: &GridSums<L>) {
        for l in 0..L {
            let scale = if sums.qq[l] > 0.0 { sums.xq[l] / sums.qq[l] } else { 0.0 };
            let gain = scale * sums.xq[l];
            let better = gain > self.gains[l];
            self.scales[l] = if better { scale } else { self.scales[l] };
            self.gains[l] = if better { gain } else { self.gains[l] };
        }
    }
}

/// All integers from `-half` to `half - 1`.
#[derive(Clone, Copy)]
pub(crate) struct Symmetric {
    pub(crate) half: f32,
}

impl Grid for Symmetric {
    fn nearest(self, x: f32) -> f32 {
        clamp(round(x), -self.half, self.half - 1.0)
    }

    fn targets(self) -> impl Iterator<Item = f32> {
        SPANS.into_iter().map(move |span| -(self.half + span))
    }
}

/// Sixteen integers of unequal distance.
#[derive(Clone, Copy)]
pub(crate) struct Codebook {
    least: f32,
    /// Half-way between neighbours.
    middles: [f32; 15],
    /// From one to the next.
    steps: [f32; 15],
}

impl Codebook {
    /// `values` ascend.
    pub(crate) const fn new(values: [i8; 16]) -> Codebook {
        let mut codebook = Codebook { least: values[0] as f32, middles: [0.0; 15], steps: [0.0; 15] };
        let mut k = 0;
        while k < 15 {
            codebook.middles[k] = (values[k] as f32 + values[k + 1] as f32) / 2.0;
            codebook.steps[k] = values[k + 1] as f32 - values[k] as f32;
            k += 1;
        }
        codebook
    }

    /// Place of the nearest integer.
    pub(crate) fn index(self, x: f32) -> u8 {
        self.middles.iter().map(|&middle| u8::from(x > middle)).sum()
    }
}

impl Grid for Codebook {
    fn nearest(self, x: f32) -> f32 {
        let mut nearest = self.least;
        for k in 0..15 {
            nearest += if x > self.middles[k] { self.steps[k] } else { 0.0 };
        }
        nearest
    }

    fn targets(self) -> impl Iterator<Item = f32> {
        let (least, greatest) = (self.least, self.least + self.steps.iter().sum::<f32>());
        CODEBOOK_SPANS.into_iter().flat_map(move |span| [least * span, greatest * span])
    }
}

/// Weighted sums over each lane: of x q, q^2.
pub(crate) struct GridSums<const L: usize> {
    pub(crate) xq: [f32; L],
    pub(crate) qq: [f32; L],
}

/// Where the searches put the greatest value in relation to either end of a codebook.
const CODEBOOK_SPANS: [f32; 8] = [0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15];
