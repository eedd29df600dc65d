//! Tokens that are found whole in a text before anything else is: markers and user-defined pieces.

use std::ops::Range;

use crate::matcher::TokenMatcher;

/// One such token, with the rules of its matching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    /// What to look for.
    pub(crate) text: String,
    /// Whether only trusted text may contain it.
    pub(crate) control: bool,
    /// Matches only where no letter or digit touches it.
    pub(crate) single_word: bool,
    /// Takes white space on its left with it.
    pub(crate) strip_left: bool,
    /// Takes white space on its right with it.
    pub(crate) strip_right: bool,
}

impl AddedToken {
    pub(crate) fn new(id: u32, text: impl Into<String>, control: bool) -> Self {
        Self { id, text: text.into(), control, single_word: false, strip_left: false, strip_right: false }
    }
}

/// All added tokens that are looked for at one stage.
#[derive(Debug, Default)]
pub(crate) struct AddedTokens {
    tokens: Vec<AddedToken>,
    matcher: TokenMatcher,
}

/// A piece of a text: an added token, or what lies between two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) range: Range<usize>,
    pub(crate) token: Option<u32>,
}

impl AddedTokens {
    pub(crate) fn new(tokens: Vec<AddedToken>) -> Self {
        let numbered = tokens.iter().enumerate().map(|(number, token)| (token.text.as_str(), number as u32));
        let matcher = TokenMatcher::new(numbered);
        Self { tokens, matcher }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.matcher.is_empty()
    }

    /// Cuts a text into pieces, the leftmost and longest token first. `control_allowed` says whether a control token
    /// may start at a byte.
    pub(crate) fn split(&self, text: &str, control_allowed: impl Fn(usize) -> bool) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut plain_start = 0;
        let mut position = 0;
        while position < text.len() {
            let allowed = |number: u32| !self.tokens[number as usize].control || control_allowed(position);
            let Some((len, number)) = self.matcher.probe(&text.as_bytes()[position..], allowed).longest else {
                position += 1; // a match never starts inside a character, for tokens are valid UTF-8
                continue;
            };
            let token = &self.tokens[number as usize];
            let matched = position..position + len;
            position = matched.end;
            if token.single_word && touches_word(text, &matched) {
                continue;
            }
            let before = &text[plain_start.min(matched.start)..matched.start];
            let start =
                if token.strip_left { matched.start - (before.len() - before.trim_end().len()) } else { matched.start };
            let after = &text[matched.end..];
            let end = if token.strip_right { text.len() - after.trim_start().len() } else { matched.end };
            if plain_start < start {
                pieces.push(Piece { range: plain_start..start, token: None });
            }
            pieces.push(Piece { range: start..end, token: Some(token.id) });
            plain_start = end;
            position = position.max(end);
        }
        if plain_start < text.len() {
            pieces.push(Piece { range: plain_start..text.len(), token: None });
        }
        pieces
    }
}

fn touches_word(text: &str, range: &Range<usize>) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text[..range.start].chars().next_back().is_some_and(is_word)
        || text[range.end..].chars().next().is_some_and(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, Option<u32>)]) {
        let tokens = AddedTokens::new(vec![
            AddedToken::new(1, "<s>", true),
            AddedToken::new(2, "<tool>", false),
            AddedToken { strip_left: true, strip_right: true, ..AddedToken::new(3, "<mask>", false) },
            AddedToken { single_word: true, ..AddedToken::new(4, "now", false) },
            AddedToken::new(5, "<s", false),
        ]);
        let pieces = tokens.split(text, |offset| offset != 0);
        let pieces: Vec<_> = pieces.into_iter().map(|piece| (&text[piece.range], piece.token)).collect();
        assert_eq!(pieces, expected, "{text:?}");
    }

    #[test]
    fn texts_split_at_added_tokens() {
        check("", &[]);
        check("ab", &[("ab", None)]);
        check("a<s>é<tool><s>", &[("a", None), ("<s>", Some(1)), ("é", None), ("<tool>", Some(2)), ("<s>", Some(1))]);
        check("a <mask>  b", &[("a", None), (" <mask>  ", Some(3)), ("b", None)]);
        check("know now", &[("know ", None), ("now", Some(4))]);
    }

    #[test]
    fn a_forbidden_control_token_leaves_its_place_to_others() {
        check("<s>x<s>", &[("<s", Some(5)), (">x", None), ("<s>", Some(1))]);
    }
}
