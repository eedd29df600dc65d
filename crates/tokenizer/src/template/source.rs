//! Small rewrites of a template's source, where minijinja differs from Jinja and nothing else can bridge it.
//!
//! - `{% generation %}` ... `{% endgeneration %}` is Hugging Face's own tag. It marks the model's words for training
//!   and prints its body, in a scope of its own: a `{% with %}` block.
//! - `{% for x in none %}` is an error in Python and an empty loop in minijinja, so each loop's list goes through the
//!   [`ITERABLE`] filter, which refuses what Python would.
//!
//! Line numbers stay as they are. Comments, `{% raw %}` blocks and strings are left alone.

use std::borrow::Cow;

/// The filter that loops over nothing but what Python can loop over.
pub(super) const ITERABLE: &str = "__iterable";

/// Rewrites the tags that need it.
pub(super) fn adapt(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + source.len() / 8);
    let mut rest = source;
    while let Some(open) = find_first(rest, &["{%", "{#", "{{"]) {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let len = match rest.as_bytes()[1] {
            b'#' => rest.find("#}").map_or(rest.len(), |at| at + 2),
            b'{' => block_len(rest, "}}"),
            _ => block_len(rest, "%}"),
        };
        let (block, after) = rest.split_at(len);
        rest = after;
        if !block.starts_with("{%") {
            out.push_str(block);
            continue;
        }
        out.push_str(&adapt_tag(block));
        if tag_name(block) == "raw" {
            let end = end_of_raw(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}

fn adapt_tag(tag: &str) -> Cow<'_, str> {
    match tag_name(tag) {
        "generation" => tag.replacen("generation", "with", 1).into(),
        "endgeneration" => tag.replacen("endgeneration", "endwith", 1).into(),
        "for" if tag.ends_with("%}") => adapt_for(tag).map_or(tag.into(), Cow::Owned),
        _ => tag.into(),
    }
}

/// `for x in LIST if c recursive` to `for x in (LIST)|__iterable if c recursive`.
fn adapt_for(tag: &str) -> Option<String> {
    let mut words = Words::new(tag);
    let (_, list_start) = words.find(|(word, _)| *word == "in")?;
    let list_end = words
        .find(|(word, _)| matches!(*word, "if" | "recursive"))
        .map_or_else(|| tag.trim_end_matches(['}', '%', '-', '+']).len(), |(word, end)| end - word.len());
    let (head, list, tail) = (&tag[..list_start], &tag[list_start..list_end], &tag[list_end..]);
    Some(format!("{head} ({list})|{ITERABLE} {tail}"))
}

/// The first word of a tag.
fn tag_name(tag: &str) -> &str {
    let inside = tag.trim_start_matches(['{', '%', '-', '+']).trim_start();
    &inside[..inside.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inside.len())]
}

/// Length of a block up to its end mark outside of strings.
fn block_len(block: &str, end: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, byte) in block.bytes().enumerate().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if byte == b'\\' => escaped = true,
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if matches!(byte, b'"' | b'\'') => quote = Some(byte),
            None if block.as_bytes()[at..].starts_with(end.as_bytes()) => return at + end.len(),
            None => {}
        }
    }
    block.len()
}

/// Where the tag that ends a raw block starts.
fn end_of_raw(text: &str) -> usize {
    let mut at = 0;
    while let Some(open) = text[at..].find("{%") {
        at += open;
        if tag_name(&text[at..]) == "endraw" {
            return at;
        }
        at += 2;
    }
    text.len()
}

fn find_first(text: &str, marks: &[&str]) -> Option<usize> {
    marks.iter().filter_map(|mark| text.find(mark)).min()
}

/// The words of a tag outside of strings and brackets, each with the byte behind it.
struct Words<'a> {
    tag: &'a str,
    position: usize,
    depth: usize,
}

impl<'a> Words<'a> {
    fn new(tag: &'a str) -> Self {
        Self { tag, position: 2, depth: 0 }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = (&'a str, usize);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = &self.tag[self.position..];
            let first = rest.chars().next()?;
            if first.is_alphanumeric() || first == '_' {
                let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                self.position += len;
                if self.depth == 0 {
                    return Some((&rest[..len], self.position));
                }
                continue;
            }
            match first {
                '(' | '[' | '{' => self.depth += 1,
                ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            self.position += match first {
                '"' | '\'' => string_len(rest),
                _ => first.len_utf8(),
            };
        }
    }
}

/// Length of the string literal at the start of a text, with its quotes.
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
    use super::adapt;

    fn check(source: &str, expected: &str) {
        assert_eq!(adapt(source), expected);
    }

    #[test]
    fn generation_tags_become_scopes() {
        check("a{% generation %}b{% endgeneration %}", "a{% with %}b{% endwith %}");
        check("{%- generation -%}b{%-endgeneration+%}", "{%- with -%}b{%-endwith+%}");
        check("{% if add_generation_prompt %}x{% endif %}", "{% if add_generation_prompt %}x{% endif %}");
    }

    #[test]
    fn loops_check_their_lists() {
        check("{% for x in y %}", "{% for x in ( y )|__iterable %}");
        check("{%- for a, b in y.items() -%}", "{%- for a, b in ( y.items() )|__iterable -%}");
        check(
            "{% for x in f(a if b else c) if x in z recursive %}",
            "{% for x in ( f(a if b else c) )|__iterable if x in z recursive %}",
        );
        check("{% for x in ['in', \"if %}\"] %}", "{% for x in ( ['in', \"if %}\"] )|__iterable %}");
        check("{% for x %}", "{% for x %}");
    }

    #[test]
    fn comments_raw_blocks_and_strings_stay() {
        check("{# {% for x in y %} #}{% generation %}", "{# {% for x in y %} #}{% with %}");
        check("{% raw %}{% for x in y %}{#{% endraw %}x", "{% raw %}{% for x in y %}{#{% endraw %}x");
        check("{{ '{% for x in y %}' }}", "{{ '{% for x in y %}' }}");
        check("{{ '{%", "{{ '{%");
        check("{%", "{%");
        check("{% for x in 'é", "{% for x in 'é");
    }
}
