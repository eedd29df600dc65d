//! The tokens of a model: text, kind, and the bytes that each one adds to decoded text.

use checkpoint::limits;

use crate::error::TokenizerError;

/// Most tokens of a vocabulary.
pub(crate) const MAX_TOKENS: usize = limits::VOCABULARY as usize;

/// Most bytes of all token texts together.
pub(crate) const MAX_TEXT_BYTES: usize = 64 << 20;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// One byte of text, spelled `<0x0A>`.
    Byte,
    /// A marker for the model, not for readers: start and end of text, turns, tools.
    Control,
    /// A piece of text that is always found whole, before anything else.
    UserDefined,
}

/// All tokens, by id.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    texts: Packed,
    bytes: Packed,
    kinds: Vec<TokenKind>,
    longest_bytes: usize,
}

impl Vocabulary {
    /// Appends the next token.
    pub(crate) fn push(&mut self, text: &str, bytes: &[u8], kind: TokenKind) -> Result<(), TokenizerError> {
        TokenizerError::check_limit("number of tokens", self.kinds.len() + 1, MAX_TOKENS)?;
        let text_bytes = self.texts.bytes.len() + text.len();
        TokenizerError::check_limit("size of the vocabulary in bytes", text_bytes, MAX_TEXT_BYTES)?;
        self.texts.push(text.as_bytes());
        self.bytes.push(bytes);
        self.longest_bytes = self.longest_bytes.max(bytes.len());
        self.kinds.push(kind);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The token's text as it stands in the vocabulary.
    pub(crate) fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id).map(|text| std::str::from_utf8(text).expect("pushed as a str"))
    }

    /// The bytes that the token adds to decoded text (control tokens: their text).
    pub(crate) fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(id)
    }

    /// Most bytes that one token adds to decoded text.
    pub(crate) fn longest_bytes(&self) -> usize {
        self.longest_bytes
    }

    pub(crate) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    pub(crate) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    /// Ids, texts and kinds in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &str, TokenKind)> + Clone {
        self.kinds.iter().enumerate().map(|(id, &kind)| {
            let id = id as u32;
            (id, self.text(id).expect("as many texts as kinds"), kind)
        })
    }

    /// The texts of all control tokens.
    pub(crate) fn control_texts(&self) -> impl Iterator<Item = &str> {
        self.iter().filter(|(_, _, kind)| *kind == TokenKind::Control).map(|(_, text, _)| text)
    }
}

/// Byte strings laid end to end: two allocations instead of one for each of 262,144 tokens.
#[derive(Debug, Default)]
struct Packed {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Packed {
    fn push(&mut self, item: &[u8]) {
        self.bytes.extend_from_slice(item);
        self.ends.push(u32::try_from(self.bytes.len()).expect("limited by MAX_TEXT_BYTES"));
    }

    fn get(&self, index: u32) -> Option<&[u8]> {
        let index = index as usize;
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        Some(&self.bytes[start..end])
    }
}
