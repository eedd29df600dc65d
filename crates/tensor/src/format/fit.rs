//! Searches for the scales that make quantized values fit best.
//!
//! The problem in all formats: given values x and weights w, find a scale s, a minimum m and integers q within a range
//! that make `sum(w (x - (s q - m))^2)` least. For given q the best s and m are those of a least-squares line; for
//! given s and m the best q are the nearest integers. So the searches try a handful of scales near the one that just
//! spans the values, take the nearest integers, solve for the line, and keep the line with the least error.
//!
//! A *lane* is one such problem. `L` lanes of `N` values are solved side by side, value by value, so that the inner
//! loops become vector code. Nothing here knows a format's bytes.

/// `L` lanes of `N` values.
pub(super) struct Lanes<const N: usize, const L: usize> {
    /// Values.
    pub(super) x: [[f32; L]; N],
    /// What a squared error costs; positive, near 1.
    pub(super) w: [[f32; L]; N],
}

impl<const N: usize, const L: usize> Lanes<N, L> {
    /// Lanes from `L * N` values and weights, lane after lane.
    pub(super) fn new(values: &[f32], weights: &[f32]) -> Self {
        let mut lanes = Lanes { x: [[0.0; L]; N], w: [[1.0; L]; N] };
        for (l, (values, weights)) in values.chunks_exact(N).zip(weights.chunks_exact(N)).enumerate() {
            for i in 0..N {
                lanes.x[i][l] = values[i];
                lanes.w[i][l] = weights[i];
            }
        }
        lanes
    }

    /// The value of greatest magnitude of each lane, with its sign.
    fn extremes(&self) -> [f32; L] {
        let mut extremes = [0.0_f32; L];
        for x in &self.x {
            for l in 0..L {
                extremes[l] = if x[l].abs() > extremes[l].abs() { x[l] } else { extremes[l] };
            }
        }
        extremes
    }

    /// Least (at most 0 unless `any_sign`) and greatest value of each lane.
    fn bounds(&self, any_sign: bool) -> ([f32; L], [f32; L]) {
        let mut low = if any_sign { self.x[0] } else { [0.0; L] };
        let mut high = self.x[0];
        for x in &self.x {
            for l in 0..L {
                low[l] = at_most(x[l], low[l]);
                high[l] = at_least(x[l], high[l]);
            }
        }
        (low, high)
    }
}

/// The integers that a format has, for fits with a scale of any sign and no minimum.
pub(super) trait Grid: Copy {
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

/// How far, in steps, the searches move the scale from the one that just spans the values. Most values are small, so
/// that clipping the greatest one a little, or not using the last integer, is often the better fit. Finer or wider
/// searches gain less than 0.5 % of the error.
const SPANS: [f32; 11] = [0.0, -1.5, -1.2, -0.9, -0.6, -0.3, 0.3, 0.6, 0.9, 1.2, 1.5];

/// Times that integers and line are improved in turn after a search.
const REFINEMENTS: usize = 2;

/// All integers from `-half` to `half - 1`.
#[derive(Clone, Copy)]
pub(super) struct Symmetric {
    pub(super) half: f32,
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
pub(super) struct Codebook {
    least: f32,
    /// Half-way between neighbours.
    middles: [f32; 15],
    /// From one to the next.
    steps: [f32; 15],
}

impl Codebook {
    /// `values` ascend.
    pub(super) const fn new(values: [i8; 16]) -> Codebook {
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
    pub(super) fn index(self, x: f32) -> u8 {
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

/// Where the searches put the greatest value in relation to either end of a codebook.
const CODEBOOK_SPANS: [f32; 8] = [0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15];

/// Weighted sums over each lane: of x q, q^2.
pub(super) struct GridSums<const L: usize> {
    pub(super) xq: [f32; L],
    pub(super) qq: [f32; L],
}

/// Integers from 0 to `top` with a scale that is not negative, and a minimum that is subtracted.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    pub(super) top: f32,
    /// Whether the minimum may be negative, so that all values of a lane are positive.
    pub(super) any_sign: bool,
}

impl Affine {
    /// Scale and minimum of each lane.
    pub(super) fn fit<const N: usize, const L: usize>(self, lanes: &Lanes<N, L>) -> ([f32; L], [f32; L]) {
        let (low, high) = lanes.bounds(self.any_sign);
        let mut best = ([0.0; L], low.map(|low| -low));
        let mut best_error = [f32::INFINITY; L];
        let mut try_line = |best: &mut ([f32; L], [f32; L]), inverse: [f32; L], min: [f32; L]| {
            let sums = self.sums(lanes, &inverse, &min);
            for l in 0..L {
                let (scale, min) = self.solve(&sums.of(l));
                let error = sums.of(l).error(scale, min);
                let better = error < best_error[l] && scale >= 0.0;
                best.0[l] = if better { scale } else { best.0[l] };
                best.1[l] = if better { min } else { best.1[l] };
                best_error[l] = if better { error } else { best_error[l] };
            }
        };
        for span in SPANS {
            let inverse = std::array::from_fn(|l| inverse_or_zero((high[l] - low[l]) / (self.top + span)));
            try_line(&mut best, inverse, low.map(|low| -low));
        }
        for _ in 0..REFINEMENTS {
            let (inverse, min) = (best.0.map(inverse_or_zero), best.1);
            try_line(&mut best, inverse, min);
        }
        best
    }

    /// The nearest integer to `(x + min) / scale`.
    pub(super) fn nearest(self, x: f32, inverse: f32, min: f32) -> f32 {
        clamp(round((x + min) * inverse), 0.0, self.top)
    }

    /// The sums that decide about a line, for the integers nearest to `(x + min) * inverse`.
    pub(super) fn sums<const N: usize, const L: usize>(
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

/// Weighted sums over each lane (or one lane): of 1, q, q^2, x, x q.
pub(super) struct AffineSums<T> {
    pub(super) one: T,
    pub(super) q: T,
    pub(super) qq: T,
    pub(super) x: T,
    pub(super) xq: T,
}

impl<const L: usize> AffineSums<[f32; L]> {
    /// One lane's sums.
    pub(super) fn of(&self, l: usize) -> AffineSums<f32> {
        AffineSums { one: self.one[l], q: self.q[l], qq: self.qq[l], x: self.x[l], xq: self.xq[l] }
    }
}

/// Least determinant of a line in relation to its terms. Below it the integers are as good as equal, and the
/// difference is mostly rounding.
const LEAST_DETERMINANT: f32 = 1e-6;

impl AffineSums<f32> {
    /// Scale and minimum of the line through these integers, if they are not all the same.
    pub(super) fn line(&self) -> Option<(f32, f32)> {
        let determinant = self.one * self.qq - self.q * self.q;
        let scale = (self.one * self.xq - self.q * self.x) / determinant;
        let min = (self.q * self.xq - self.qq * self.x) / determinant;
        (determinant > LEAST_DETERMINANT * self.one * self.qq).then_some((scale, min))
    }

    /// The weighted squared error of a line, less that of zero.
    pub(super) fn error(&self, scale: f32, min: f32) -> f32 {
        scale * (scale * self.qq - 2.0 * (min * self.q + self.xq)) + min * (min * self.one + 2.0 * self.x)
    }
}

/// 1 / x, and 0 for 0 and for x so small that it has no inverse.
pub(super) fn inverse_or_zero(x: f32) -> f32 {
    if x.abs() > f32::MIN_POSITIVE { 1.0 / x } else { 0.0 }
}

/// Nearest integer, ties to even, for magnitudes below 2^22. Adding 1.5 * 2^23 leaves no bits for a fraction; the
/// standard function is a call on baseline x86-64.
pub(super) fn round(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (x + NO_FRACTION) - NO_FRACTION
}

/// `x`, or the end of the range that it lies beyond.
pub(super) fn clamp(x: f32, low: f32, high: f32) -> f32 {
    at_most(at_least(x, low), high)
}

/// The greater one, without the care for NaN of [`f32::max`], which costs vector code three instructions more.
pub(super) fn at_least(x: f32, low: f32) -> f32 {
    if x > low { x } else { low }
}

/// The lesser one.
pub(super) fn at_most(x: f32, high: f32) -> f32 {
    if x < high { x } else { high }
}
