//! Fits of a scale and a minimum.

use super::{Lanes, REFINEMENTS, SPANS, clamp, inverse_or_zero, round};

/// Integers from 0 to `top` with a scale that is not negative, and a minimum that is subtracted.
#[derive(Clone, Copy)]
pub(crate) struct Affine {
    pub(crate) top: f32,
    /// Whether the minimum may be negative, so that all values of a lane are positive.
    pub(crate) any_sign: bool,
}

impl Affine {
    /// Scale and minimum of each lane.
    pub(crate) fn fit<const N: usize, const L: usize>(self, lanes: &Lanes<N, L>) -> ([f32; L], [f32; L]) {
        let (low, high) = lanes.bounds(self.any_sign);
        let lowest = low.map(|low| -low);
        let mut best = BestLines { scales: [0.0; L], mins: lowest, errors: [f32::INFINITY; L] };
        for span in SPANS {
            let inverse = std::array::from_fn(|l| inverse_or_zero((high[l] - low[l]) / (self.top + span)));
            best.keep(self, &self.sums(lanes, &inverse, &lowest));
        }
        for _ in 0..REFINEMENTS {
            let inverse = best.scales.map(inverse_or_zero);
            best.keep(self, &self.sums(lanes, &inverse, &best.mins));
        }
        (best.scales, best.mins)
    }

    /// The nearest integer to `(x + min) / scale`.
    pub(crate) fn nearest(self, x: f32, inverse: f32, min: f32) -> f32 {
        clamp(round((x + min) * inverse), 0.0, self.top)
    }

    /// The sums that decide about a line, for the integers nearest to `(x + min) * inverse`.
    pub(crate) fn sums<const N: usize, const L: usize>(
        self,
        lanes: &Lanes<N, L>,
        inverse: &[f32; L],
        min: &[f32; L],
    ) -> AffineSums<[f32; L]> {
        let mut sums = AffineSums { one: [0.0; L], q: [0.0; L], qq: [0.0; L], x: [0.0; L], xq: [0.0; L] };
        for (x, w) in lanes.x.iter().zip(&lanes.w) {
            for l in 0..L {
                let q = self.nearest(x[l], inverse[l], min[l]);
                let wq = w[l] * q;
                sums.one[l] += w[l];
                sums.q[l] += wq;
                sums.qq[l] += wq * q;
                sums.x[l] += w[l] * x[l];
                sums.xq[l] += wq * x[l];
            }
        }
        sums
    }

    /// The line with the least error for given integers.
    fn solve(self, sums: &AffineSums<f32>) -> (f32, f32) {
        let level = -sums.x / sums.one;
        match sums.line() {
            Some((scale, min)) if self.any_sign || min >= 0.0 => (scale, min),
            None if self.any_sign || level > 0.0 => (0.0, level),
            _ => (if sums.qq > 0.0 { sums.xq / sums.qq } else { 0.0 }, 0.0),
        }
    }
}

/// The best line so far of each lane, and its error.
struct BestLines<const L: usize> {
    scales: [f32; L],
    mins: [f32; L],
    errors: [f32; L],
}

impl<const L: usize> BestLines<L> {
    fn keep(&mut self, integers: Affine, sums: &AffineSums<[f32; L]>) {
        for l in 0..L {
            let sums = sums.of(l);
            let (scale, min) = integers.solve(&sums);
            let error = sums.error(scale, min);
            let better = error < self.errors[l] && scale >= 0.0;
            self.scales[l] = if better { scale } else { self.scales[l] };
            self.mins[l] = if better { min } else { self.mins[l] };
            self.errors[l] = if better { error } else { self.errors[l] };
        }
    }
}

/// Weighted sums over each lane (or one lane): of 1, q, q^2, x, x q.
pub(crate) struct AffineSums<T> {
    pub(crate) one: T,
    pub(crate) q: T,
    pub(crate) qq: T,
    pub(crate) x: T,
    pub(crate) xq: T,
}

impl<const L: usize> AffineSums<[f32; L]> {
    /// One lane's sums.
    pub(crate) fn of(&self, l: usize) -> AffineSums<f32> {
        AffineSums { one: self.one[l], q: self.q[l], qq: self.qq[l], x: self.x[l], xq: self.xq[l] }
    }
}

impl AffineSums<f32> {
    /// Scale and minimum of the line through these integers, if they are not all the same.
    pub(crate) fn line(&self) -> Option<(f32, f32)> {
        let determinant = self.one * self.qq - self.q * self.q;
        let scale = (self.one * self.xq - self.q * self.x) / determinant;
        let min = (self.q * self.xq - self.qq * self.x) / determinant;
        (determinant > LEAST_DETERMINANT * self.one * self.qq).then_some((scale, min))
    }

    /// The weighted squared error of a line, less that of zero.
    pub(crate) fn error(&self, scale: f32, min: f32) -> f32 {
        scale * (scale * self.qq - 2.0 * (min * self.q + self.xq)) + min * (min * self.one + 2.0 * self.x)
    }
}

/// Least determinant of a line in relation to its terms. Below it the integers are as good as equal, and the
/// difference is mostly rounding.
const LEAST_DETERMINANT: f32 = 1e-6;
