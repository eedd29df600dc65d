//! Rewrites expressions so that work which minijinja does not charge is paid before it is done.
//!
//! A few nested list literals can stand for 10^12 items. minijinja charges for making lists, but prints the operands of
//! `~` and compares those of `==` or `in` without a limit. So operands of comparisons go through the [`PAID`] filter,
//! which walks the value and pays for each item, and those of `~` through [`TEXT`], which prints as Python does.
//! The result of an expression does not change.
//!
//! This knows just enough of the syntax to find operands: tokens, brackets and the precedence of operators.

use std::ops::Range;

/// The filter that pays for all items of a value.
pub(super) const PAID: &str = "__paid";

/// The filter that makes text of lists and dictionaries, paid by its length.
pub(super) const TEXT: &str = "__text";

/// Deepest brackets that are looked into; the engine refuses more than 150.
const MAX_DEPTH: usize = 200;

/// `(expression)|filter`, with white space left outside. Single literals need no filter.
pub(super) fn wrap(expression: &str, filter: &str) -> String {
    let core = expression.trim();
    let is_literal = Lexed::new(core).is_single_literal();
    if core.is_empty() || is_literal {
        return expression.to_owned();
    }
    let start = expression.len() - expression.trim_start().len();
    let (before, after) = (&expression[..start], &expression[start + core.len()..]);
    format!("{before}({core})|{filter}{after}")
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Word,
    /// A number or a string.
    Literal,
    Operator,
    Open,
    Close,
    Space,
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    start: usize,
}

/// The tokens of an expression, or of the rest of a tag.
pub(super) struct Lexed<'a> {
    source: &'a str,
    tokens: Vec<Token<'a>>,
    /// For each opening bracket the index of the closing one (or the number of tokens).
    closes: Vec<usize>,
    deepest: usize,
}

impl<'a> Lexed<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        let mut tokens = Vec::new();
        let mut start = 0;
        while start < source.len() {
            let (kind, len) = next_token(&source[start..]);
            tokens.push(Token { kind, text: &source[start..start + len], start });
            start += len;
        }
        let mut closes = vec![tokens.len(); tokens.len()];
        let mut open = Vec::new();
        let mut deepest = 0;
        for (index, token) in tokens.iter().enumerate() {
            match token.kind {
                Kind::Open => {
                    open.push(index);
                    deepest = deepest.max(open.len());
                }
                Kind::Close => {
                    if let Some(opening) = open.pop() {
                        closes[opening] = index;
                    }
                }
                _ => {}
            }
        }
        Self { source, tokens, closes, deepest }
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The rewritten expression.
    pub(super) fn adapt(&self) -> String {
        if self.deepest > MAX_DEPTH {
            return self.source.to_owned();
        }
        self.adapt_list(0..self.tokens.len())
    }

    /// The byte behind the first of these words outside of brackets.
    pub(super) fn after_word(&self, from: usize, words: &[&str]) -> Option<usize> {
        let start = self.word_start(from, words)?;
        Some(start + self.tokens.iter().find(|token| token.start == start)?.text.len())
    }

    /// Where the first of these words outside of brackets starts, at or behind a byte.
    pub(super) fn word_start(&self, from: usize, words: &[&str]) -> Option<usize> {
        let mut outer = self.outer(0..self.tokens.len()).map(|index| self.tokens[index]);
        let found = outer.find(|token| token.start >= from && token.kind == Kind::Word && words.contains(&token.text));
        found.map(|token| token.start)
    }

    /// The byte behind the first such operator outside of brackets.
    pub(super) fn after_operator(&self, operator: &str) -> Option<usize> {
        let mut outer = self.outer(0..self.tokens.len()).map(|index| self.tokens[index]);
        let found = outer.find(|token| token.kind == Kind::Operator && token.text == operator);
        found.map(|token| token.start + token.text.len())
    }

    fn is_single_literal(&self) -> bool {
        match &self.tokens[..] {
            [token] if token.kind == Kind::Literal => true,
            [token] => matches!(token.text, "none" | "None" | "true" | "True" | "false" | "False"),
            _ => false,
        }
    }

    /// Expressions with separators between them: `a, b = c if d else not e`.
    fn adapt_list(&self, range: Range<usize>) -> String {
        let is_separator = |index: usize| match self.tokens[index] {
            Token { kind: Kind::Operator, text, .. } => matches!(text, "," | ":" | "="),
            Token { kind: Kind::Word, text: "not", .. } => {
                self.word_before(index) != Some("is") && self.word_after(index) != Some("in")
            }
            Token { kind: Kind::Word, text, .. } => matches!(text, "if" | "else" | "and" | "or"),
            _ => false,
        };
        let chain = |range| self.adapt_comparison(range);
        self.join(range, is_separator, chain)
    }

    /// `a == b`, `a not in b`: each operand is paid.
    fn adapt_comparison(&self, range: Range<usize>) -> String {
        let is_comparison = |index: usize| match self.tokens[index] {
            Token { kind: Kind::Operator, text, .. } => matches!(text, "==" | "!=" | "<" | ">" | "<=" | ">="),
            Token { kind: Kind::Word, text: "in", .. } => {
                let before = self.before(index);
                let not = before.filter(|&index| self.tokens[index].text == "not");
                let test = not.or(Some(index)).and_then(|index| self.word_before(index));
                test != Some("is")
            }
            Token { kind: Kind::Word, text: "not", .. } => {
                self.word_after(index) == Some("in") && self.word_before(index) != Some("is")
            }
            _ => false,
        };
        let compares = self.outer(range.clone()).any(is_comparison);
        let operand = |range| {
            let sum = self.adapt_sum(range);
            if compares { wrap(&sum, PAID) } else { sum }
        };
        self.join(range, is_comparison, operand)
    }

    /// `a + b - c`.
    fn adapt_sum(&self, range: Range<usize>) -> String {
        let first = range.start;
        let is_binary = |index: usize| {
            let operand_before = self.before(index).filter(|&before| before >= first);
            matches!(self.tokens[index].text, "+" | "-")
                && operand_before
                    .is_some_and(|before| matches!(self.tokens[before].kind, Kind::Word | Kind::Literal | Kind::Close))
        };
        self.join(range, is_binary, |range| self.adapt_concatenation(range))
    }

    /// `a ~ b`: each operand becomes text.
    fn adapt_concatenation(&self, range: Range<usize>) -> String {
        let is_tilde = |index: usize| self.tokens[index].text == "~";
        let concatenates = self.outer(range.clone()).any(is_tilde);
        let operand = |range| {
            let inner = self.adapt_brackets(range);
            if concatenates { wrap(&inner, TEXT) } else { inner }
        };
        self.join(range, is_tilde, operand)
    }

    /// Anything without the operators above: what stands in its brackets is a list of expressions again.
    fn adapt_brackets(&self, range: Range<usize>) -> String {
        let mut out = String::new();
        for index in self.outer(range.clone()) {
            out.push_str(self.tokens[index].text);
            if self.tokens[index].kind == Kind::Open {
                let close = self.closes[index].min(range.end);
                out.push_str(&self.adapt_list(index + 1..close));
                out.push_str(self.tokens.get(close).filter(|_| close < range.end).map_or("", |token| token.text));
            }
        }
        out
    }

    /// Rewrites the parts between certain tokens and puts the tokens back between them.
    fn join(
        &self,
        range: Range<usize>,
        splits: impl Fn(usize) -> bool,
        rewrite: impl Fn(Range<usize>) -> String,
    ) -> String {
        let mut out = String::new();
        let mut start = range.start;
        for index in self.outer(range.clone()).filter(|&index| splits(index)) {
            out.push_str(&rewrite(start..index));
            out.push_str(self.tokens[index].text);
            start = index + 1;
        }
        out.push_str(&rewrite(start..range.end));
        out
    }

    /// The tokens of a range that are not inside of its brackets (closing brackets count as inside).
    fn outer(&self, range: Range<usize>) -> impl Iterator<Item = usize> + '_ {
        let mut next = range.start;
        std::iter::from_fn(move || {
            let index = next;
            if index >= range.end {
                return None;
            }
            next = if self.tokens[index].kind == Kind::Open { self.closes[index] + 1 } else { index + 1 };
            Some(index)
        })
    }

    /// The token before this one, without white space.
    fn before(&self, index: usize) -> Option<usize> {
        self.tokens[..index].iter().rposition(|token| token.kind != Kind::Space)
    }

    fn word_before(&self, index: usize) -> Option<&'a str> {
        let token = self.tokens[self.before(index)?];
        (token.kind == Kind::Word).then_some(token.text)
    }

    fn word_after(&self, index: usize) -> Option<&'a str> {
        let token = self.tokens[index + 1..].iter().find(|token| token.kind != Kind::Space)?;
        (token.kind == Kind::Word).then_some(token.text)
    }
}

/// Kind and length of the token at the start of a text that is not empty.
fn next_token(text: &str) -> (Kind, usize) {
    let first = text.chars().next().unwrap_or(' ');
    let while_true = |holds: fn(char) -> bool| text.find(|c| !holds(c)).unwrap_or(text.len());
    match first {
        c if c.is_whitespace() => (Kind::Space, while_true(char::is_whitespace)),
        '0'..='9' => (Kind::Literal, number_len(text)),
        c if c.is_alphanumeric() || c == '_' => (Kind::Word, while_true(|c| c.is_alphanumeric() || c == '_')),
        '"' | '\'' => (Kind::Literal, string_len(text)),
        '(' | '[' | '{' => (Kind::Open, 1),
        ')' | ']' | '}' => (Kind::Close, 1),
        _ => {
            let long = ["==", "!=", "<=", ">=", "**", "//"].iter().any(|operator| text.starts_with(operator));
            (Kind::Operator, if long { 2 } else { first.len_utf8() })
        }
    }
}

/// Length of a number: digits, letters, points, and the sign of an exponent.
fn number_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let decimal = !text.starts_with("0x") && !text.starts_with("0X");
    let belongs = |at: usize| match bytes[at] {
        b'+' | b'-' => {
            decimal && matches!(bytes[at - 1], b'e' | b'E') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
        }
        b'.' => bytes.get(at + 1).is_some_and(u8::is_ascii_digit),
        byte => byte.is_ascii_alphanumeric() || byte == b'_',
    };
    (1..bytes.len()).find(|&at| !belongs(at)).unwrap_or(bytes.len())
}

/// Length of a string literal with its quotes.
fn string_len(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            byte if byte == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::Lexed;

    fn check(source: &str, expected: &str) {
        assert_eq!(Lexed::new(source).adapt(), expected);
    }

    fn unchanged(source: &str) {
        check(source, source);
    }

    #[test]
    fn operands_of_concatenations_become_text() {
        check("a ~ b", "(a)|__text ~ (b)|__text");
        check("'x' ~ a.b[0]|trim ~ 1", "'x' ~ (a.b[0]|trim)|__text ~ 1");
        check("a + b ~ c - d", "a + (b)|__text ~ (c)|__text - d");
        check("a ~ -b", "(a)|__text ~ (-b)|__text");
        check("f(a ~ b, c=d ~ e)", "f((a)|__text ~ (b)|__text, c=(d)|__text ~ (e)|__text)");
        check("x if a ~ b else c ~ d", "x if (a)|__text ~ (b)|__text else (c)|__text ~ (d)|__text");
        check("(a ~ b) ~ c", "(((a)|__text ~ (b)|__text))|__text ~ (c)|__text");
        check("{'k': a ~ b}[c ~ d:]", "{'k': (a)|__text ~ (b)|__text}[(c)|__text ~ (d)|__text:]");
    }

    #[test]
    fn operands_of_comparisons_are_paid() {
        check("a == b", "(a)|__paid == (b)|__paid");
        check("not a.b == 'x' and c", "not (a.b)|__paid == 'x' and c");
        check("a not in b or x in [1]", "(a)|__paid not in (b)|__paid or (x)|__paid in ([1])|__paid");
        check("a + b < c ~ d", "(a + b)|__paid < ((c)|__text ~ (d)|__text)|__paid");
        check("1 < a <= 2", "1 < (a)|__paid <= 2");
        check("a-1 == -1", "(a-1)|__paid == (-1)|__paid");
        check("x is none == false", "(x is none)|__paid == false");
    }

    #[test]
    fn everything_else_stays() {
        unchanged("a is not none and b is not in c");
        unchanged("a is in b");
        unchanged("x|default('a == b ~ c', true)");
        unchanged("a.b['c'][1:2]|map(attribute='x')|list");
        unchanged("f(*a, **b) * 2 ** 3 // 4 / 5 % 6");
        unchanged("1.5e-3 + 0x1f - 1_000 + a.0.b");
        unchanged("not not a");
        unchanged("'unclosed == ");
        unchanged("a ] b ) c");
        unchanged("");
        check("(a == b", "((a)|__paid == (b)|__paid");
        check("é == 'ü'", "(é)|__paid == 'ü'");
    }
}
