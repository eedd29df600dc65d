//! Rows that several tests use.

/// Sums of twelve integers of 24 bits: about normal, and exact in every language.
pub(crate) fn gaussian(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut integer = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as i64
    };
    (0..count).map(|_| ((0..12).map(|_| integer()).sum::<i64>() - (6 << 24)) as f32 / (1 << 30) as f32).collect()
}
