//! What is done to logits before temperature and truncation: biases, penalties, DRY, bans.

use super::dry::DryPenalties;
use super::history::History;
use super::mask::TokenSet;
use super::params::Penalties;

/// The edits of one row, in the order in which they apply.
#[derive(Debug)]
pub(crate) struct Edits<'a> {
    /// Ascending ids.
    pub(crate) bias: &'a [(u32, f32)],
    pub(crate) penalties: Option<(&'a Penalties, &'a History)>,
    pub(crate) dry: Option<&'a DryPenalties>,
    /// Tokens that must not come yet.
    pub(crate) banned: [&'a [u32]; 2],
    pub(crate) allowed: Option<&'a TokenSet>,
}

impl Edits<'_> {
    /// Whether rows stay as they are.
    pub(crate) fn is_empty(&self) -> bool {
        self.bias.is_empty()
            && self.penalties.is_none()
            && self.dry.is_none()
            && self.banned.iter().all(|ids| ids.is_empty())
            && self.allowed.is_none()
    }

    /// Whether no logit can rise: then a token outside a row's greatest stays below them.
    pub(crate) fn only_lower(&self) -> bool {
        let lowers = |p: &Penalties| p.repetition >= 1.0 && p.presence >= 0.0 && p.frequency >= 0.0;
        self.bias.iter().all(|&(_, bias)| bias <= 0.0) && self.penalties.is_none_or(|(penalties, _)| lowers(penalties))
    }

    /// The logit of one token after all edits.
    pub(crate) fn apply(&self, token: u32, logit: f32) -> f32 {
        let mut logit = logit;
        if let Ok(at) = self.bias.binary_search_by_key(&token, |&(id, _)| id) {
            logit += self.bias[at].1;
        }
        if let Some((penalties, history)) = self.penalties {
            logit = history.penalize(penalties, token, logit);
        }
        if let Some(dry) = self.dry {
            logit -= dry.of(token);
        }
        let banned = self.banned.iter().any(|ids| ids.contains(&token));
        if banned || self.allowed.is_some_and(|set| !set.contains(token)) { f32::NEG_INFINITY } else { logit }
    }

    /// Applies all edits to a whole row. The same as [`Edits::apply`] for each token, without asking for each.
    pub(crate) fn apply_to_row(&self, row: &mut [f32]) {
        for &(token, bias) in self.bias {
            row[token as usize] += bias;
        }
        if let Some((penalties, history)) = self.penalties {
            for token in history.tokens() {
                row[token as usize] = history.penalize(penalties, token, row[token as usize]);
            }
        }
        if let Some(dry) = self.dry {
            for token in dry.tokens() {
                row[token as usize] -= dry.of(token);
            }
        }
        for &token in self.banned.iter().copied().flatten() {
            row[token as usize] = f32::NEG_INFINITY;
        }
        if let Some(allowed) = self.allowed {
            for (token, logit) in row.iter_mut().enumerate() {
                if !allowed.contains(token as u32) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::params::Dry;

    #[test]
    fn a_row_is_edited_as_its_tokens_are() {
        let tokens: Vec<u32> = (0..40).map(|i| i % 6).collect();
        let mut history = History::default();
        history.advance(&tokens, 10, 25);
        let penalties = Penalties { repetition: 1.3, presence: 0.5, frequency: 0.1, window: 25 };
        let mut dry = DryPenalties::default();
        let settings = Dry { multiplier: 1.0, base: 1.1, allowed_length: 2, window: usize::MAX, breakers: vec![] };
        dry.find(&settings, &tokens);
        let mut allowed = TokenSet::default();
        allowed.fill(20);
        allowed.remove(11);
        let edits = Edits {
            bias: &[(1, -2.0), (3, 5.0), (19, -100.0)],
            penalties: Some((&penalties, &history)),
            dry: Some(&dry),
            banned: [&[7], &[8, 9]],
            allowed: Some(&allowed),
        };
        let mut row: Vec<f32> = (0..20).map(|i| (i as f32).sin() * 4.0).collect();
        let expected: Vec<f32> = row.iter().zip(0..).map(|(&logit, token)| edits.apply(token, logit)).collect();
        edits.apply_to_row(&mut row);
        assert_eq!(row, expected);
        assert_eq!(row.iter().filter(|logit| **logit == f32::NEG_INFINITY).count(), 4);
        assert!(!edits.only_lower());
    }
}
