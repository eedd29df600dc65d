//! Tokenizers from the metadata of a GGUF file.

use std::borrow::Cow;

use checkpoint::Metadata;
use tracing::warn;

use crate::added::{AddedToken, AddedTokens};
use crate::byte_level;
use crate::error::TokenizerError;
use crate::gguf_bpe;
use crate::gguf_spm::{self, Spm};
use crate::pipeline::Pipeline;
use crate::pretokenizer::{self, PreTokenizer};
use crate::special::{self, SpecialTokens};
use crate::tokenizer::{Engine, Tokenizer};
use crate::vocabulary::{TokenKind, Vocabulary};

pub(crate) const MODEL: &str = "tokenizer.ggml.model";
pub(crate) const PRE: &str = "tokenizer.ggml.pre";
pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(crate) const SCORES: &str = "tokenizer.ggml.scores";
pub(crate) const TYPES: &str = "tokenizer.ggml.token_type";
pub(crate) const MERGES: &str = "tokenizer.ggml.merges";
pub(crate) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(crate) const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
pub(crate) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(crate) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(crate) const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
pub(crate) const PADDING: &str = "tokenizer.ggml.padding_token_id";
/// Further keys whose tokens end an answer.
pub(crate) const END_KEYS: &[&str] = &["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// The Jinja source of the chat template.
pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";
/// The same for conversations with tools, where it differs.
pub(crate) const TOOL_TEMPLATE: &str = "tokenizer.chat_template.tool_use";

/// Builds the tokenizer that a GGUF file describes.
pub(crate) fn load(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
    let model = metadata.str(MODEL)?.ok_or_else(|| TokenizerError::Missing(MODEL.into()))?;
    let kind = match model {
        "gpt2" => ModelKind::Bpe,
        "llama" => ModelKind::Spm,
        other => return Err(TokenizerError::unsupported("tokenizer model", other, "gpt2, llama")),
    };
    let texts = metadata.strings(TOKENS)?.ok_or_else(|| TokenizerError::Missing(TOKENS.into()))?;
    let mut vocabulary = read_vocabulary(metadata, texts, kind)?;
    let ends = special::mark_end_texts(&mut vocabulary);
    let mut special = SpecialTokens {
        bos: special_id(metadata, BOS, kind.default_id(1), &vocabulary)?,
        eos: special_id(metadata, EOS, kind.default_id(2), &vocabulary)?,
        unknown: special_id(metadata, UNKNOWN, kind.default_id(0), &vocabulary)?,
        padding: special_id(metadata, PADDING, None, &vocabulary)?,
        ..SpecialTokens::default()
    };
    special.add_end_of_generation(ends.into_iter().chain(special.eos));
    for key in END_KEYS {
        special.add_end_of_generation(special_id(metadata, key, None, &vocabulary)?);
    }
    let added = AddedTokens::new(added_tokens(metadata, &vocabulary)?);
    let (engine, add_bos) = match kind {
        ModelKind::Bpe => {
            let name = metadata.str(PRE)?.unwrap_or_else(|| {
                warn!(
                    "the model names no pre-tokenizer; {:?} may not be what it was made with",
                    pretokenizer::DEFAULT_NAME
                );
                pretokenizer::DEFAULT_NAME
            });
            let pre_tokenizer = PreTokenizer::named(name)?;
            let merges = metadata.strings(MERGES)?.ok_or_else(|| TokenizerError::Missing(MERGES.into()))?;
            let tokenizer = gguf_bpe::build(&vocabulary, merges, pre_tokenizer)?;
            let pipeline = Pipeline { tokenizer, raw: added, normalized: AddedTokens::default() };
            (Engine::Pipeline(Box::new(pipeline)), pre_tokenizer.add_bos)
        }
        ModelKind::Spm => {
            let scores = read_scores(metadata, texts.len())?;
            let mergeable = vocabulary.iter().filter(|(_, _, kind)| *kind != TokenKind::Control);
            let scored = mergeable.map(|(id, text, _)| (id, text, scores[id as usize]));
            let add_space_prefix = metadata.bool(ADD_SPACE_PREFIX)?.unwrap_or(true);
            (Engine::Spm { spm: Spm::new(scored, special.unknown, add_space_prefix)?, added }, true)
        }
    };
    special.add_bos = metadata.bool(ADD_BOS)?.unwrap_or(add_bos) && special.bos.is_some();
    let strip_leading_space = matches!(&engine, Engine::Spm { spm, .. } if spm.adds_space_prefix());
    Ok(Tokenizer::new(vocabulary, engine, special, strip_leading_space))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum ModelKind {
    Bpe,
    Spm,
}

impl ModelKind {
    /// SentencePiece vocabularies have their special tokens in fixed places.
    fn default_id(self, id: u32) -> Option<u32> {
        (self == ModelKind::Spm).then_some(id)
    }
}

/// The kinds of tokens in a file, by their number there.
pub(crate) mod token_type {
    pub(crate) const NORMAL: i32 = 1;
    pub(crate) const UNKNOWN: i32 = 2;
    pub(crate) const CONTROL: i32 = 3;
    pub(crate) const USER_DEFINED: i32 = 4;
    pub(crate) const UNUSED: i32 = 5;
    pub(crate) const BYTE: i32 = 6;
}

fn read_vocabulary(metadata: &Metadata, texts: &[String], kind: ModelKind) -> Result<Vocabulary, TokenizerError> {
    let types = metadata.i32s(TYPES)?.unwrap_or_default();
    if !types.is_empty() {
        require_len(TYPES, types.len(), texts.len())?;
    }
    let mut vocabulary = Vocabulary::default();
    for (id, text) in texts.iter().enumerate() {
        let token_kind = match types.get(id).copied() {
            Some(token_type::UNKNOWN | token_type::CONTROL) => TokenKind::Control,
            Some(token_type::USER_DEFINED) => TokenKind::UserDefined,
            Some(token_type::BYTE) => TokenKind::Byte,
            _ => TokenKind::Normal,
        };
        let bytes: Cow<'_, [u8]> = match (token_kind, kind) {
            (TokenKind::Byte, _) => vec![parse_byte(text).ok_or_else(|| {
                TokenizerError::invalid(format!("byte token {id}"), format!("{text:?}"), "<0x00> to <0xFF>")
            })?]
            .into(),
            (TokenKind::Normal, ModelKind::Spm) => text.replace(gguf_spm::SPACE, " ").into_bytes().into(),
            (TokenKind::Normal, ModelKind::Bpe) => {
                byte_level::decode(text).map_or(Cow::Borrowed(text.as_bytes()), Cow::Owned)
            }
            (TokenKind::Control | TokenKind::UserDefined, _) => text.as_bytes().into(),
        };
        vocabulary.push(text, &bytes, token_kind)?;
    }
    Ok(vocabulary)
}

/// The byte that `<0x0A>` stands for.
pub(crate) fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

fn read_scores(metadata: &Metadata, len: usize) -> Result<Cow<'_, [f32]>, TokenizerError> {
    let scores = metadata.f32s(SCORES)?.ok_or_else(|| TokenizerError::Missing(SCORES.into()))?;
    require_len(SCORES, scores.len(), len)?;
    Ok(scores)
}

fn require_len(key: &str, found: usize, wanted: usize) -> Result<(), TokenizerError> {
    if found == wanted {
        return Ok(());
    }
    Err(TokenizerError::invalid(format!("length of {key}"), found, format!("{wanted} as in {TOKENS}")))
}

/// The id under a key; the default holds where the key is absent and the vocabulary long enough.
fn special_id(
    metadata: &Metadata,
    key: &str,
    default: Option<u32>,
    vocabulary: &Vocabulary,
) -> Result<Option<u32>, TokenizerError> {
    let in_vocabulary = |id: &u32| (*id as usize) < vocabulary.len();
    match metadata.u32(key)? {
        None => Ok(default.filter(in_vocabulary)),
        Some(id) if in_vocabulary(&id) => Ok(Some(id)),
        Some(id) => Err(TokenizerError::invalid(key, id, format!("below {} tokens", vocabulary.len()))),
    }
}

/// Control and user-defined tokens are found before anything else.
fn added_tokens(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Vec<AddedToken>, TokenizerError> {
    // The files do not say which tokens take the white space behind them; those of Phi-3 do.
    let name = metadata.str("general.name")?.unwrap_or_default().to_lowercase();
    let strips = name.contains("phi-3") || name.contains("phi3");
    let added = vocabulary.iter().filter(|(_, _, kind)| matches!(kind, TokenKind::Control | TokenKind::UserDefined));
    Ok(added
        .map(|(id, text, kind)| {
            let mut token = AddedToken::new(id, text, kind == TokenKind::Control);
            token.strip_right = strips && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
            token
        })
        .collect())
}
