//! Byte-level BPE from a GGUF vocabulary (model `gpt2`), on the `tokenizers` crate.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tracing::debug;

use crate::byte_level;
use crate::error::TokenizerError;
use crate::pretokenizer::PreTokenizer;
use crate::sandbox;
use crate::vocabulary::{TokenKind, Vocabulary};

/// Most merges of a vocabulary.
pub(crate) const MAX_MERGES: usize = 1 << 22;

/// Builds the engine. `merges` are pairs of tokens separated by a space, the earliest first. No text merges to a control
/// token.
pub(crate) fn build(
    tokens: &Vocabulary,
    merges: &[String],
    pre_tokenizer: PreTokenizer,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let mut kinds = HashMap::with_capacity(tokens.len());
    let mut vocabulary = Vocab::with_capacity(tokens.len());
    for (id, text, kind) in tokens.iter() {
        kinds.entry(text).or_insert(kind);
        if kind != TokenKind::Control {
            vocabulary.entry(text.to_owned()).or_insert(id);
        }
    }
    require_bytes(&kinds)?;
    let merges = parse_merges(merges, &kinds)?;
    let steps = pre_tokenizer.build()?;
    sandbox::run(move || {
        let model = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .ignore_merges(pre_tokenizer.whole_words)
            .build()
            .map_err(|error| TokenizerError::Rejected(error.to_string()))?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(steps));
        Ok(tokenizer)
    })?
}

/// Refuses a vocabulary that cannot spell printable ASCII. Real ones lack some control characters and the first bytes
/// of rare planes; such bytes add no token, as in the reference implementations.
fn require_bytes(kinds: &HashMap<&str, TokenKind>) -> Result<(), TokenizerError> {
    let has = |byte: u8| kinds.contains_key(&*byte_level::char_of(byte).encode_utf8(&mut [0; 4]));
    if let Some(byte) = (b' '..=b'~').chain(*b"\n").find(|&byte| !has(byte)) {
        return Err(TokenizerError::invalid(format!("token of byte 0x{byte:02X}"), "missing", "present"));
    }
    let missing = (0..=255u8).filter(|&byte| byte_level::occurs_in_utf8(byte) && !has(byte)).count();
    if missing > 0 {
        debug!("{missing} bytes have no token and vanish from prompts");
    }
    Ok(())
}

/// Splits each merge and checks that both parts and the whole are tokens. Those that make or use a control token are
/// left out.
fn parse_merges(merges: &[String], kinds: &HashMap<&str, TokenKind>) -> Result<Merges, TokenizerError> {
    TokenizerError::check_limit("number of merges", merges.len(), MAX_MERGES)?;
    let mut parsed = Merges::with_capacity(merges.len());
    let mut whole = String::new();
    for (rank, merge) in merges.iter().enumerate() {
        let wrong = |found: String| {
            TokenizerError::invalid(format!("merge {rank}"), found, "two tokens whose concatenation is a token")
        };
        // A part may itself be a space, but no part is empty.
        let second_at = merge.char_indices().nth(1).map_or(merge.len(), |(at, _)| at);
        let at = merge[second_at..].find(' ').ok_or_else(|| wrong(format!("{merge:?}")))? + second_at;
        let (left, right) = (&merge[..at], &merge[at + 1..]);
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        let mut makes_text = true;
        for part in [left, right, &whole] {
            match kinds.get(part) {
                Some(kind) => makes_text &= *kind != TokenKind::Control,
                None => return Err(wrong(format!("{merge:?} where {part:?} is no token"))),
            }
        }
        if makes_text {
            parsed.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(parsed)
}
