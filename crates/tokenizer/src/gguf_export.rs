//! The tokenizer of a Hugging Face directory as the metadata of a GGUF file.
//!
//! GGUF holds no pattern by which text is cut, but a name for it: byte-level BPE whose way of cutting has a name there can be
//! written, and SentencePiece's BPE, which cuts by scores alone (`gguf_scores`). Nothing else can.

use std::path::Path;

use checkpoint::Metadata;
use serde_json::Value as Json;
use tracing::warn;

use crate::error::{TokenizerError, clip};
use crate::gguf::{self, token_type};
use crate::gguf_scores::Scores;
use crate::hf::{self, Decoder, Model, ModelKind, SideFiles, Spelling};
use crate::pretokenizer::{self, PreTokenizer};
use crate::special::{self, SpecialTokens};
use crate::vocabulary::{TokenKind, Vocabulary};

/// Adds the tokenizer and the chat templates of a directory to `metadata`, for a network with so many rows of embedding.
/// False when the directory has no tokenizer.
///
/// # Errors
/// A tokenizer that is faulty, of a kind that GGUF has no words for, or of more tokens than the network.
pub fn write_gguf_metadata(directory: &Path, rows: usize, metadata: &mut Metadata) -> Result<bool, TokenizerError> {
    let Some(json) = hf::read_json(&directory.join(hf::TOKENIZER))? else { return Ok(false) };
    let Json::Object(mut json) = json else {
        return Err(TokenizerError::invalid(hf::TOKENIZER, "no object", "a JSON object"));
    };
    let decoder = Decoder::from_json(json.get("decoder").unwrap_or(&Json::Null))?;
    let starts_with = hf::first_template_token(json.get("post_processor").unwrap_or(&Json::Null));
    let added: Vec<hf::AddedTokenJson> = hf::parse_field(&mut json, "added_tokens")?.unwrap_or_default();
    let model = Model::from_json(json.remove("model").unwrap_or(Json::Null))?;
    let cutting = Cutting::new(&json, &model, decoder.spelling, &added)?;
    warn_of_lost(&added, decoder.spelling);
    let config = SideFiles::read(directory)?;
    let mut vocabulary = hf::build_vocabulary(&model.tokens()?, &added, decoder)?;
    let special = hf::special_tokens(&config, &mut vocabulary, starts_with.as_deref())?;

    TokenizerError::check_limit("number of tokens", vocabulary.len(), rows)?;
    let (mut texts, mut types) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    for (id, text, kind) in vocabulary.iter() {
        let (text, number) = match kind {
            _ if text.is_empty() => (unused(id as usize), token_type::UNUSED),
            _ if cutting.is_scored() && Some(id) == special.unknown => (text.to_owned(), token_type::UNKNOWN),
            TokenKind::Control => (text.to_owned(), token_type::CONTROL),
            TokenKind::UserDefined => (text.to_owned(), token_type::USER_DEFINED),
            TokenKind::Byte => (text.to_owned(), token_type::BYTE),
            TokenKind::Normal => (text.to_owned(), token_type::NORMAL),
        };
        texts.push(text);
        types.push(number);
    }
    // The embedding may have more rows than there are tokens; readers want a text for each.
    texts.extend((texts.len()..rows).map(unused));
    types.resize(rows, token_type::UNUSED);
    cutting.write(&texts, metadata);
    metadata.insert(gguf::TOKENS, texts);
    metadata.insert(gguf::TYPES, types);
    metadata.insert(gguf::ADD_BOS, special.add_bos);
    let ends = other_ends(&special, &mut vocabulary);
    for (key, id) in [
        (gguf::BOS, special.bos),
        (gguf::EOS, special.eos),
        (gguf::UNKNOWN, special.unknown),
        (gguf::PADDING, special.padding),
    ]
    .into_iter()
    .chain(gguf::END_KEYS.iter().copied().zip(ends.into_iter().map(Some)))
    {
        if let Some(id) = id {
            metadata.insert(key, id);
        }
    }
    for (name, text) in hf::chat_templates(directory)? {
        match name.as_str() {
            hf::DEFAULT_TEMPLATE => drop(metadata.insert(gguf::CHAT_TEMPLATE, text)),
            hf::TOOL_TEMPLATE => drop(metadata.insert(gguf::TOOL_TEMPLATE, text)),
            _ => {}
        }
    }
    Ok(true)
}

/// How a text becomes tokens.
enum Cutting {
    /// By a named pattern, and merges.
    ByteLevel { name: &'static str, merges: Vec<String> },
    /// By scores.
    SentencePiece(Scores),
}

impl Cutting {
    fn new(
        json: &serde_json::Map<String, Json>,
        model: &Model,
        spelling: Spelling,
        added: &[hf::AddedTokenJson],
    ) -> Result<Self, TokenizerError> {
        let [normalizer, pre_tokenizer] =
            ["normalizer", "pre_tokenizer"].map(|part| json.get(part).unwrap_or(&Json::Null));
        match (model.kind, spelling) {
            (ModelKind::Bpe, Spelling::ByteLevel) => {
                check_model(model, &["continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"])?;
                let merges = merges(model)?;
                check_normalizer(normalizer)?;
                let patterns = patterns(pre_tokenizer)?;
                let whole_words = model.json.get("ignore_merges").and_then(Json::as_bool).unwrap_or(false);
                let name = PreTokenizer::name_of(&patterns, whole_words).ok_or_else(|| {
                    let supported = "those of the named pre-tokenizers of GGUF files";
                    TokenizerError::unsupported("pattern of a pre-tokenizer", &patterns.join(" then "), supported)
                })?;
                Ok(Self::ByteLevel { name, merges })
            }
            (ModelKind::Bpe, Spelling::Metaspace) => {
                check_model(model, &["continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"])?;
                Ok(Self::SentencePiece(Scores::new(model, (normalizer, pre_tokenizer), added)?))
            }
            (kind, spelling) => {
                let found = format!("{kind:?} with {spelling:?}");
                let supported = "Bpe with ByteLevel, Bpe with byte_fallback";
                Err(TokenizerError::unsupported("tokenizer for a GGUF file", &found, supported))
            }
        }
    }

    fn is_scored(&self) -> bool {
        matches!(self, Cutting::SentencePiece(_))
    }

    fn write(self, texts: &[String], metadata: &mut Metadata) {
        match self {
            Cutting::ByteLevel { name, merges } => {
                metadata.insert(gguf::MODEL, "gpt2");
                metadata.insert(gguf::PRE, name);
                metadata.insert(gguf::MERGES, merges);
            }
            Cutting::SentencePiece(scores) => {
                metadata.insert(gguf::MODEL, "llama");
                metadata.insert(gguf::PRE, "default");
                metadata.insert(gguf::SCORES, texts.iter().map(|text| scores.of(text)).collect::<Vec<f32>>());
                metadata.insert(gguf::ADD_SPACE_PREFIX, scores.adds_space);
            }
        }
    }
}

/// Some added tokens are found only as whole words, take the white space beside them, or are found in a text whose spaces are
/// spelled already. GGUF files do not say so, and their readers do without.
fn warn_of_lost(added: &[hf::AddedTokenJson], spelling: Spelling) {
    let is_normalized =
        |token: &hf::AddedTokenJson| spelling == Spelling::Metaspace && token.normalized && !token.special;
    let is_lost =
        |token: &&hf::AddedTokenJson| token.single_word || token.lstrip || token.rstrip || is_normalized(token);
    let lost: Vec<&str> = added.iter().filter(is_lost).map(|token| token.content.as_str()).collect();
    if let Some(first) = lost.first() {
        warn!(
            "{} added tokens, such as {:?}, are whole words, or depend on white space: a GGUF file cannot say so, and texts \
             with them may become other tokens",
            lost.len(),
            clip(first)
        );
    }
}

/// The tokens besides `eos` that end an answer. Those come first that readers do not know by their text, because a GGUF
/// file has few keys for them.
fn other_ends(special: &SpecialTokens, vocabulary: &mut Vocabulary) -> Vec<u32> {
    let by_text = special::mark_end_texts(vocabulary);
    let others = special.end_of_generation.iter().copied().filter(|id| Some(*id) != special.eos);
    let (known, mut ends): (Vec<u32>, Vec<u32>) = others.partition(|id| by_text.contains(id));
    let lost = ends.get(gguf::END_KEYS.len()..).unwrap_or_default();
    if let Some(first) = lost.first() {
        warn!(
            "{} tokens that end an answer, such as {:?}, are more than a GGUF file has keys for: answers from it go on \
             behind them",
            lost.len(),
            clip(vocabulary.text(*first).unwrap_or_default())
        );
    }
    ends.extend(known);
    ends
}

/// The text of an id that is no token.
fn unused(id: usize) -> String {
    format!("[PAD{id}]")
}

/// GGUF has no word for tokens that are spelled otherwise within words or at their ends, nor, for byte-level BPE, for bytes
/// beside the alphabet: `fields` say what must not be.
fn check_model(model: &Model, fields: &[&str]) -> Result<(), TokenizerError> {
    let is_set = |field: &&str| match model.json.get(*field) {
        None | Some(Json::Null | Json::Bool(false)) => false,
        Some(Json::String(text)) => !text.is_empty(),
        Some(_) => true,
    };
    match fields.iter().copied().find(is_set) {
        Some(field) => {
            let supported = "vocab, merges, and ignore_merges or byte_fallback";
            Err(TokenizerError::unsupported("field of a tokenizer model for a GGUF file", field, supported))
        }
        None => Ok(()),
    }
}

/// The pairs as GGUF spells them. A space parts them, so none may be within.
fn merges(model: &Model) -> Result<Vec<String>, TokenizerError> {
    let spelled =
        model.merges().map(|(left, right)| format!("{left} {right}")).map(|text| match text.matches(' ').count() {
            1 => Ok(text),
            _ => Err(TokenizerError::unsupported("merge for a GGUF file", &text, "two tokens without a space in them")),
        });
    spelled.collect()
}

/// GGUF has no word for what is done to a text before it is cut; composing characters (NFC) changes none that was typed.
fn check_normalizer(json: &Json) -> Result<(), TokenizerError> {
    let mut steps = Vec::new();
    hf::collect_steps(json, "normalizers", &mut steps);
    let kind = |step: &&Json| step.get("type").and_then(Json::as_str).unwrap_or_default().to_owned();
    match steps.iter().map(kind).find(|kind| kind != "NFC") {
        Some(kind) => Err(TokenizerError::unsupported("normalizer for a GGUF file", &kind, "none, NFC")),
        None => Ok(()),
    }
}

/// The patterns by which text is cut, one after the other.
fn patterns(json: &Json) -> Result<Vec<String>, TokenizerError> {
    let mut steps = Vec::new();
    hf::collect_steps(json, "pretokenizers", &mut steps);
    let mut patterns = Vec::new();
    for step in steps {
        let is = |key: &str| step.get(key).and_then(Json::as_bool).unwrap_or(false);
        match step.get("type").and_then(Json::as_str).unwrap_or_default() {
            "Split" if step["behavior"] == "Isolated" && !is("invert") && step["pattern"]["Regex"].is_string() => {
                patterns.extend(step["pattern"]["Regex"].as_str().map(str::to_owned));
            }
            "Digits" if is("individual_digits") => patterns.push(r"\p{N}".to_owned()),
            "ByteLevel" if !is("add_prefix_space") => {
                // Older files do not say, and mean that it cuts.
                let cuts = step.get("use_regex").and_then(Json::as_bool).unwrap_or(true);
                patterns.extend(cuts.then(|| pretokenizer::GPT2.to_owned()));
            }
            other => {
                let supported = "Split by a pattern, Digits one by one, ByteLevel without a prefix";
                return Err(TokenizerError::unsupported("pre-tokenizer for a GGUF file", other, supported));
            }
        }
    }
    Ok(patterns)
}
