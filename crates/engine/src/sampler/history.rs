//! How often each token came of late, kept up to date token by token: what the penalties look at.

use std::collections::HashMap;

use super::params::Penalties;

/// Counts of the latest tokens of a sequence.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    counts: HashMap<u32, Count>,
    /// The counted tokens are those in `[start, end)`.
    start: usize,
    end: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    all: u32,
    /// Of those, generated ones.
    output: u32,
}

impl History {
    /// Counts all of `tokens` that lie within the window.
    pub(crate) fn advance(&mut self, tokens: &[u32], prompt_len: usize, window: usize) {
        let start = tokens.len().saturating_sub(window);
        for at in self.start..start.min(self.end) {
            self.forget(tokens[at], at >= prompt_len);
        }
        for at in self.end.max(start)..tokens.len() {
            let count = self.counts.entry(tokens[at]).or_default();
            count.all += 1;
            count.output += u32::from(at >= prompt_len);
        }
        (self.start, self.end) = (start, tokens.len());
    }

    /// Tokens that came.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        self.counts.keys().copied()
    }

    /// The logit of a token after penalties. Repetition looks at prompt and output, presence and frequency at the
    /// output.
    pub(crate) fn penalize(&self, penalties: &Penalties, token: u32, logit: f32) -> f32 {
        let Some(count) = self.counts.get(&token) else { return logit };
        let repetition = penalties.repetition;
        let logit = if logit > 0.0 { logit / repetition } else { logit * repetition };
        match count.output {
            0 => logit,
            times => logit - penalties.presence - penalties.frequency * times as f32,
        }
    }

    fn forget(&mut self, token: u32, is_output: bool) {
        let count = self.counts.get_mut(&token).expect("a token within the window is counted");
        count.all -= 1;
        count.output -= u32::from(is_output);
        if count.all == 0 {
            self.counts.remove(&token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENALTIES: Penalties = Penalties { repetition: 2.0, presence: 0.5, frequency: 0.25, window: 0 };

    #[test]
    fn counts_follow_the_window_however_the_tokens_come() {
        let tokens: Vec<u32> = (0..50).map(|i| i * i % 7).collect();
        for window in [0, 1, 5, 20, usize::MAX] {
            let mut steps = History::default();
            for len in 10..=tokens.len() {
                steps.advance(&tokens[..len], 12, window);
            }
            for token in 0..7 {
                let recent = tokens.len().saturating_sub(window)..tokens.len();
                let times = recent.clone().filter(|&at| tokens[at] == token).count();
                let output = recent.filter(|&at| at >= 12 && tokens[at] == token).count() as f32;
                let mut expected = if times > 0 { 3.0 / 2.0 } else { 3.0 };
                if output > 0.0 {
                    expected -= 0.5 + 0.25 * output;
                }
                assert_eq!(steps.penalize(&PENALTIES, token, 3.0), expected, "window {window}, token {token}");
            }
        }
    }

    #[test]
    fn repetition_lowers_negative_logits_too() {
        let mut history = History::default();
        history.advance(&[4], 1, 10);
        assert_eq!(history.penalize(&PENALTIES, 4, -3.0), -6.0);
        assert_eq!(history.penalize(&PENALTIES, 5, -3.0), -3.0);
    }
}
