//! Tokenizers from a Hugging Face directory: `tokenizer.json` and the small files beside it.
//!
//! The `tokenizers` crate gets only the parts that cut text (model, normalizer, pre-tokenizer); added tokens, special
//! tokens and decoding are read and checked here. It panics on some crafted files, so it builds in [`sandbox`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value as Json};
use tokenizers::{NormalizedString, Normalizer};

use crate::added::{AddedToken, AddedTokens};
use crate::error::{TokenizerError, clip};
use crate::gguf::parse_byte;
use crate::gguf_bpe::MAX_MERGES;
use crate::pipeline::Pipeline;
use crate::special::{self, SpecialTokens};
use crate::tokenizer::{Engine, Tokenizer};
use crate::vocabulary::{MAX_TOKENS, TokenKind, Vocabulary};
use crate::{byte_level, gguf_spm, growth, sandbox};

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Deepest nesting of a file's JSON.
const MAX_JSON_DEPTH: usize = 64;

/// The score that keeps a piece out of a unigram model's segmentations.
const NEVER: f64 = -1e6;

pub(crate) const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const MODEL_CONFIG: &str = "config.json";

/// Builds the tokenizer of a directory.
pub(crate) fn load(directory: &Path) -> Result<Tokenizer, TokenizerError> {
    let path = directory.join(TOKENIZER);
    let json = read_json(&path)?.ok_or_else(|| TokenizerError::Missing(path.display().to_string()))?;
    let config = SideFiles::read(directory)?;
    let Json::Object(mut json) = json else {
        return Err(TokenizerError::invalid(TOKENIZER, "no object", "a JSON object"));
    };
    let mut added: Vec<AddedTokenJson> = parse_field(&mut json, "added_tokens")?.unwrap_or_default();
    let decoder = Decoder::from_json(json.get("decoder").unwrap_or(&Json::Null))?;
    let starts_with = first_template_token(json.get("post_processor").unwrap_or(&Json::Null));
    let mut model = Model::from_json(json.remove("model").unwrap_or(Json::Null))?;
    let tokens = model.tokens()?;
    model.hide(added.iter().filter(|token| token.special).map(|token| token.content.as_str()));

    // What is not listed here cannot reach the crate.
    let parts: Map<String, Json> = ["normalizer", "pre_tokenizer"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), json.remove(name)?)))
        .chain([("model".to_owned(), model.json)])
        .collect();
    growth::check(["normalizer", "pre_tokenizer"].into_iter().filter_map(|name| parts.get(name)))?;
    let (tokenizer, added) = sandbox::run(move || {
        let tokenizer = build(parts)?;
        for token in &mut added {
            token.normalize(&tokenizer)?;
        }
        Ok::<_, TokenizerError>((tokenizer, added))
    })??;

    let mut vocabulary = build_vocabulary(&tokens, &added, decoder)?;
    let special = special_tokens(&config, &mut vocabulary, starts_with.as_deref())?;
    let (normalized, raw): (Vec<_>, Vec<_>) = added.into_iter().partition(|token| token.normalized_content.is_some());
    let matcher = |tokens: Vec<AddedTokenJson>| {
        AddedTokens::new(tokens.into_iter().map(|token| token.into_added(&vocabulary)).collect())
    };
    let pipeline = Pipeline { tokenizer, raw: matcher(raw), normalized: matcher(normalized) };
    Ok(Tokenizer::new(vocabulary, Engine::Pipeline(Box::new(pipeline)), special, decoder.strips_leading_space))
}

/// The texts of a directory's chat templates, by name; the usual one is `default`.
pub(crate) fn chat_templates(directory: &Path) -> Result<BTreeMap<String, String>, TokenizerError> {
    let mut templates = BTreeMap::new();
    let config = read_json(&directory.join(TOKENIZER_CONFIG))?.unwrap_or_default();
    let json_file = read_json(&directory.join("chat_template.json"))?.unwrap_or_default();
    for source in [config.get("chat_template"), json_file.get("chat_template")].into_iter().flatten() {
        match source {
            Json::String(text) => {
                templates.insert(DEFAULT_TEMPLATE.to_owned(), text.clone());
            }
            Json::Array(named) => {
                let text = |entry: &Json, field: &str| entry.get(field).and_then(Json::as_str).map(str::to_owned);
                templates
                    .extend(named.iter().filter_map(|entry| Some((text(entry, "name")?, text(entry, "template")?))));
            }
            _ => {}
        }
    }
    let files = [
        (DEFAULT_TEMPLATE, directory.join("chat_template.jinja")),
        (TOOL_TEMPLATE, directory.join("additional_chat_templates").join("tool_use.jinja")),
    ];
    for (name, path) in files {
        if let Some(text) = read_text(&path)? {
            templates.insert(name.to_owned(), text);
        }
    }
    Ok(templates)
}

/// The name of the template for all conversations without one of their own.
pub(crate) const DEFAULT_TEMPLATE: &str = "default";
/// The name of the template for conversations with tools.
pub(crate) const TOOL_TEMPLATE: &str = "tool_use";

/// The variables of special tokens that the directory's files give to templates (`bos_token` and so on).
pub(crate) fn special_token_texts(directory: &Path) -> Result<BTreeMap<String, String>, TokenizerError> {
    let config = SideFiles::read(directory)?.tokenizer;
    let fields = config.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    Ok(fields.filter_map(|(name, value)| Some((name.clone(), token_text(value)?.to_owned()))).collect())
}

/// One entry of `added_tokens`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct AddedTokenJson {
    id: u32,
    pub(crate) content: String,
    #[serde(default)]
    pub(crate) single_word: bool,
    #[serde(default)]
    pub(crate) lstrip: bool,
    #[serde(default)]
    pub(crate) rstrip: bool,
    #[serde(default)]
    pub(crate) normalized: bool,
    #[serde(default)]
    pub(crate) special: bool,
    /// What to look for in normalized text; `None` where the text is looked at as it comes.
    #[serde(skip)]
    normalized_content: Option<String>,
}

impl AddedTokenJson {
    fn normalize(&mut self, tokenizer: &tokenizers::Tokenizer) -> Result<(), TokenizerError> {
        if let Some(normalizer) = tokenizer.get_normalizer().filter(|_| self.normalized) {
            let mut text = NormalizedString::from(self.content.as_str());
            normalizer.normalize(&mut text).map_err(|error| TokenizerError::Rejected(error.to_string()))?;
            self.normalized_content = Some(text.get().to_owned());
        }
        Ok(())
    }

    /// The token for our matcher.
    fn into_added(self, vocabulary: &Vocabulary) -> AddedToken {
        AddedToken {
            id: self.id,
            control: vocabulary.kind(self.id) == Some(TokenKind::Control),
            text: self.normalized_content.unwrap_or(self.content),
            single_word: self.single_word,
            strip_left: self.lstrip,
            strip_right: self.rstrip,
        }
    }
}

/// The model part of `tokenizer.json`, checked as far as its panics are known.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) json: Json,
    pub(crate) kind: ModelKind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ModelKind {
    Bpe,
    Unigram,
}

impl Model {
    pub(crate) fn from_json(json: Json) -> Result<Self, TokenizerError> {
        let found = json.get("type").and_then(Json::as_str);
        let kind = match found {
            Some("BPE") => ModelKind::Bpe,
            Some("Unigram") => ModelKind::Unigram,
            None if json.get("merges").is_some() => ModelKind::Bpe, // old files do not say
            other => {
                let found = other.unwrap_or("without a type");
                return Err(TokenizerError::unsupported("tokenizer model", found, "BPE, Unigram"));
            }
        };
        let model = Self { json, kind };
        if kind == ModelKind::Bpe {
            model.check_merges()?;
        }
        Ok(model)
    }

    /// All tokens with their ids.
    pub(crate) fn tokens(&self) -> Result<Vec<(String, u32)>, TokenizerError> {
        let wrong = |what: String, found: &Json| {
            TokenizerError::invalid(what, clip(&found.to_string()), format!("an id below {MAX_TOKENS}"))
        };
        match (self.kind, self.json.get("vocab")) {
            (ModelKind::Bpe, Some(Json::Object(vocab))) => vocab
                .iter()
                .map(|(text, id)| match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                    Some(number) if (number as usize) < MAX_TOKENS => Ok((text.clone(), number)),
                    _ => Err(wrong(format!("id of token {:?}", clip(text)), id)),
                })
                .collect(),
            (ModelKind::Unigram, Some(Json::Array(vocab))) => {
                TokenizerError::check_limit("number of tokens", vocab.len(), MAX_TOKENS)?;
                let text = |(id, entry): (u32, &Json)| match entry.get(0).and_then(Json::as_str) {
                    Some(text) => Ok((text.to_owned(), id)),
                    None => {
                        let found = clip(&entry.to_string());
                        Err(TokenizerError::invalid(format!("piece {id}"), found, "[text, score]"))
                    }
                };
                (0..).zip(vocab).map(text).collect()
            }
            _ => Err(TokenizerError::invalid("model.vocab", "missing or of another type", "the tokens")),
        }
    }

    /// The pairs that merge, the first one first.
    pub(crate) fn merges(&self) -> impl Iterator<Item = (&str, &str)> {
        let list = self.json.get("merges").and_then(Json::as_array);
        list.into_iter().flatten().filter_map(pair_of)
    }

    /// Each merge must join two tokens to a token: the crate panics on some that do not.
    fn check_merges(&self) -> Result<(), TokenizerError> {
        let (Some(Json::Object(vocab)), Some(Json::Array(merges))) = (self.json.get("vocab"), self.json.get("merges"))
        else {
            return Err(TokenizerError::invalid(
                "model.vocab or model.merges",
                "missing or of another type",
                "present",
            ));
        };
        TokenizerError::check_limit("number of merges", merges.len(), MAX_MERGES)?;
        let prefix = self.json.get("continuing_subword_prefix").and_then(Json::as_str).unwrap_or_default();
        let mut whole = String::new();
        for (rank, merge) in merges.iter().enumerate() {
            let joins = pair_of(merge).is_some_and(|(left, right)| {
                whole.clear();
                whole.push_str(left);
                right.strip_prefix(prefix).is_some_and(|rest| {
                    whole.push_str(rest);
                    [left, right, &whole].into_iter().all(|part| vocab.contains_key(part))
                })
            });
            if !joins {
                let found = clip(&merge.to_string());
                let wanted = "two tokens whose concatenation is a token";
                return Err(TokenizerError::invalid(format!("merge {rank}"), found, wanted));
            }
        }
        Ok(())
    }

    /// Keeps control tokens from being built out of plain text.
    fn hide<'a>(&mut self, control: impl Iterator<Item = &'a str>) {
        let mut hidden: HashSet<&str> = control.collect();
        match self.kind {
            ModelKind::Bpe => {
                if let Some(unknown) = self.json.get("unk_token").and_then(Json::as_str) {
                    hidden.remove(unknown);
                }
                for merge in self.json.get("merges").and_then(Json::as_array).into_iter().flatten() {
                    let parts = match merge {
                        Json::String(text) => text.split_once(' '),
                        _ => merge[0].as_str().zip(merge[1].as_str()),
                    };
                    let Some((left, right)) = parts else { continue };
                    for part in [left, right] {
                        hidden.remove(part);
                    }
                    if !hidden.is_empty() && hidden.contains([left, right].concat().as_str()) {
                        hidden.remove([left, right].concat().as_str());
                    }
                }
                if let Some(vocab) = self.json.get_mut("vocab").and_then(Json::as_object_mut) {
                    vocab.retain(|text, _| !hidden.contains(text.as_str()));
                }
            }
            ModelKind::Unigram => {
                let unknown = self.json.get("unk_id").and_then(Json::as_u64);
                for (id, piece) in
                    self.json.get_mut("vocab").and_then(Json::as_array_mut).into_iter().flatten().enumerate()
                {
                    let is_hidden = piece[0].as_str().is_some_and(|text| hidden.contains(text));
                    if is_hidden && unknown != Some(id as u64) {
                        piece[1] = NEVER.into();
                    }
                }
            }
        }
    }
}

/// How tokens become text again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decoder {
    pub(crate) spelling: Spelling,
    strips_leading_space: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Spelling {
    /// Every byte is a character of its own alphabet.
    ByteLevel,
    /// Spaces are `▁`, odd bytes are `<0x0A>`.
    Metaspace,
}

impl Decoder {
    pub(crate) fn from_json(json: &Json) -> Result<Self, TokenizerError> {
        let mut steps = Vec::new();
        collect_steps(json, "decoders", &mut steps);
        let kind = |step: &&Json| step.get("type").and_then(Json::as_str).unwrap_or_default().to_owned();
        let kinds: Vec<String> = steps.iter().map(kind).collect();
        let has = |kind: &str| kinds.iter().any(|found| found == kind);
        let spelling = if has("ByteLevel") {
            Spelling::ByteLevel
        } else if has("Metaspace") || has("ByteFallback") || has("Replace") {
            Spelling::Metaspace
        } else {
            let supported = "ByteLevel, Metaspace, ByteFallback, Replace";
            return Err(TokenizerError::unsupported("tokenizer decoder", &kinds.join(", "), supported));
        };
        let strips = |step: &&Json| match kind(step).as_str() {
            "Strip" => step.get("content") == Some(&Json::from(" ")) && step.get("start") == Some(&Json::from(1)),
            "Metaspace" => {
                step.get("prepend_scheme") != Some(&Json::from("never"))
                    && step.get("add_prefix_space") != Some(&Json::from(false))
            }
            _ => false,
        };
        Ok(Self { spelling, strips_leading_space: steps.iter().any(strips) })
    }
}

/// The steps of a component: its own, or those of a sequence (to a fixed depth).
pub(crate) fn collect_steps<'a>(json: &'a Json, list: &str, steps: &mut Vec<&'a Json>) {
    match json.get(list).and_then(Json::as_array) {
        Some(inner) => inner.iter().for_each(|step| collect_steps(step, list, steps)), // depth: MAX_JSON_DEPTH
        None if json.is_object() => steps.push(json),
        None => {}
    }
}

/// The text of the special token with which the post-processor starts every text.
pub(crate) fn first_template_token(json: &Json) -> Option<String> {
    let mut steps = Vec::new();
    collect_steps(json, "processors", &mut steps);
    let first = steps.iter().find_map(|step| step.get("single")?.get(0)?.get("SpecialToken")?.get("id"));
    first.and_then(Json::as_str).map(str::to_owned)
}

pub(crate) fn build_vocabulary(
    tokens: &[(String, u32)],
    added: &[AddedTokenJson],
    decoder: Decoder,
) -> Result<Vocabulary, TokenizerError> {
    /// Text, kind, and what it decodes to where that is neither the text nor follows from the spelling.
    type Token<'a> = (&'a str, TokenKind, Option<&'a str>);
    let mut by_id: HashMap<u32, Token<'_>> = HashMap::with_capacity(tokens.len() + added.len());
    for (text, id) in tokens {
        let byte = decoder.spelling == Spelling::Metaspace && parse_byte(text).is_some();
        by_id.insert(*id, (text, if byte { TokenKind::Byte } else { TokenKind::Normal }, None));
    }
    for token in added {
        if token.id as usize >= MAX_TOKENS {
            let what = format!("id of added token {:?}", clip(&token.content));
            return Err(TokenizerError::invalid(what, token.id, format!("below {MAX_TOKENS}")));
        }
        let kind = if token.special { TokenKind::Control } else { TokenKind::UserDefined };
        by_id.insert(token.id, (&token.content, kind, token.normalized_content.as_deref()));
    }
    let len = by_id.keys().max().map_or(0, |&last| last + 1);
    let mut vocabulary = Vocabulary::default();
    for id in 0..len {
        let (text, kind, normalized) = by_id.get(&id).copied().unwrap_or(("", TokenKind::Normal, None));
        let spelled = normalized.unwrap_or(text);
        let decoded = match (kind, decoder.spelling) {
            (TokenKind::Byte, _) => parse_byte(text).map(|byte| vec![byte]),
            (TokenKind::Normal, Spelling::ByteLevel) => byte_level::decode(text),
            (TokenKind::Control | TokenKind::UserDefined, _) if normalized.is_none() => None,
            (_, Spelling::ByteLevel) => None,
            (_, Spelling::Metaspace) => Some(spelled.replace(gguf_spm::SPACE, " ").into_bytes()),
        };
        vocabulary.push(text, decoded.as_deref().unwrap_or(spelled.as_bytes()), kind)?;
    }
    Ok(vocabulary)
}

/// The crate's tokenizer out of the parts that it gets.
fn build(parts: Map<String, Json>) -> Result<tokenizers::Tokenizer, TokenizerError> {
    serde_json::from_value(Json::Object(parts)).map_err(|error| TokenizerError::Rejected(error.to_string()))
}

/// The small files beside `tokenizer.json`; an absent one is null.
pub(crate) struct SideFiles {
    tokenizer: Json,
    generation: Json,
    model: Json,
}

impl SideFiles {
    pub(crate) fn read(directory: &Path) -> Result<Self, TokenizerError> {
        let read = |name: &str| Ok::<_, TokenizerError>(read_json(&directory.join(name))?.unwrap_or_default());
        Ok(Self {
            tokenizer: read(TOKENIZER_CONFIG)?,
            generation: read(GENERATION_CONFIG)?,
            model: read(MODEL_CONFIG)?,
        })
    }

    /// The ids under a name such as `eos_token_id`: those of generation first, then the model's.
    fn ids(&self, name: &str, vocabulary: &Vocabulary) -> Result<Vec<u32>, TokenizerError> {
        let files = [(GENERATION_CONFIG, &self.generation), (MODEL_CONFIG, &self.model)];
        let values = files.into_iter().filter_map(|(file, json)| Some((file, json.get(name)?)));
        let Some((file, value)) = values.into_iter().find(|(_, value)| !value.is_null()) else { return Ok(Vec::new()) };
        let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let checked = ids.iter().map(|id| {
            let found =
                id.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < vocabulary.len());
            found.ok_or_else(|| {
                let wanted = format!("a token id below {}, or a list of such", vocabulary.len());
                TokenizerError::invalid(format!("{name} of {file}"), clip(&id.to_string()), wanted)
            })
        });
        checked.collect()
    }

    /// The text of a special token such as `eos_token`.
    fn text(&self, name: &str) -> Result<Option<&str>, TokenizerError> {
        let Some(value) = self.tokenizer.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
        token_text(value).map(Some).ok_or_else(|| {
            let what = format!("{name} of {TOKENIZER_CONFIG}");
            TokenizerError::invalid(what, clip(&value.to_string()), "a string or an object with content")
        })
    }
}

pub(crate) fn special_tokens(
    config: &SideFiles,
    vocabulary: &mut Vocabulary,
    starts_with: Option<&str>,
) -> Result<SpecialTokens, TokenizerError> {
    let named = |vocabulary: &Vocabulary, name: &str| -> Result<Option<u32>, TokenizerError> {
        let text = config.text(&format!("{name}_token"))?;
        let by_text = text.and_then(|text| vocabulary.iter().find(|(_, token, _)| *token == text));
        match by_text {
            Some((id, _, _)) => Ok(Some(id)),
            None => Ok(config.ids(&format!("{name}_token_id"), vocabulary)?.first().copied()),
        }
    };
    let mut special = SpecialTokens {
        bos: named(vocabulary, "bos")?,
        eos: named(vocabulary, "eos")?,
        unknown: named(vocabulary, "unk")?,
        padding: named(vocabulary, "pad")?,
        ..SpecialTokens::default()
    };
    special.add_end_of_generation(special.eos);
    special.add_end_of_generation(config.ids("eos_token_id", vocabulary)?);
    if config.generation.get("eos_token_id").is_none() {
        special.add_end_of_generation(special::mark_end_texts(vocabulary));
    }
    let bos_text = special.bos.and_then(|id| vocabulary.text(id));
    special.add_bos = match config.tokenizer.get("add_bos_token").and_then(Json::as_bool) {
        Some(add_bos) => add_bos && bos_text.is_some(),
        None => starts_with.is_some() && starts_with == bos_text,
    };
    Ok(special)
}

/// The two parts of a merge, in either of the ways to write it.
fn pair_of(merge: &Json) -> Option<(&str, &str)> {
    match merge {
        Json::String(text) => text.split_once(' '),
        Json::Array(parts) if parts.len() == 2 => parts[0].as_str().zip(parts[1].as_str()),
        _ => None,
    }
}

/// A special token is written as its text or as an object with `content`.
fn token_text(json: &Json) -> Option<&str> {
    json.as_str().or_else(|| json.get("content")?.as_str())
}

pub(crate) fn parse_field<T: for<'de> Deserialize<'de>>(
    json: &mut Map<String, Json>,
    name: &str,
) -> Result<Option<T>, TokenizerError> {
    let value = json.remove(name).filter(|value| !value.is_null());
    value.map(serde_json::from_value).transpose().map_err(|error| TokenizerError::invalid(name, error, "valid"))
}

pub(crate) fn read_json(path: &Path) -> Result<Option<Json>, TokenizerError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    TokenizerError::check_limit(&format!("JSON nesting of {}", path.display()), nesting(&text), MAX_JSON_DEPTH)?;
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|error| TokenizerError::invalid(path.display().to_string(), error, "valid JSON"))
}

/// The text of a file; `None` when there is no such file.
fn read_text(path: &Path) -> Result<Option<String>, TokenizerError> {
    let failed = |source| TokenizerError::File { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    let what = format!("size of {} in bytes", path.display());
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    TokenizerError::check_limit(&what, size, MAX_FILE_BYTES as usize)?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

/// The deepest nesting of brackets outside of strings, whether the JSON is valid or not.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
