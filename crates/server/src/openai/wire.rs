//! Answers as they stand on the wire.

use std::sync::Arc;

use engine::{CacheEnd, PromptLogprob, Token, TokenLogprob, Usage};
use serde::{Serialize, Serializer};
use tokenizer::Tokenizer;

use crate::fleet::Lease;

/// JSON has no minus infinity; this is what OpenAI writes for it.
const LEAST_LOGPROB: f32 = -9999.0;

/// Tokens that a request took.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct UsageJson {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct PromptDetails {
    cached_tokens: usize,
    /// Messages of a chat, or tokens of a text, that were left out because the context had no room.
    #[serde(skip_serializing_if = "is_zero")]
    dropped: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_end: Option<CacheEndJson>,
}

/// Why the prefix cache had no more.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct CacheEndJson {
    reason: &'static str,
    /// Index of the first prompt token that was not there.
    token: Option<usize>,
    /// Characters of the prompt's text before that token.
    text_offset: Option<usize>,
}

/// A prompt that is remembered to say where in its text a cache hit ended.
pub(super) struct TracedPrompt {
    model: Arc<Lease>,
    ids: Vec<u32>,
    /// Ids at the start that are no part of the text.
    hidden: usize,
}

impl TracedPrompt {
    /// `hidden` ids at the start are no part of the text.
    pub(super) fn new(model: &Arc<Lease>, ids: &[u32], hidden: usize) -> Self {
        Self { model: Arc::clone(model), ids: ids.to_vec(), hidden }
    }

    fn end(&self, end: CacheEnd) -> CacheEndJson {
        let chars = |token: usize| {
            let mut text = self.model.tokenizer.stream().with_control();
            let ids = self.ids.get(self.hidden..token).unwrap_or_default();
            ids.iter().map(|&id| text.push(id).chars().count()).sum()
        };
        CacheEndJson { reason: end.name(), token: end.index(), text_offset: end.index().map(chars) }
    }
}

impl UsageJson {
    /// Usage of prompts of which so much was left out.
    pub(super) fn with_dropped(dropped: usize) -> Self {
        Self { prompt_tokens_details: PromptDetails { dropped, ..PromptDetails::default() }, ..Self::default() }
    }

    /// Adds a choice. The prompt counts once however many choices it has.
    pub(super) fn add_choice(&mut self, usage: &Usage, is_first_of_prompt: bool, traced: Option<&TracedPrompt>) {
        if is_first_of_prompt {
            self.prompt_tokens += usage.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += usage.cached_tokens;
            self.prompt_tokens_details.cache_end = traced.map(|prompt| prompt.end(usage.cache_end));
        }
        self.completion_tokens += usage.completion_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A chat answer, or a chunk of one.
#[derive(Debug, Serialize)]
pub(super) struct ChatJson<'a, C> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<C>,
    /// Outer `None`: the field is absent; inner: it is null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<&'a UsageJson>>,
}

/// A choice of a whole chat answer.
#[derive(Debug, Serialize)]
pub(super) struct ChatChoice {
    pub(super) index: usize,
    pub(super) message: ChatMessage,
    pub(super) logprobs: Option<ChatLogprobs>,
    pub(super) finish_reason: &'static str,
}

/// The assistant's message.
#[derive(Debug, Serialize)]
pub(super) struct ChatMessage {
    pub(super) role: &'static str,
    pub(super) content: String,
    pub(super) refusal: Option<()>,
}

/// A choice of a chunk.
#[derive(Debug, Serialize)]
pub(super) struct ChunkChoice<'a> {
    pub(super) index: usize,
    pub(super) delta: ChunkDelta<'a>,
    pub(super) logprobs: Option<ChatLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
}

/// What a chunk adds.
#[derive(Debug, Default, Serialize)]
pub(super) struct ChunkDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
}

/// Log probabilities of a chat answer's tokens.
#[derive(Debug, Default, Serialize)]
pub(super) struct ChatLogprobs {
    pub(super) content: Vec<ChatLogprob>,
    pub(super) refusal: Option<()>,
}

/// A token of a chat answer with the likeliest ones in its place.
#[derive(Debug, Serialize)]
pub(super) struct ChatLogprob {
    #[serde(flatten)]
    token: TokenJson,
    top_logprobs: Vec<TokenJson>,
}

#[derive(Debug, Serialize)]
struct TokenJson {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// Adds tokens.
    pub(super) fn extend(&mut self, tokens: &[Token], tokenizer: &Tokenizer) {
        let json = |id: u32, logprob: f32| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            let token = String::from_utf8_lossy(bytes).into_owned();
            TokenJson { token, logprob: finite(logprob), bytes: bytes.to_vec() }
        };
        self.content.extend(tokens.iter().map(|token| ChatLogprob {
            token: json(token.id, token.logprob),
            top_logprobs: token.top.iter().map(|top| json(top.id, top.logprob)).collect(),
        }));
    }
}

/// A text completion, or a chunk of one.
#[derive(Debug, Serialize)]
pub(super) struct CompletionJson<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<&'a UsageJson>>,
}

/// A choice of a text completion.
#[derive(Debug, Serialize)]
pub(super) struct CompletionChoice {
    pub(super) index: usize,
    pub(super) text: String,
    pub(super) logprobs: Option<CompletionLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
}

/// Log probabilities of a text completion: lists of equal length, one entry a token.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<TopLogprobs>>,
    text_offset: Vec<usize>,
}

/// The likeliest tokens in one place, as an object from text to log probability.
#[derive(Clone, Debug)]
struct TopLogprobs(Vec<(String, f32)>);

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(text, logprob)| (text, logprob)))
    }
}

impl CompletionLogprobs {
    /// Adds generated tokens; `offset` is where in the text the next token starts, in characters, and is moved on.
    pub(super) fn extend(&mut self, tokens: &[Token], tokenizer: &Tokenizer, offset: &mut usize) {
        for token in tokens {
            self.push(token.id, Some(token.logprob), &token.top, tokenizer, offset);
        }
    }

    /// Adds the prompt's tokens.
    pub(super) fn extend_prompt(&mut self, tokens: &[PromptLogprob], tokenizer: &Tokenizer, offset: &mut usize) {
        for token in tokens {
            self.push(token.id, token.logprob, &token.top, tokenizer, offset);
        }
    }

    fn push(&mut self, id: u32, logprob: Option<f32>, top: &[TokenLogprob], tokenizer: &Tokenizer, offset: &mut usize) {
        let text = |id: u32| String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned();
        let this = text(id);
        // The first token of a prompt has no probability, and no others in its place.
        let top_map = logprob.map(|logprob| {
            let mut entries: Vec<(String, f32)> = Vec::with_capacity(top.len() + 1);
            let all = top.iter().map(|top| (text(top.id), top.logprob)).chain([(this.clone(), logprob)]);
            for (text, logprob) in all {
                if entries.iter().all(|(known, _)| *known != text) {
                    entries.push((text, finite(logprob)));
                }
            }
            TopLogprobs(entries)
        });
        self.text_offset.push(*offset);
        *offset += this.chars().count();
        self.tokens.push(this);
        self.token_logprobs.push(logprob.map(finite));
        self.top_logprobs.push(top_map);
    }
}

fn finite(logprob: f32) -> f32 {
    logprob.max(LEAST_LOGPROB)
}
