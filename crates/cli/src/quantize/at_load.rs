//! Weights that arrive unquantized and are quantized while a model is loaded, one matrix at a time.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;

use checkpoint::Checkpoint;
use checkpoint::gguf::TensorHeader;
use model::{DecoderConfig, MatrixData, MatrixSource, ModelError, Place};
use tensor::{Format, ModelFacts, Recipe, TensorView};

use super::cache::{Cache, Entry};
use super::digest::digest;
use super::{ConvertError, Converter, probe};

/// A stack has at most so many parts: when one more has been asked for, the first has been used.
const MOST_PARTS: usize = 4;

/// Quantizes by a recipe, or has it from the cache.
pub(crate) struct AtLoad<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a DecoderConfig,
    recipe: Recipe,
    facts: ModelFacts,
    converter: Converter,
    /// What an earlier start has made.
    cached: Option<Checkpoint>,
    /// Tensors of `cached` whose pages are in memory.
    in_memory: RefCell<VecDeque<String>>,
    /// What this start makes.
    entry: RefCell<Option<Entry>>,
}

impl<'a> AtLoad<'a> {
    /// Looks into the cache, if there is one, and starts a new entry where it has none.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        config: &'a DecoderConfig,
        recipe: Recipe,
        converter: Converter,
        cache: Option<&Cache>,
    ) -> Self {
        let new = Self {
            checkpoint,
            config,
            recipe,
            facts: config.facts(false),
            converter,
            cached: None,
            in_memory: RefCell::default(),
            entry: RefCell::new(None),
        };
        let Some(cache) = cache else { return new };
        let tensors = new.converted();
        if tensors.is_empty() {
            return new;
        }
        let key = new.key(&tensors);
        if let Some(cached) = cache.find(&key, converter.threads()) {
            tracing::info!("quantized weights are taken from {}", cached.path().display());
            return Self { cached: Some(cached), ..new };
        }
        match cache.create(&key, tensors) {
            Ok(entry) => Self { entry: RefCell::new(Some(entry)), ..new },
            Err(problem) => {
                tracing::warn!("quantized weights are not kept for the next start: {problem:#}");
                new
            }
        }
    }

    /// Every matrix has been made: the next start finds them.
    pub(crate) fn finish(self) {
        if let Some(entry) = self.entry.into_inner()
            && let Err(problem) = entry.finish()
        {
            tracing::warn!("quantized weights are not kept for the next start: {problem:#}");
        }
    }

    fn format(&self, place: Place, cols: usize) -> Format {
        self.recipe.format(place.for_recipe(cols), &self.facts)
    }

    fn name(&self, place: Place) -> String {
        self.config.naming.name(place, "weight")
    }

    /// The tensors that get another format, in the order in which they are asked for.
    fn converted(&self) -> Vec<TensorHeader> {
        let mut headers = Vec::new();
        for matrix in self.config.matrices() {
            for part in &matrix.parts {
                let (name, format) = (self.name(part.place), self.format(part.place, matrix.cols));
                if self.checkpoint.tensor(&name).is_some_and(|stored| stored.format != format) {
                    headers.push(TensorHeader { name, shape: vec![part.rows, matrix.cols], format });
                }
            }
        }
        headers
    }

    /// A digest of what goes in and how it is made.
    fn key(&self, tensors: &[TensorHeader]) -> String {
        let sources: Vec<_> = tensors.iter().filter_map(|header| self.checkpoint.tensor(&header.name)).collect();
        let content = digest(&sources, self.converter.threads(), &|name| self.checkpoint.release(name));
        let formats: Vec<&str> = tensors.iter().map(|header| header.format.name()).collect();
        let quantizers = probe::digest(tensors.iter().map(|header| header.format));
        let what = format!("{quantizers}\0{}\0{}\0{content}", self.recipe.name(), formats.join(","));
        blake3::hash(what.as_bytes()).to_string()
    }

    /// Gives back the pages of cached tensors that have been used.
    fn forget_used(&self, cached: &Checkpoint, name: String) {
        let mut in_memory = self.in_memory.borrow_mut();
        in_memory.push_back(name);
        while in_memory.len() > MOST_PARTS {
            in_memory.pop_front().iter().for_each(|used| cached.release(used));
        }
    }

    /// A cache that cannot be written costs the next start time, and this one nothing.
    fn keep(&self, name: &str, data: &[u8]) {
        let mut slot = self.entry.borrow_mut();
        if let Some(entry) = slot.as_mut()
            && let Err(problem) = entry.write(name, data)
        {
            tracing::warn!("quantized weights are not kept for the next start: {problem:#}");
            *slot = None;
        }
    }
}

impl MatrixSource for AtLoad<'_> {
    fn matrix<'a>(&'a self, place: Place, stored: TensorView<'a>) -> Result<MatrixData<'a>, ModelError> {
        let format = self.format(place, stored.cols);
        if format == stored.format {
            return Ok(MatrixData { format, data: Cow::Borrowed(stored.data) });
        }
        let name = self.name(place);
        if let Some(cached) = &self.cached
            && let Some(tensor) = cached.tensor(&name)
        {
            self.forget_used(cached, name);
            return Ok(MatrixData { format: tensor.format, data: Cow::Borrowed(tensor.data) });
        }
        let failed = |error: ConvertError| ModelError::Conversion { name: name.clone(), message: error.to_string() };
        // What has been read is not read again: the file's pages go before the whole matrix is made.
        let read = || self.checkpoint.release(&name);
        let data = self.converter.convert(stored, format, None, &read).map_err(failed)?;
        self.keep(&name, &data);
        Ok(MatrixData { format, data: Cow::Owned(data) })
    }
}
