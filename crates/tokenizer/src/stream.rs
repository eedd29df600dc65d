//! Decoding while tokens arrive: only whole characters come out.

use std::sync::Arc;

use crate::vocabulary::{TokenKind, Vocabulary};

/// Turns ids into text one by one. The texts of all [`push`](Self::push) calls and of [`finish`](Self::finish)
/// together are what decoding all ids at once gives.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    vocabulary: Arc<Vocabulary>,
    /// The first bytes of a character whose last ones have not come; at most three.
    pending: Vec<u8>,
    show_control: bool,
    /// Whether the next byte is the first one and is left out if it is a space.
    strip_next_space: bool,
}

impl DecodeStream {
    pub(crate) fn new(vocabulary: Arc<Vocabulary>, strip_leading_space: bool) -> Self {
        Self { vocabulary, pending: Vec::new(), show_control: false, strip_next_space: strip_leading_space }
    }

    /// Shows the texts of control tokens too.
    #[must_use]
    pub fn with_control(mut self) -> Self {
        self.show_control = true;
        self
    }

    /// The text that is complete with this token; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> String {
        let hidden = !self.show_control && self.vocabulary.kind(id) == Some(TokenKind::Control);
        let mut bytes = match self.vocabulary.bytes(id) {
            Some(bytes) if !hidden => bytes,
            _ => return String::new(),
        };
        if self.strip_next_space && !bytes.is_empty() {
            self.strip_next_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        self.take_complete()
    }

    /// What is left when no more tokens come: U+FFFD for an incomplete character.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }

    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        let mut taken = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            taken += chunk.valid().len();
            let at_end = taken + chunk.invalid().len() == self.pending.len();
            if at_end && is_incomplete(chunk.invalid()) {
                break;
            }
            if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                taken += chunk.invalid().len();
            }
        }
        self.pending.drain(..taken);
        text
    }
}

/// Whether more bytes could make this a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vocabulary of all bytes, with a space token at 256 and a control token at 257.
    fn stream(strip: bool) -> DecodeStream {
        let mut vocabulary = Vocabulary::default();
        for byte in 0..=255u8 {
            vocabulary.push("b", &[byte], TokenKind::Byte).unwrap();
        }
        vocabulary.push("_a", b" a", TokenKind::Normal).unwrap();
        vocabulary.push("<s>", b"<s>", TokenKind::Control).unwrap();
        DecodeStream::new(Arc::new(vocabulary), strip)
    }

    fn check(mut stream: DecodeStream, ids: &[u32], expected: &[&str]) {
        let mut texts: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
        texts.push(stream.finish());
        assert_eq!(texts, expected);
    }

    #[test]
    fn characters_come_out_whole() {
        check(stream(false), &[0xF0, 0x9F, 0xA6, 0x99, 0x61], &["", "", "", "🦙", "a", ""]);
        check(stream(false), &[0xC3], &["", "\u{FFFD}"]);
        check(stream(false), &[0xC3, 0x61], &["", "\u{FFFD}a", ""]);
        check(stream(false), &[0xFF, 0xC3, 0xA9], &["\u{FFFD}", "", "é", ""]);
    }

    #[test]
    fn control_tokens_are_left_out_unless_asked_for() {
        check(stream(false), &[257, 0x61, 257], &["", "a", "", ""]);
        check(stream(false).with_control(), &[257, 0x61], &["<s>", "a", ""]);
        check(stream(false), &[0xC3, 257, 0xA9, 9999], &["", "", "é", "", ""]);
    }

    #[test]
    fn one_leading_space_goes_where_encoding_added_it() {
        check(stream(true), &[257, 256, 256], &["", "a", " a", ""]);
        check(stream(true), &[0x61, 256], &["a", " a", ""]);
        check(stream(false), &[256], &[" a", ""]);
        check(stream(true).with_control(), &[257, 256], &["<s>", " a", ""]);
    }
}
