//! SentencePiece's BPE in a `tokenizer.json` (Llama 2, Mistral, Gemma) as the scores that a GGUF file has for it.
//!
//! SentencePiece gives each piece a score: of all neighbours that make a piece together the pair with the best merges first.
//! A `tokenizer.json` that was made of one lists merges instead: piece by piece, in the order of the scores, every way to make
//! it of two others. Of such a list the scores are the order; other lists are refused, for they may cut texts otherwise.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;
use tracing::warn;

use crate::error::{TokenizerError, clip};
use crate::gguf_spm::SPACE;
use crate::hf::{self, AddedTokenJson, Model};

/// What a GGUF file says of SentencePiece's pieces.
pub(crate) struct Scores {
    by_piece: HashMap<String, f32>,
    /// Whether texts get a space in front.
    pub(crate) adds_space: bool,
}

impl Scores {
    /// Of the model and what is done to texts before. `added` are found before any piece.
    ///
    /// # Errors
    /// A tokenizer that is not SentencePiece's.
    pub(crate) fn new(
        model: &Model,
        (normalizer, pre_tokenizer): (&Json, &Json),
        added: &[AddedTokenJson],
    ) -> Result<Self, TokenizerError> {
        if model.json.get("byte_fallback") != Some(&Json::Bool(true)) {
            let supported = "Bpe with ByteLevel, Bpe with byte_fallback";
            return Err(TokenizerError::unsupported("tokenizer for a GGUF file", "Bpe without bytes", supported));
        }
        Ok(Self { by_piece: by_piece(model, added)?, adds_space: adds_space(normalizer, pre_tokenizer)? })
    }

    /// The score of a piece; tokens that nothing merges into need none.
    pub(crate) fn of(&self, text: &str) -> f32 {
        self.by_piece.get(text).copied().unwrap_or(0.0)
    }
}

/// Less the place of its first merge for each piece. Merges into a piece must follow one another, and be all there are.
fn by_piece(model: &Model, added: &[AddedTokenJson]) -> Result<HashMap<String, f32>, TokenizerError> {
    let added: HashSet<&str> = added.iter().map(|token| token.content.as_str()).collect();
    let tokens = model.tokens()?;
    let pieces: HashSet<&str> =
        tokens.iter().map(|(text, _)| text.as_str()).filter(|text| !added.contains(text)).collect();
    let (mut scores, mut ways) = (HashMap::new(), HashMap::<String, usize>::new());
    let mut last = String::new();
    for (rank, (left, right)) in model.merges().enumerate() {
        let piece = [left, right].concat();
        if piece != last && scores.insert(piece.clone(), -(rank as f32)).is_some() {
            return Err(unlike(&format!("merges into {} apart from one another", clip(&piece))));
        }
        *ways.entry(piece.clone()).or_default() += 1;
        last = piece;
    }
    let is_cut = |piece: &str, at: usize| pieces.contains(&piece[..at]) && pieces.contains(&piece[at..]);
    for piece in pieces.iter().filter(|piece| crate::gguf::parse_byte(piece).is_none()) {
        let cuts = piece.char_indices().skip(1).filter(|(at, _)| is_cut(piece, *at)).count();
        let is_single = piece.chars().count() == 1;
        if cuts != ways.get(*piece).copied().unwrap_or(0) || (cuts == 0 && !is_single) {
            return Err(unlike(&format!("some of the ways to make {}", clip(piece))));
        }
    }
    Ok(scores)
}

fn unlike(found: &str) -> TokenizerError {
    TokenizerError::unsupported(
        "list of merges for a GGUF file",
        found,
        "SentencePiece's, with all ways to make each piece",
    )
}

/// Texts have `▁` for each space, and perhaps one in front; more is not done to them before pieces are made.
fn adds_space(normalizer: &Json, pre_tokenizer: &Json) -> Result<bool, TokenizerError> {
    let (mut normalizers, mut cuts) = (Vec::new(), Vec::new());
    hf::collect_steps(normalizer, "normalizers", &mut normalizers);
    hf::collect_steps(pre_tokenizer, "pretokenizers", &mut cuts);
    let kind = |step: &Json| step.get("type").and_then(Json::as_str).unwrap_or_default().to_owned();
    let space = SPACE.to_string();
    let (mut adds, mut shows) = (false, false);
    for step in normalizers {
        match kind(step).as_str() {
            "Prepend" if step["prepend"] == space.as_str() => adds = true,
            "Replace" if step["pattern"]["String"] == " " && step["content"] == space.as_str() => shows = true,
            other => {
                let supported = "Prepend of \"▁\", Replace of \" \" by \"▁\"";
                return Err(TokenizerError::unsupported("normalizer for a GGUF file", other, supported));
            }
        }
    }
    for step in cuts {
        match kind(step).as_str() {
            // There are no spaces any more.
            "Split" if shows && step["pattern"]["String"] == " " => {}
            "Metaspace" if step["replacement"] == space.as_str() && step["split"] == false => {
                (adds, shows) = (step["prepend_scheme"] != "never", true);
                if step["prepend_scheme"] == "first" {
                    warn!(
                        "the tokenizer puts a space in front of prompts; readers of GGUF files do so behind control tokens, too"
                    );
                }
            }
            other => {
                let supported = "none, Metaspace that does not split";
                return Err(TokenizerError::unsupported("pre-tokenizer for a GGUF file", other, supported));
            }
        }
    }
    match shows {
        true => Ok(adds),
        false => Err(TokenizerError::unsupported("normalizer for a GGUF file", "none", "Replace of \" \" by \"▁\"")),
    }
}
