//! A loaded network on whatever device: what the commands see, so that none of them names a backend.

use engine::{DecoderRunner, Runner};
use model::{Decoder, DecoderConfig, ModelError, Perplexity, PerplexityOptions, Session, Wanted};
use tensor::{Backend, BackendError, Format};

/// [`Decoder`] without the name of its backend.
pub(crate) trait Network: Send {
    /// What the network is.
    fn config(&self) -> &DecoderConfig;

    /// Most tokens of a sequence.
    fn max_context(&self) -> usize;

    /// The backend, in one line for people.
    fn describe_backend(&self) -> String;

    /// Calls `each` with every place in `tokens` and its logits; KV entries are `kv_format`.
    fn logits(
        &mut self,
        tokens: &[u32],
        kv_format: Format,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), BackendError>;

    /// Scores a text; see [`model::perplexity`].
    fn perplexity(
        &mut self,
        tokens: &[u32],
        options: &PerplexityOptions,
        each: &mut dyn FnMut(&Perplexity),
    ) -> Result<Perplexity, ModelError>;

    /// Gives it `pages[g]` KV pages for group `g` and makes it what an engine drives.
    fn into_runner(
        self: Box<Self>,
        key_format: Format,
        value_format: Format,
        pages: &[usize],
    ) -> Result<Box<dyn Runner>, BackendError>;
}

impl<B: Backend + 'static> Network for Decoder<B> {
    fn config(&self) -> &DecoderConfig {
        Decoder::config(self)
    }

    fn max_context(&self) -> usize {
        Decoder::max_context(self)
    }

    fn describe_backend(&self) -> String {
        Decoder::describe_backend(self)
    }

    fn logits(
        &mut self,
        tokens: &[u32],
        kv_format: Format,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), BackendError> {
        Session::new(self, kv_format, tokens.len())?.extend(tokens, Wanted::All, each)
    }

    fn perplexity(
        &mut self,
        tokens: &[u32],
        options: &PerplexityOptions,
        each: &mut dyn FnMut(&Perplexity),
    ) -> Result<Perplexity, ModelError> {
        model::perplexity(self, tokens, options, each)
    }

    fn into_runner(
        self: Box<Self>,
        key_format: Format,
        value_format: Format,
        pages: &[usize],
    ) -> Result<Box<dyn Runner>, BackendError> {
        Ok(Box::new(DecoderRunner::new(*self, key_format, value_format, pages)?))
    }
}
