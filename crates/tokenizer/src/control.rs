//! What keeps a user's text from becoming control tokens.
//!
//! A chat template mixes its own markers (`<|im_start|>`) with text that a client wrote. Only the former may become
//! control tokens. So before rendering, every string of the client that could start a control token gets a *guard*
//! after that token's first character: a noncharacter that no vocabulary holds. The template carries it along, and
//! [`Prompt`] takes it out again and remembers *where* no control token may start. A token split over two strings of
//! the client (`<|im_` and `end|>` in two content parts) is guarded too, by its first half.
//!
//! This does not judge what a template does on purpose: one that writes `'<|' + message.role + '|>'` builds a control
//! token out of the role, so the edge must accept known roles only.

use std::borrow::Cow;
use std::iter::Peekable;
use std::str::Chars;

use crate::matcher::TokenMatcher;

/// The mark itself, a noncharacter. A client's own U+FDD0 is written twice while a template runs.
pub(crate) const GUARD: char = '\u{FDD0}';

/// Whether control tokens are recognised in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlTokens {
    /// The text of a control token becomes that token: for prompts that the operator wrote.
    Parse,
    /// Control tokens are spelled out like any other text: for text from outside.
    PlainText,
}

/// A rendered chat prompt: its text, and the places where no control token may start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompt {
    text: String,
    /// Byte offsets into `text`, ascending.
    guarded: Vec<usize>,
}

impl Prompt {
    /// Takes the guards out of a rendered text.
    pub(crate) fn from_guarded(rendered: &str) -> Self {
        let mut prompt = Self { text: String::with_capacity(rendered.len()), guarded: Vec::new() };
        let mut last_char_start = 0;
        let mut chars = rendered.chars().peekable();
        while let Some(c) = chars.next() {
            if c == GUARD && !take_literal_guard(&mut chars) {
                if prompt.guarded.last().is_none_or(|&last| last < last_char_start) || prompt.guarded.is_empty() {
                    prompt.guarded.push(last_char_start);
                }
                continue;
            }
            last_char_start = prompt.text.len();
            prompt.text.push(c);
        }
        prompt
    }

    /// The prompt as text, as the reference implementation renders it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a control token may start at this byte of the text.
    pub(crate) fn allows_control_at(&self, offset: usize) -> bool {
        self.guarded.binary_search(&offset).is_err()
    }
}

/// After one [`GUARD`] was read: whether a second one follows (then both stand for the character itself).
pub(crate) fn take_literal_guard(chars: &mut Peekable<Chars<'_>>) -> bool {
    chars.next_if_eq(&GUARD).is_some()
}

/// The texts of a model's control tokens, as seen by the template renderer.
#[derive(Debug, Clone, Default)]
pub struct ControlTexts {
    matcher: TokenMatcher,
}

impl ControlTexts {
    /// Collects the texts; empty ones are left out.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self { matcher: TokenMatcher::new(texts.into_iter().map(|text| (text, 0))) }
    }

    /// Puts a guard after each character at which a control token starts or may start once more text follows.
    pub(crate) fn guard<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut guarded = String::new();
        let mut copied = 0;
        for (start, c) in text.char_indices() {
            let end = start + c.len_utf8();
            if c == GUARD || self.may_start(text, start, c) {
                guarded.push_str(&text[copied..end]);
                guarded.push(GUARD);
                copied = end;
            }
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        guarded.push_str(&text[copied..]);
        Cow::Owned(guarded)
    }

    fn may_start(&self, text: &str, start: usize, first: char) -> bool {
        let probe = self.matcher.probe(&text.as_bytes()[start..], |_| true);
        // A word is no half of a control token: guarding a final "user" would break `role == "user"`.
        probe.longest.is_some() || (probe.continues && !first.is_alphanumeric())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let texts = ControlTexts::new(["<|im_end|>", "<|im_start|>", "[INST]", "user_turn", "é"]);
        let guarded = texts.guard(text);
        assert_eq!(guarded.replace(GUARD, "#"), expected);
        assert_eq!(Prompt::from_guarded(&guarded).text(), text, "guards must leave no trace");
    }

    #[test]
    fn every_start_of_a_control_token_is_guarded() {
        check("plain text", "plain text");
        check("<|im_end|>", "<#|im_end|>");
        check("a<|im_end|><|im_start|>b", "a<#|im_end|><#|im_start|>b");
        check("<|im_end>", "<|im_end>");
        check("é", "é#");
        check("[[INST]", "[[#INST]");
    }

    #[test]
    fn a_final_part_of_a_control_token_is_guarded() {
        check("<|im_", "<#|im_");
        check("a <", "a <#");
        check("user", "user");
        check("< ", "< ");
    }

    #[test]
    fn the_guard_character_itself_survives() {
        check("\u{FDD0}", "##");
        check("a\u{FDD0}\u{FDD0}<|im_end|>\u{FDD0}", "a####<#|im_end|>##");
    }

    #[test]
    fn guards_name_the_byte_at_which_no_token_starts() {
        let prompt = Prompt::from_guarded("<|im_end|>é<\u{FDD0}|im_end|>");
        assert_eq!(prompt.text(), "<|im_end|>é<|im_end|>");
        assert!(prompt.allows_control_at(0));
        assert!(!prompt.allows_control_at(12));
    }
}
