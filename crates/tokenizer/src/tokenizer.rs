//! [`Tokenizer`]: text to ids and back, for any kind of vocabulary.

use std::path::Path;
use std::sync::Arc;

use checkpoint::{Checkpoint, Description, Metadata};

use crate::added::AddedTokens;
use crate::control::{ControlTexts, ControlTokens, Prompt};
use crate::error::TokenizerError;
use crate::gguf_spm::Spm;
use crate::pipeline::Pipeline;
use crate::special::SpecialTokens;
use crate::stream::DecodeStream;
use crate::vocabulary::{TokenKind, Vocabulary};
use crate::{gguf, hf};

/// A model's vocabulary with its rules for cutting text into tokens. Cheap to share, and all methods take `&self`.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Arc<Vocabulary>,
    engine: Engine,
    special: SpecialTokens,
    /// Whether decoded text loses one leading space, because encoding adds one.
    strip_leading_space: bool,
}

/// What turns plain text into tokens.
#[derive(Debug)]
pub(crate) enum Engine {
    Pipeline(Box<Pipeline>),
    Spm { spm: Spm, added: AddedTokens },
}

impl Tokenizer {
    /// The tokenizer of a model: from the metadata of a GGUF file, or from `tokenizer.json` beside `config.json`.
    ///
    /// # Errors
    /// When the model has none, has a kind that is not supported, or has a faulty one.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, TokenizerError> {
        match checkpoint.description() {
            Description::Gguf(metadata) => Self::from_gguf(metadata),
            Description::HuggingFace(config) => Self::from_directory(&config.dir),
        }
    }

    /// The tokenizer in the metadata of a GGUF file; a file that holds only a vocabulary will do.
    ///
    /// # Errors
    /// As [`Self::from_checkpoint`].
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TokenizerError> {
        gguf::load(metadata)
    }

    /// The tokenizer in a Hugging Face directory: `tokenizer.json` with what `tokenizer_config.json`,
    /// `generation_config.json` and `config.json` say about special tokens.
    ///
    /// # Errors
    /// As [`Self::from_checkpoint`].
    pub fn from_directory(directory: &Path) -> Result<Self, TokenizerError> {
        hf::load(directory)
    }

    pub(crate) fn new(
        vocabulary: Vocabulary,
        engine: Engine,
        special: SpecialTokens,
        strip_leading_space: bool,
    ) -> Self {
        Self { vocabulary: Arc::new(vocabulary), engine, special, strip_leading_space }
    }

    /// The ids of a text, without a start token.
    ///
    /// # Errors
    /// When the text defeats the pre-tokenizer (tens of megabytes without a word boundary).
    pub fn encode(&self, text: &str, control: ControlTokens) -> Result<Vec<u32>, TokenizerError> {
        self.encode_where(text, |_| control == ControlTokens::Parse)
    }

    /// The ids of a rendered chat prompt: the template's control tokens are control tokens, the clients' are text.
    /// Templates write the start token themselves, so none is added.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, TokenizerError> {
        self.encode_where(prompt.text(), |offset| prompt.allows_control_at(offset))
    }

    /// The ids of a text that the model is to continue: with the start token if the model wants one.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_completion(&self, text: &str, control: ControlTokens) -> Result<Vec<u32>, TokenizerError> {
        let ids = self.encode(text, control)?;
        let start = self.special.bos.filter(|&bos| self.special.add_bos && ids.first() != Some(&bos));
        Ok(start.into_iter().chain(ids).collect())
    }

    fn encode_where(&self, text: &str, control_allowed: impl Fn(usize) -> bool) -> Result<Vec<u32>, TokenizerError> {
        let (spm, added) = match &self.engine {
            Engine::Pipeline(pipeline) => return pipeline.encode(text, control_allowed),
            Engine::Spm { spm, added } => (spm, added),
        };
        let mut ids = Vec::new();
        let mut starts = true;
        for piece in added.split(text, control_allowed) {
            match piece.token {
                Some(id) => ids.push(id),
                None => spm.encode(&text[piece.range], starts, &mut ids),
            }
            starts = piece.token.is_some();
        }
        Ok(ids)
    }

    /// The text of some ids, without control tokens. Bytes that are no UTF-8 become U+FFFD; ids that the vocabulary
    /// does not have add nothing (models may have more rows than tokens).
    pub fn decode(&self, ids: &[u32]) -> String {
        Self::drain(self.stream(), ids)
    }

    /// As [`Self::decode`], with the texts of control tokens.
    pub fn decode_with_control(&self, ids: &[u32]) -> String {
        Self::drain(self.stream().with_control(), ids)
    }

    fn drain(mut stream: DecodeStream, ids: &[u32]) -> String {
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(id));
        }
        text.push_str(&stream.finish());
        text
    }

    /// Decodes ids one by one, as [`Self::decode`] would all of them together.
    pub fn stream(&self) -> DecodeStream {
        DecodeStream::new(Arc::clone(&self.vocabulary), self.strip_leading_space)
    }

    /// Decodes ids that continue a prompt one by one: as [`Self::stream`], but a leading space stays, for it separates
    /// the answer's first word from the prompt's last.
    pub fn continuation(&self) -> DecodeStream {
        DecodeStream::new(Arc::clone(&self.vocabulary), false)
    }

    /// Number of tokens; ids are below it.
    pub fn vocab_len(&self) -> usize {
        self.vocabulary.len()
    }

    /// The token that starts a text.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// The token for text without a token.
    pub fn unknown(&self) -> Option<u32> {
        self.special.unknown
    }

    /// The token that fills unused places.
    pub fn padding(&self) -> Option<u32> {
        self.special.padding
    }

    /// Whether [`Self::encode_completion`] adds the start token.
    pub fn adds_bos(&self) -> bool {
        self.special.add_bos
    }

    /// The tokens at which an answer is over, ascending.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.special.end_of_generation
    }

    /// Whether an answer is over at this token.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.special.end_of_generation.binary_search(&id).is_ok()
    }

    /// What a token is for.
    pub fn token_kind(&self, id: u32) -> Option<TokenKind> {
        self.vocabulary.kind(id)
    }

    /// A token's text as it stands in the vocabulary (`Ġthe`, `▁the`, `<0x0A>`).
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocabulary.text(id)
    }

    /// The bytes that a token stands for: a part of a UTF-8 text, not always a valid one. Those of a control token are
    /// its text.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.bytes(id)
    }

    /// Most bytes that one token stands for; see [`Self::token_bytes`].
    pub fn longest_token_bytes(&self) -> usize {
        self.vocabulary.longest_bytes()
    }

    /// The id of a token by its text in the vocabulary. Searches all of it.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocabulary.iter().find(|(_, token, _)| *token == text).map(|(id, _, _)| id)
    }

    /// The texts that a client must not be able to turn into control tokens.
    pub fn control_texts(&self) -> ControlTexts {
        ControlTexts::new(self.vocabulary.control_texts())
    }
}
