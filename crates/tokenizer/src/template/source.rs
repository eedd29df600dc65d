//! Small rewrites of a template's source, where minijinja differs from Jinja and nothing else can bridge it.
//!
//! - `{% generation %}` ... `{% endgeneration %}` is Hugging Face's own tag. It marks the model's words for training
//!   and prints its body, in a scope of its own: a `{% with %}` block.
//! - `{% for x in none %}` is an error in Python and an empty loop in minijinja, so each loop's list goes through the
//!   [`ITERABLE`] filter, which refuses what Python would.
//! - `{% set x = ... %}` stores through the [`PAID`] filter, and expressions print and compare through filters too:
//!   see [`super::expression`].
//!
//! Line numbers stay as they are. Comments, `{% raw %}` blocks and strings are left alone.

use super::expression::{Lexed, PAID, wrap};

/// The filter that loops over nothing but what Python can loop over.
pub(super) const ITERABLE: &str = "__iterable";

/// Most tokens of one block, and most blocks of a template: the engine's parser recurses over long chains.
const MAX_TOKENS: usize = 10_000;

/// Rewrites all blocks of a template, or says what is too long in it.
pub(super) fn adapt(source: &str) -> Result<String, String> {
    let mut blocks = 0;
    let mut out = String::with_capacity(source.len() + source.len() / 2);
    let mut rest = source;
    while let Some(open) = find_block(rest) {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let (end, is_comment) = match rest.as_bytes()[1] {
            b'#' => ("#}", true),
            b'{' => ("}}", false),
            _ => ("%}", false),
        };
        let len = if is_comment { rest.find(end).map(|at| at + 2) } else { block_len(rest, end) };
        let Some(len) = len else { break }; // the engine reports the open block
        let (block, after) = rest.split_at(len);
        rest = after;
        blocks += 1;
        if blocks > MAX_TOKENS {
            return Err(format!("more than {MAX_TOKENS} blocks"));
        }
        if is_comment {
            out.push_str(block);
            continue;
        }
        adapt_block(&mut out, block, end == "%}")?;
        if end == "%}" && tag_name(block) == "raw" {
            let end = end_of_raw(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Rewrites one block between its marks, which stay: `{%-` ... `-%}`.
fn adapt_block(out: &mut String, block: &str, is_tag: bool) -> Result<(), String> {
    let mark = |byte: u8| matches!(byte, b'-' | b'+');
    let bytes = block.as_bytes();
    let start = 2 + usize::from(bytes.len() > 4 && mark(bytes[2]));
    let end = bytes.len() - 2 - usize::from(bytes.len() > start + 2 && mark(bytes[bytes.len() - 3]));
    if Lexed::new(block).len() > MAX_TOKENS {
        return Err(format!("a block of {} bytes has more than {MAX_TOKENS} tokens", block.len()));
    }
    out.push_str(&block[..start]);
    let inside = &block[start..end];
    let name = if is_tag { tag_name(block) } else { "" };
    let after_name = inside.find(name).unwrap_or(0) + name.len();
    let (head, body) = inside.split_at(after_name);
    match name {
        "generation" => out.push_str(" with "),
        "endgeneration" => out.push_str(" endwith "),
        "for" => out.push_str(&format!("{head}{}", adapt_for(body))),
        "set" => out.push_str(&format!("{head}{}", adapt_set(body))),
        _ => out.push_str(&format!("{head}{}", Lexed::new(body).adapt())),
    }
    out.push_str(&block[end..]);
    Ok(())
}

/// `x in LIST if c recursive` to `x in (LIST)|__iterable if c recursive`.
fn adapt_for(body: &str) -> String {
    let lexed = Lexed::new(body);
    let Some(list_start) = lexed.after_word(0, &["in"]) else { return body.to_owned() };
    let list_end = lexed.word_start(list_start, &["if", "recursive"]).unwrap_or(body.len());
    let list = Lexed::new(&body[list_start..list_end]).adapt();
    let condition_end = lexed.word_start(list_end, &["recursive"]).unwrap_or(body.len());
    let condition = Lexed::new(&body[list_end..condition_end]).adapt();
    format!("{}{}{condition}{}", &body[..list_start], wrap(&list, ITERABLE), &body[condition_end..])
}

/// `x = VALUE` to `x = (VALUE)|__paid`.
fn adapt_set(body: &str) -> String {
    let lexed = Lexed::new(body);
    match lexed.after_operator("=") {
        None => lexed.adapt(),
        Some(start) => format!("{}{}", &body[..start], wrap(&Lexed::new(&body[start..]).adapt(), PAID)),
    }
}

/// The first word of a tag.
fn tag_name(tag: &str) -> &str {
    let inside = tag.trim_start_matches(['{', '%', '-', '+']).trim_start();
    &inside[..inside.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inside.len())]
}

/// Where the next block starts.
fn find_block(text: &str) -> Option<usize> {
    let pairs = text.as_bytes().windows(2);
    pairs.enumerate().find(|(_, pair)| pair[0] == b'{' && matches!(pair[1], b'%' | b'{' | b'#')).map(|(at, _)| at)
}

/// Length of a block up to its end mark outside of strings and braces.
fn block_len(block: &str, end: &str) -> Option<usize> {
    let bytes = block.as_bytes();
    let (mut quote, mut escaped, mut braces) = (None, false, 0usize);
    for (at, &byte) in bytes.iter().enumerate().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if byte == b'\\' => escaped = true,
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if braces == 0 && bytes[at..].starts_with(end.as_bytes()) => return Some(at + end.len()),
            None => match byte {
                b'"' | b'\'' => quote = Some(byte),
                b'{' => braces += 1,
                b'}' => braces = braces.saturating_sub(1),
                _ => {}
            },
        }
    }
    None
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

#[cfg(test)]
mod tests {
    use super::adapt;

    fn check(source: &str, expected: &str) {
        assert_eq!(adapt(source).unwrap(), expected);
    }

    #[test]
    fn generation_tags_become_scopes() {
        check("a{% generation %}b{% endgeneration %}", "a{% with %}b{% endwith %}");
        check("{%- generation -%}b{%-endgeneration+%}", "{%- with -%}b{%- endwith +%}");
        check("{% if add_generation_prompt %}x{% endif %}", "{% if add_generation_prompt %}x{% endif %}");
    }

    #[test]
    fn loops_check_their_lists() {
        check("{% for x in y %}", "{% for x in (y)|__iterable %}");
        check("{%- for a, b in y.items() -%}", "{%- for a, b in (y.items())|__iterable -%}");
        check(
            "{% for x in f(a if b else c) if x in z recursive %}",
            "{% for x in (f(a if b else c))|__iterable if (x)|__paid in (z)|__paid recursive %}",
        );
        check("{% for x in ['in', \"if %}\"] %}", "{% for x in (['in', \"if %}\"])|__iterable %}");
        check("{% for x %}", "{% for x %}");
    }

    #[test]
    fn stored_values_are_paid() {
        check("{% set x = y %}", "{% set x = (y)|__paid %}");
        check("{%- set ns.x = [a] + b -%}", "{%- set ns.x = ([a] + b)|__paid -%}");
        check("{% set x = 'a=b' %}{% set x = 5 %}", "{% set x = 'a=b' %}{% set x = 5 %}");
        check("{% set x %}{{ y }}{% endset %}", "{% set x %}{{ y }}{% endset %}");
        check("{% set a, b = 1, 2 %}", "{% set a, b = (1, 2)|__paid %}");
    }

    #[test]
    fn comments_raw_blocks_and_strings_stay() {
        check("{# {% for x in y %} #}{% generation %}", "{# {% for x in y %} #}{% with %}");
        check("{% raw %}{% for x in y %}{#{% endraw %}x", "{% raw %}{% for x in y %}{#{% endraw %}x");
        check("{{ '{% for x in y %}' }}", "{{ '{% for x in y %}' }}");
        check("{{ {'a': {'b': 1}}}}x", "{{ {'a': {'b': 1}}}}x");
        check("{{- x -}}{{-}}{{}}{{--}}{%%}", "{{- x -}}{{-}}{{}}{{--}}{%%}");
        check("{{ '{%", "{{ '{%");
        check("{%", "{%");
        check("{% for x in 'é", "{% for x in 'é");
    }
}
