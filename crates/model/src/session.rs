//! One sequence on a decoder, all pages its own: for printing logits, scoring texts and tests. It samples nothing and
//! shares nothing; crate `engine` serves many sequences.

use std::ops::Range;

use tensor::{Backend, BackendError, Batch, Format, NO_PAGE, PAGE_TOKENS, SeqRows};

use crate::decoder::Decoder;

/// A sequence that can be extended and cleared.
pub struct Session<'d, B: Backend> {
    decoder: &'d mut Decoder<B>,
    /// `[groups][pages]`: every group's pages in order.
    tables: Vec<u32>,
    pages: usize,
    max_tokens: usize,
    len_tokens: usize,
}

/// The tokens of an extension whose logits are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All.
    All,
    /// The last one's.
    Last,
    /// Those at these places of the extension.
    Range(Range<usize>),
}

impl<'d, B: Backend> Session<'d, B> {
    /// Allocates KV pages for at most `max_tokens`, which replace those that the decoder had.
    ///
    /// # Errors
    /// More tokens than the decoder's context, or the backend's.
    pub fn new(decoder: &'d mut Decoder<B>, kv_format: Format, max_tokens: usize) -> Result<Self, BackendError> {
        if max_tokens > decoder.max_context() {
            return Err(too_long(decoder, max_tokens, decoder.max_context()));
        }
        let pages = max_tokens.div_ceil(PAGE_TOKENS);
        let groups = decoder.kv_groups().len();
        let spec = decoder.kv_spec(kv_format, kv_format, &vec![pages; groups]);
        decoder.allocate_kv(&spec)?;
        let tables = (0..groups).flat_map(|_| 0..pages as u32).collect();
        Ok(Session { decoder, tables, pages, max_tokens, len_tokens: 0 })
    }

    /// Tokens computed so far.
    pub fn len_tokens(&self) -> usize {
        self.len_tokens
    }

    /// Starts over.
    pub fn clear(&mut self) {
        self.len_tokens = 0;
    }

    /// Computes `tokens` behind those that are there, in as few steps as the decoder's sizes allow, and calls `each`
    /// with the place in `tokens` and the logits of each token wanted, in order.
    ///
    /// # Errors
    /// More tokens than the session was made for, a token outside the vocabulary, or the backend's.
    pub fn extend(
        &mut self,
        tokens: &[u32],
        wanted: Wanted,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), BackendError> {
        let wanted = match wanted {
            Wanted::All => 0..tokens.len(),
            Wanted::Last => tokens.len().saturating_sub(1)..tokens.len(),
            Wanted::Range(range) => range,
        };
        let len = self.len_tokens + tokens.len();
        if len > self.max_tokens {
            return Err(too_long(self.decoder, len, self.max_tokens));
        }
        let mut done = 0;
        while done < tokens.len() {
            let end = self.step_end(done, tokens.len(), &wanted);
            self.step(&tokens[done..end], done, &wanted, each)?;
            done = end;
        }
        Ok(())
    }

    /// Where the step that begins at `start` ends: before it has too many rows or too many logit rows.
    fn step_end(&self, start: usize, len: usize, wanted: &Range<usize>) -> usize {
        let options = self.decoder.options();
        let end = len.min(start + options.max_rows);
        let logits_from = wanted.start.max(start);
        if logits_from < wanted.end { end.min(logits_from + options.max_logit_rows) } else { end }
    }

    fn step(
        &mut self,
        tokens: &[u32],
        place: usize,
        wanted: &Range<usize>,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), BackendError> {
        let past = self.len_tokens;
        let rows = tokens.len();
        let positions: Vec<u32> = (past as u32..).take(rows).collect();
        let logit_rows: Vec<u32> = (0..rows as u32).filter(|row| wanted.contains(&(place + *row as usize))).collect();
        let used = (past + rows).div_ceil(PAGE_TOKENS);
        let page = |(entry, page): (usize, &u32)| if entry % self.pages < used { *page } else { NO_PAGE };
        let tables: Vec<u32> = self.tables.iter().enumerate().map(page).collect();
        self.decoder.step(&Batch {
            tokens,
            positions: &positions,
            seqs: &[SeqRows { first_row: 0, rows, past }],
            tables: &tables,
            table_stride: self.pages,
            logit_rows: &logit_rows,
        })?;
        self.len_tokens += rows;
        for (index, row) in logit_rows.iter().enumerate() {
            each(place + *row as usize, self.decoder.logits_row(index)?);
        }
        Ok(())
    }
}

fn too_long<B: Backend>(decoder: &Decoder<B>, len: usize, limit: usize) -> BackendError {
    BackendError::Unsupported {
        device: decoder.describe_backend(),
        what: format!("a sequence of {len} tokens"),
        limit: format!("at most {limit}"),
    }
}
