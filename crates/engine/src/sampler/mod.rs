//! Draws tokens from logits.
//!
//! A row's outcome depends on the row, the sequence and the request alone, never on what else is in the step: random
//! numbers are counted, not streamed ([`rng`]), and whether the backend's short list of greatest logits is enough is
//! decided row by row ([`ranked`]). Start with [`Sampler::draw`].

mod dry;
mod edits;
mod history;
mod mask;
mod params;
mod ranked;
mod rng;
#[cfg(test)]
mod tests;

use tensor::{BackendError, TopK};

use self::dry::DryPenalties;
use self::edits::Edits;
use self::history::History;
pub use self::mask::{MaskError, TokenMask, TokenSet};
pub use self::params::{Dry, Sampling, SamplingDraft, Xtc};
use self::ranked::{Randoms, Ranked};
use self::rng::{Purpose, uniform};
use crate::event::TokenLogprob;
use crate::runner::Runner;

/// Greatest logits to ask the backend for when a row needs more than its greatest.
pub(crate) const SHORT_LIST: usize = 256;
/// Length of the first list made from a whole row; further ones are longer by [`LIST_GROWTH`].
const FIRST_LIST: usize = 1024;
const LIST_GROWTH: usize = 8;

/// Draws tokens; holds the memory that this takes.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    ranked: Ranked,
    row: Vec<f32>,
    allowed: TokenSet,
    dry: DryPenalties,
}

/// What one choice of a request carries from token to token.
#[derive(Debug)]
pub(crate) struct ChoiceState {
    history: History,
    mask: Option<Box<dyn TokenMask>>,
    seed: u64,
    choice: u32,
}

/// A place where a token is to be drawn.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) sampling: &'a Sampling,
    /// All tokens of the sequence so far.
    pub(crate) tokens: &'a [u32],
    pub(crate) prompt_len: usize,
    /// Tokens that must not come yet.
    pub(crate) banned: [&'a [u32]; 2],
    /// The row's greatest logits, at least [`candidates_wanted`] of them.
    pub(crate) top: &'a TopK,
}

/// One logit row of the step just computed.
pub(crate) struct LogitRow<'a> {
    pub(crate) runner: &'a mut dyn Runner,
    pub(crate) index: usize,
}

/// Why no token could be drawn.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DrawError {
    /// The row could not be read: the step has failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("the model's logits are not finite")]
    NotFinite,
    #[error("every token is excluded")]
    NoToken,
    #[error("the constraint failed: {0}")]
    Mask(#[from] MaskError),
}

/// How many of a row's greatest logits to ask the backend for.
pub(crate) fn candidates_wanted(sampling: &Sampling, state: &ChoiceState, banned: bool, top_logprobs: usize) -> usize {
    let untouched = sampling.logit_bias.is_empty() && sampling.penalties.is_none() && sampling.dry.is_none();
    let greedy = sampling.temperature.is_none() && untouched && state.mask.is_none() && !banned;
    if greedy { top_logprobs.max(1) } else { SHORT_LIST }
}

impl ChoiceState {
    /// The state before the first token.
    pub(crate) fn new(seed: u64, choice: usize, mask: Option<Box<dyn TokenMask>>) -> Self {
        Self { history: History::default(), mask, seed, choice: choice as u32 }
    }

    /// The state of another choice of the same request, before either's first token.
    pub(crate) fn fork(&self, choice: usize) -> Self {
        let mask = self.mask.as_ref().map(|mask| mask.fork());
        Self { history: self.history.clone(), mask, seed: self.seed, choice: choice as u32 }
    }

    /// Takes note of the token that came.
    pub(crate) fn advance(&mut self, token: u32) -> Result<(), MaskError> {
        self.mask.as_mut().map_or(Ok(()), |mask| mask.advance(token))
    }
}

impl Sampler {
    /// The next token.
    pub(crate) fn draw(
        &mut self,
        place: &Place<'_>,
        state: &mut ChoiceState,
        row: &mut LogitRow<'_>,
    ) -> Result<u32, DrawError> {
        if !place.top.log_sum_exp.is_finite() || place.top.candidates.is_empty() {
            let nothing = place.top.log_sum_exp == f32::NEG_INFINITY;
            return Err(if nothing { DrawError::NoToken } else { DrawError::NotFinite });
        }
        let sampling = place.sampling;
        let position = (place.tokens.len() - place.prompt_len) as u32;
        let randoms = Randoms {
            token: uniform(state.seed, state.choice, position, Purpose::Token),
            xtc: uniform(state.seed, state.choice, position, Purpose::Xtc),
        };
        let vocab = row.runner.limits().vocab;
        let Self { ranked, row: scratch, allowed, dry } = self;
        let edits = gather_edits(place, state, vocab, allowed, dry)?;
        if sampling.temperature.is_none() && edits.is_empty() {
            return Ok(place.top.candidates[0].token);
        }
        let temperature = sampling.temperature.unwrap_or(1.0);
        let pick = |ranked: &mut Ranked| match sampling.temperature {
            _ if ranked.first().is_none() => None,
            None => ranked.first(),
            Some(_) => ranked.choose(sampling, randoms),
        };
        if edits.only_lower() && edits.allowed.is_none() {
            ranked.rank_top(place.top, vocab, &edits, temperature);
            if let Some(token) = pick(ranked) {
                return Ok(token);
            }
        }
        scratch.clear();
        scratch.extend_from_slice(row.read()?);
        edits.apply_to_row(scratch);
        let mut head = FIRST_LIST;
        loop {
            ranked.rank_row(scratch, head.min(vocab), temperature).map_err(|_| DrawError::NotFinite)?;
            if ranked.first().is_none() {
                return Err(DrawError::NoToken);
            }
            if let Some(token) = pick(ranked) {
                return Ok(token);
            }
            head *= LIST_GROWTH;
        }
    }
}

/// The natural log of a token's probability in the row's own distribution.
pub(crate) fn logprob_of(token: u32, top: &TopK, row: &mut LogitRow<'_>) -> Result<f32, BackendError> {
    let logit = match top.candidates.iter().find(|candidate| candidate.token == token) {
        Some(candidate) => candidate.logit,
        None => row.read()?[token as usize],
    };
    Ok(logit - top.log_sum_exp)
}

/// The `count` likeliest tokens of a row's own distribution.
pub(crate) fn top_logprobs(top: &TopK, count: usize) -> Vec<TokenLogprob> {
    let logprob = |candidate: &tensor::Candidate| TokenLogprob {
        id: candidate.token,
        logprob: candidate.logit - top.log_sum_exp,
    };
    top.candidates.iter().take(count).map(logprob).collect()
}

impl LogitRow<'_> {
    fn read(&mut self) -> Result<&[f32], BackendError> {
        self.runner.logits_row(self.index)
    }
}

fn gather_edits<'a>(
    place: &Place<'a>,
    state: &'a mut ChoiceState,
    vocab: usize,
    allowed: &'a mut TokenSet,
    dry: &'a mut DryPenalties,
) -> Result<Edits<'a>, MaskError> {
    let sampling = place.sampling;
    if let Some(settings) = &sampling.dry {
        dry.find(settings, place.tokens);
    }
    if let Some(penalties) = &sampling.penalties {
        state.history.advance(place.tokens, place.prompt_len, penalties.window);
    }
    if let Some(mask) = &mut state.mask {
        allowed.fill(vocab);
        mask.restrict(allowed)?;
    }
    Ok(Edits {
        bias: &sampling.logit_bias,
        penalties: sampling.penalties.as_ref().map(|penalties| (penalties, &state.history)),
        dry: sampling.dry.as_ref().map(|_| &*dry),
        banned: place.banned,
        allowed: state.mask.as_ref().map(|_| &*allowed),
    })
}
