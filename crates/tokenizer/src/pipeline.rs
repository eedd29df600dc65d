//! The `tokenizers` crate as an engine: normalize, pre-tokenize, merge.
//!
//! Added tokens are found by us and not by the crate, because only we know where control tokens are allowed; offsets,
//! truncation, padding and post-processing are not used.

use tokenizers::tokenizer::{OffsetReferential, OffsetType};
use tokenizers::{Model, NormalizedString, Normalizer, PreTokenizedString, PreTokenizer, Token};

use crate::added::AddedTokens;
use crate::error::TokenizerError;
use crate::sandbox;

/// An engine built on the `tokenizers` crate.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) tokenizer: tokenizers::Tokenizer,
    /// Found in the text as it came.
    pub(crate) raw: AddedTokens,
    /// Found after normalization; their texts are normalized too.
    pub(crate) normalized: AddedTokens,
}

impl Pipeline {
    /// The tokens of a text; `control_allowed` says whether a control token may start at a byte of it.
    pub(crate) fn encode(
        &self,
        text: &str,
        control_allowed: impl Fn(usize) -> bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        // The regex engine panics when a text makes it backtrack too often; some normalizers index without checks.
        let reason = match sandbox::catch(|| self.run(text, control_allowed)) {
            Ok(Ok(ids)) => return Ok(ids),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        Err(TokenizerError::Text { bytes: text.len(), reason })
    }

    fn run(&self, text: &str, control_allowed: impl Fn(usize) -> bool) -> tokenizers::Result<Vec<u32>> {
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, whole| cut(whole, &self.raw, &control_allowed))?;
        pieces.split(|_, mut piece| {
            if let Some(normalizer) = self.tokenizer.get_normalizer() {
                normalizer.normalize(&mut piece)?;
            }
            if self.normalized.is_empty() {
                return Ok(vec![(piece, None)]);
            }
            let origins = origins(&piece);
            cut(piece, &self.normalized, &|offset| origins.get(offset).is_none_or(|&origin| control_allowed(origin)))
        })?;
        if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| self.tokenizer.get_model().tokenize(piece.get()))?;
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::None);
        let tokens = pieces.into_iter().flat_map(|(_, _, tokens)| tokens.iter().flatten());
        Ok(tokens.map(|token| token.id).collect())
    }
}

/// Cuts a piece at added tokens, which then count as tokenized.
fn cut(
    piece: NormalizedString,
    added: &AddedTokens,
    control_allowed: &impl Fn(usize) -> bool,
) -> tokenizers::Result<Vec<(NormalizedString, Option<Vec<Token>>)>> {
    if added.is_empty() {
        return Ok(vec![(piece, None)]);
    }
    let found = added.split(piece.get(), control_allowed);
    let slice = |range| piece.slice(tokenizers::tokenizer::normalizer::Range::Normalized(range));
    let parts = found.into_iter().map(|part| {
        let text = slice(part.range.clone()).ok_or("an added token does not lie on character boundaries")?;
        let tokens = part.token.map(|id| vec![Token::new(id, String::new(), (0, part.range.len()))]);
        Ok((text, tokens))
    });
    parts.collect()
}

/// For each byte of a normalized piece, the byte of the whole text that it came from.
fn origins(piece: &NormalizedString) -> Vec<usize> {
    let (start, _) = piece.offsets_original();
    let origin = |at| {
        let range = tokenizers::tokenizer::normalizer::Range::Normalized(at..at + 1);
        piece.convert_offsets(range).map_or(start, |range| start + range.start)
    };
    (0..piece.get().len()).map(origin).collect()
}
