//! Random numbers by counter: the same draw gives the same number, whatever else was drawn.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

/// What a number is for. Draws for different purposes are independent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Token = 0,
    Xtc = 1,
}

/// The random number in [0, 1) of a choice's token `position` (counted from the first generated one).
pub(crate) fn uniform(seed: u64, choice: u32, position: u32, purpose: Purpose) -> f64 {
    let words = philox([position, choice, purpose as u32, 0], [seed as u32, (seed >> 32) as u32]);
    let bits = u64::from(words[0]) << 32 | u64::from(words[1]);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        let (a_high, b_high) = ((a >> 32) as u32, (b >> 32) as u32);
        counter = [b_high ^ counter[1] ^ key[0], b as u32, a_high ^ counter[3] ^ key[1], a as u32];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that come with the authors' Random123 library.
    #[test]
    fn philox_gives_the_known_answers() {
        let check = |counter, key, expected| assert_eq!(philox(counter, key), expected);
        check([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        check([!0; 4], [!0; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        check(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        );
    }

    #[test]
    fn numbers_differ_by_seed_choice_position_and_purpose() {
        let base = uniform(1, 2, 3, Purpose::Token);
        assert_eq!(base, uniform(1, 2, 3, Purpose::Token));
        for other in [
            uniform(2, 2, 3, Purpose::Token),
            uniform(1 << 40, 2, 3, Purpose::Token),
            uniform(1, 3, 3, Purpose::Token),
            uniform(1, 2, 4, Purpose::Token),
            uniform(1, 2, 3, Purpose::Xtc),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn numbers_are_spread_evenly() {
        let mut bins = [0u32; 16];
        for position in 0..16_000 {
            let u = uniform(42, 0, position, Purpose::Token);
            assert!((0.0..1.0).contains(&u));
            bins[(u * 16.0) as usize] += 1;
        }
        let chi2: f64 = bins.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi2 < 37.7, "chi-square {chi2} with 15 degrees of freedom: p < 0.001");
    }
}
