//! How well a model predicts a text, by the definition of llama.cpp's `llama-perplexity`, so that numbers compare.
//!
//! The text's tokens are cut into windows of `context` tokens that do not overlap; what is left at the end is dropped.
//! Each window is computed on its own, from an empty cache; if the model wants a begin-of-sequence token, it takes the
//! place of the window's first token. Of each window only the second half is scored, so that every scored token has at
//! least half a window before it: with context c, the tokens at places c/2 + 1 to c - 1 (255 of 512). Perplexity is
//! exp(mean negative log-likelihood of all scored tokens).

use tensor::{Backend, Format};

use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::session::{Session, Wanted};

/// How a text is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerplexityOptions {
    /// Tokens in a window.
    pub context: usize,
    /// Replaces the first token of each window.
    pub bos: Option<u32>,
    /// Storage of keys and values.
    pub kv_format: Format,
}

/// The result, and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// exp(mean negative log-likelihood).
    pub perplexity: f64,
    /// Its standard error, by that of the mean.
    pub standard_error: f64,
    /// Mean negative log-likelihood, in nats a token.
    pub mean_nll: f64,
    /// Tokens scored.
    pub scored_tokens: usize,
    /// Windows computed.
    pub windows: usize,
}

/// Scores `tokens`. `each` is called after each window with the result so far.
///
/// # Errors
/// Fewer tokens than two windows (llama.cpp asks for as many), a context that the decoder has not, a token outside the
/// vocabulary, or the backend's.
pub fn perplexity<B: Backend>(
    decoder: &mut Decoder<B>,
    tokens: &[u32],
    options: &PerplexityOptions,
    each: &mut dyn FnMut(&Perplexity),
) -> Result<Perplexity, ModelError> {
    let PerplexityOptions { context, bos, kv_format } = *options;
    if context < 4 || context > decoder.max_context() {
        let wanted = format!("in [4, {}]", decoder.max_context());
        return Err(ModelError::out_of_range("context of the perplexity", context, wanted));
    }
    if tokens.len() < 2 * context {
        let wanted = format!("at least {}, two windows", 2 * context);
        return Err(ModelError::out_of_range("number of tokens in the text", tokens.len(), wanted));
    }
    let vocab = decoder.config().vocab;
    if let Some(token) = tokens.iter().chain(&bos).find(|token| **token as usize >= vocab) {
        return Err(ModelError::out_of_range("token of the text", token, format!("below {vocab}")));
    }
    let mut session = Session::new(decoder, kv_format, context)?;
    let mut score = Score::default();
    for window in tokens.chunks_exact(context) {
        let mut window = window.to_vec();
        if let Some(bos) = bos {
            window[0] = bos;
        }
        session.clear();
        let scored = Wanted::Range(context / 2..context - 1);
        session.extend(&window, scored, &mut |place, logits| {
            score.add(negative_log_likelihood(logits, window[place + 1]));
        })?;
        score.windows += 1;
        each(&score.result());
    }
    Ok(score.result())
}

/// -ln(softmax(logits)\[token\]).
fn negative_log_likelihood(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - max)
}

/// Sums over scored tokens.
#[derive(Default)]
struct Score {
    sum: f64,
    sum_of_squares: f64,
    count: usize,
    windows: usize,
}

impl Score {
    fn add(&mut self, nll: f64) {
        self.sum += nll;
        self.sum_of_squares += nll * nll;
        self.count += 1;
    }

    fn result(&self) -> Perplexity {
        let count = self.count as f64;
        let mean = self.sum / count;
        let variance = (self.sum_of_squares / count - mean * mean).max(0.0);
        let perplexity = mean.exp();
        Perplexity {
            perplexity,
            standard_error: perplexity * (variance / (count - 1.0)).sqrt(),
            mean_nll: mean,
            scored_tokens: self.count,
            windows: self.windows,
        }
    }
}
