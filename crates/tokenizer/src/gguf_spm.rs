//! SentencePiece-style BPE from a GGUF vocabulary (model `llama`): pieces with scores, and no list of merges.
//!
//! Of all neighbouring symbols whose concatenation is a token, the pair with the highest score merges first, the
//! leftmost of equals. The `tokenizers` crate ranks *pairs*, which breaks ties between two ways to build one token
//! differently, and it needs each symbol to be a token by itself; so this merges texts, as the reference does. It needs
//! no table but the vocabulary, and costs O(n log n) for n characters.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use crate::error::TokenizerError;

/// What a space is inside of tokens.
pub(crate) const SPACE: char = '\u{2581}';

/// The merging engine.
#[derive(Debug)]
pub(crate) struct Spm {
    pieces: HashMap<Box<str>, Scored>,
    /// For each byte, the tokens that spell it.
    bytes: Vec<u32>,
    /// Whether text starts with a space that nobody wrote.
    add_space_prefix: bool,
}

#[derive(Debug, Clone, Copy)]
struct Scored {
    id: u32,
    score: f32,
}

impl Spm {
    /// `tokens` are `(id, text, score)` of all but control tokens; `unknown` stands for bytes without a token.
    pub(crate) fn new<'a>(
        tokens: impl Iterator<Item = (u32, &'a str, f32)>,
        unknown: Option<u32>,
        add_space_prefix: bool,
    ) -> Result<Self, TokenizerError> {
        let mut pieces = HashMap::with_capacity(tokens.size_hint().0);
        for (id, text, score) in tokens {
            pieces.entry(Box::from(text)).or_insert(Scored { id, score });
        }
        let mut bytes = Vec::with_capacity(256);
        for byte in 0..=255u8 {
            let spelled = format!("<0x{byte:02X}>");
            let raw = char::from(byte).to_string(); // some vocabularies have only the ASCII characters themselves
            let found = pieces.get(spelled.as_str()).or_else(|| pieces.get(raw.as_str()).filter(|_| byte.is_ascii()));
            match found.map(|piece| piece.id).or(unknown) {
                Some(id) => bytes.push(id),
                None => {
                    let wanted = "a token for each byte, or an unknown token";
                    return Err(TokenizerError::invalid(format!("token {spelled}"), "missing", wanted));
                }
            }
        }
        Ok(Self { pieces, bytes, add_space_prefix })
    }

    pub(crate) fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// Appends the tokens of a text without control tokens. `starts` says whether the text opens the prompt or follows
    /// a control token: then it gets the space prefix.
    pub(crate) fn encode(&self, text: &str, starts: bool, ids: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 2);
        if starts && self.add_space_prefix {
            escaped.push(SPACE);
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        for (start, len) in Merger::new(self, &escaped).run() {
            let symbol = &escaped[start..start + len];
            match self.pieces.get(symbol) {
                Some(piece) => ids.push(piece.id),
                None => ids.extend(symbol.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }
}

/// A run of text that is one symbol now; `len` is 0 once it went into its left neighbour.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    previous: usize,
    next: usize,
}

/// A pair that could merge. It is out of date when its symbols no longer have this length together.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// No symbol: the end of the chain on either side.
const NONE: usize = usize::MAX;

struct Merger<'a> {
    spm: &'a Spm,
    text: &'a str,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
}

impl<'a> Merger<'a> {
    fn new(spm: &'a Spm, text: &'a str) -> Self {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(index, (start, c))| Symbol {
                start,
                len: c.len_utf8(),
                previous: index.wrapping_sub(1), // of the first symbol: NONE
                next: index + 1,
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        let queue = BinaryHeap::with_capacity(symbols.len());
        let mut merger = Self { spm, text, symbols, queue };
        for right in 1..merger.symbols.len() {
            merger.consider(right - 1, right);
        }
        merger
    }

    /// Merges until nothing merges; returns start and length of each symbol.
    fn run(mut self) -> impl Iterator<Item = (usize, usize)> {
        while let Some(Candidate { left, right, len, .. }) = self.queue.pop() {
            let (first, second) = (self.symbols[left], self.symbols[right]);
            if first.len == 0 || second.len == 0 || first.len + second.len != len {
                continue;
            }
            self.symbols[left].len = len;
            self.symbols[left].next = second.next;
            self.symbols[right].len = 0;
            if second.next != NONE {
                self.symbols[second.next].previous = left;
            }
            self.consider(first.previous, left);
            self.consider(left, second.next);
        }
        self.symbols.into_iter().filter(|symbol| symbol.len > 0).map(|symbol| (symbol.start, symbol.len))
    }

    fn consider(&mut self, left: usize, right: usize) {
        if left == NONE || right == NONE {
            return;
        }
        let start = self.symbols[left].start;
        let len = self.symbols[left].len + self.symbols[right].len;
        if let Some(piece) = self.spm.pieces.get(&self.text[start..start + len]) {
            self.queue.push(Candidate { score: piece.score, left, right, len });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spm(tokens: &[(&str, f32)], unknown: Option<u32>) -> Result<Spm, TokenizerError> {
        Spm::new(tokens.iter().enumerate().map(|(id, &(text, score))| (id as u32, text, score)), unknown, false)
    }

    fn check(tokens: &[(&str, f32)], text: &str, expected: &[u32]) {
        let mut ids = Vec::new();
        spm(tokens, Some(99)).unwrap().encode(text, true, &mut ids);
        assert_eq!(ids, expected, "{text:?}");
    }

    #[test]
    fn the_highest_score_merges_first() {
        let tokens = [("a", -9.0), ("b", -9.0), ("c", -9.0), ("ab", -2.0), ("bc", -1.0), ("abc", -3.0)];
        check(&tokens, "abc", &[5]);
        check(&tokens[..5], "abc", &[0, 4]);
    }

    #[test]
    fn of_equal_scores_the_leftmost_merges() {
        check(&[("a", 0.0), ("aa", -1.0), ("aaa", -1.0)], "aaaa", &[2, 0]);
        check(&[("a", 0.0), ("aa", -1.0)], "aaaaa", &[1, 1, 0]);
    }

    #[test]
    fn symbols_need_not_be_tokens_to_merge() {
        check(&[("xy", -1.0)], "xyx", &[0, 99]);
    }

    #[test]
    fn unknown_characters_fall_back_to_bytes() {
        let tokens: Vec<(String, f32)> = (0..=255).map(|byte| (format!("<0x{byte:02X}>"), 0.0)).collect();
        let tokens: Vec<(&str, f32)> = tokens.iter().map(|(text, score)| (text.as_str(), *score)).collect();
        check(&tokens, "é", &[0xC3, 0xA9]);
        assert!(spm(&tokens[1..], None).is_err(), "a byte without a token");
    }
}
