//! Restricts which tokens may come next: the hook for structured output.

use std::fmt;

/// A constraint on the tokens of one choice, as an automaton over token ids.
pub trait TokenMask: Send + fmt::Debug {
    /// Removes from `allowed` (which holds the whole vocabulary) the tokens that may not come next.
    fn restrict(&mut self, allowed: &mut TokenSet) -> Result<(), MaskError>;

    /// Takes note of the token that came.
    fn advance(&mut self, token: u32) -> Result<(), MaskError>;

    /// The same constraint in the same state, for another choice of the same request.
    fn fork(&self) -> Box<dyn TokenMask>;
}

/// A constraint that cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MaskError(pub String);

/// A set of token ids below a vocabulary size: one bit a token.
#[derive(Clone, Debug, Default)]
pub struct TokenSet {
    words: Vec<u64>,
    vocab: usize,
}

impl TokenSet {
    /// Makes this the set of all tokens below `vocab`.
    pub fn fill(&mut self, vocab: usize) {
        self.vocab = vocab;
        self.words.clear();
        self.words.resize(vocab.div_ceil(64), !0);
        if !vocab.is_multiple_of(64) {
            let last = self.words.last_mut().expect("a vocabulary that is no multiple of 64 is not empty");
            *last = (1 << (vocab % 64)) - 1;
        }
    }

    /// Ids are below this.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Whether `token` is in the set.
    pub fn contains(&self, token: u32) -> bool {
        self.words.get(token as usize / 64).is_some_and(|word| word >> (token % 64) & 1 == 1)
    }

    /// Takes `token` out.
    pub fn remove(&mut self, token: u32) {
        if let Some(word) = self.words.get_mut(token as usize / 64) {
            *word &= !(1 << (token % 64));
        }
    }

    /// Keeps only tokens that are in `bits`, too: bit `i % 64` of word `i / 64` stands for token `i`. Words that are
    /// missing count as zero.
    pub fn intersect(&mut self, bits: &[u64]) {
        for (i, word) in self.words.iter_mut().enumerate() {
            *word &= bits.get(i).copied().unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_exactly_the_tokens_left_in_it() {
        for vocab in [1, 63, 64, 65, 130] {
            let mut set = TokenSet::default();
            set.fill(vocab);
            assert!((0..vocab as u32).all(|t| set.contains(t)), "vocab {vocab}");
            assert!(!set.contains(vocab as u32) && !set.contains(u32::MAX));
            set.remove(vocab as u32 - 1);
            set.remove(u32::MAX);
            assert!(!set.contains(vocab as u32 - 1));
            set.intersect(&[1]);
            assert_eq!((0..200).filter(|&t| set.contains(t)).count(), usize::from(vocab > 1));
        }
    }
}
