//! DRY ("don't repeat yourself"): takes from the logits of tokens that would prolong a repetition.
//!
//! The rule is the one that its author described (p-e-w, text-generation-webui pull request 5677): if the last n tokens
//! came before, and were followed by t then, t loses `multiplier * base ^ (n - allowed_length)`, for the greatest such
//! n of at least `allowed_length`. A repetition does not reach across a sequence breaker, and breakers lose nothing.

use std::collections::HashMap;

use super::params::Dry;

/// Greatest penalty; keeps sums finite.
const MAX_PENALTY: f64 = 1e30;

/// The penalties at one place of a sequence, and the memory to find them.
#[derive(Debug, Default)]
pub(crate) struct DryPenalties {
    by_token: HashMap<u32, f32>,
    /// `matches[i]`: how many tokens before place i from the end equal those before the end.
    matches: Vec<usize>,
}

impl DryPenalties {
    /// Finds the penalties for what may follow `tokens`.
    pub(crate) fn find(&mut self, dry: &Dry, tokens: &[u32]) {
        self.by_token.clear();
        let tokens = &tokens[tokens.len().saturating_sub(dry.window)..];
        let len = tokens.len();
        let longest = tokens.iter().rev().take_while(|token| !dry.breakers.contains(token)).count();
        if longest < dry.allowed_length {
            return;
        }
        self.match_suffixes(tokens);
        for back in 1..len {
            let repeated = self.matches[back].min(longest);
            let next = tokens[len - back];
            if repeated >= dry.allowed_length && !dry.breakers.contains(&next) {
                let exponent = (repeated - dry.allowed_length) as f64;
                let penalty = (dry.multiplier * dry.base.powf(exponent)).min(MAX_PENALTY) as f32;
                let greatest = self.by_token.entry(next).or_default();
                *greatest = greatest.max(penalty);
            }
        }
    }

    /// What a token loses.
    pub(crate) fn of(&self, token: u32) -> f32 {
        self.by_token.get(&token).copied().unwrap_or(0.0)
    }

    /// Tokens that lose something.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_token.keys().copied()
    }

    /// The Z-function of the reversed tokens: linear time.
    fn match_suffixes(&mut self, tokens: &[u32]) {
        let len = tokens.len();
        let at = |i: usize| tokens[len - 1 - i];
        self.matches.clear();
        self.matches.resize(len, 0);
        let (mut left, mut right) = (0, 0);
        for i in 1..len {
            let mut same = if i < right { self.matches[i - left].min(right - i) } else { 0 };
            while i + same < len && at(same) == at(i + same) {
                same += 1;
            }
            self.matches[i] = same;
            if i + same > right {
                (left, right) = (i, i + same);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dry(allowed_length: usize, window: usize, breakers: &[u32]) -> Dry {
        Dry { multiplier: 0.8, base: 2.0, allowed_length, window, breakers: breakers.to_vec() }
    }

    /// The rule, read word by word.
    fn by_definition(dry: &Dry, tokens: &[u32], next: u32) -> f32 {
        let tokens = &tokens[tokens.len().saturating_sub(dry.window)..];
        let mut greatest = 0;
        for n in dry.allowed_length..tokens.len() {
            let last = &tokens[tokens.len() - n..];
            let came_before = (0..tokens.len() - n).any(|at| tokens[at..at + n] == *last && tokens[at + n] == next);
            if came_before && !last.iter().any(|token| dry.breakers.contains(token)) {
                greatest = n;
            }
        }
        if greatest == 0 || dry.breakers.contains(&next) {
            return 0.0;
        }
        (dry.multiplier * dry.base.powf((greatest - dry.allowed_length) as f64)) as f32
    }

    #[test]
    fn penalties_are_those_of_the_definition() {
        let mut penalties = DryPenalties::default();
        let mut state = 12345u32;
        let mut penalized = 0;
        for case in 0..500 {
            let tokens: Vec<u32> = (0..case % 60)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 28) % 3
                })
                .collect();
            let dry = dry(1 + case % 4, [usize::MAX, 10, 30][case % 3], if case % 5 == 0 { &[2] } else { &[] });
            penalties.find(&dry, &tokens);
            for next in 0..4 {
                assert_eq!(penalties.of(next), by_definition(&dry, &tokens, next), "{tokens:?} then {next}: {dry:?}");
                penalized += usize::from(penalties.of(next) > 0.0);
            }
        }
        assert!(penalized > 200, "the cases repeat themselves: {penalized}");
    }

    #[test]
    fn an_endless_repetition_costs_a_finite_penalty() {
        let mut penalties = DryPenalties::default();
        penalties.find(&dry(1, usize::MAX, &[]), &[1; 5000]);
        assert_eq!(penalties.of(1), MAX_PENALTY as f32);
    }
}
