//! Reads `.env` text: `NAME=VALUE` lines as compose and shells write them.
//!
//! Comments, blank lines, `export`, quotes and a comment after the value are understood. Nothing is expanded and no
//! other file is read.

/// One assignment.
#[derive(Debug, PartialEq)]
pub(crate) struct Assignment {
    pub(crate) name: String,
    pub(crate) value: String,
    /// Line number, from 1.
    pub(crate) line: usize,
}

/// Reads a whole file. A line that is no assignment is returned as `Err(line)`.
pub(crate) fn parse(text: &str) -> Vec<Result<Assignment, usize>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().enumerate().filter_map(|(i, line)| parse_line(line.trim(), i + 1)).collect()
}

fn parse_line(line: &str, number: usize) -> Option<Result<Assignment, usize>> {
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let line = line.strip_prefix("export ").unwrap_or(line);
    let assignment = line.split_once('=').and_then(|(name, value)| {
        let name = name.trim();
        // No name has a `-`, but a misspelled one may.
        let valid = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        let value = unquote(value.trim())?;
        valid.then(|| Assignment { name: name.to_owned(), value, line: number })
    });
    Some(assignment.ok_or(number))
}

/// A value as a line would have it behind `NAME=`, in quotes where it needs them: [`parse`] reads it back. `None` where
/// no line can say it: it has control characters, or quotes of both kinds that matter.
pub(crate) fn quoted(value: &str) -> Option<String> {
    let written = [value.to_owned(), format!("\"{value}\""), format!("'{value}'")];
    let reads_back = |text: &String| unquote(text.trim()).as_deref() == Some(value);
    written.into_iter().find(reads_back).filter(|_| !value.contains(char::is_control))
}

/// The value without quotes and trailing comment; `None` where a quote is left open.
fn unquote(value: &str) -> Option<String> {
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let (inner, rest) = value[1..].split_once(quote)?;
            let rest = rest.trim();
            (rest.is_empty() || rest.starts_with('#')).then(|| inner.to_owned())
        }
        Some('#') | None => Some(String::new()),
        Some(_) => {
            let comment = value.find(" #").or_else(|| value.find("\t#")).unwrap_or(value.len());
            Some(value[..comment].trim_end().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lose_quotes_and_comments() {
        for (line, expected) in [
            ("A=1", Some(("A", "1"))),
            ("A=metal                    # Enable Metal backend", Some(("A", "metal"))),
            ("export A = x", Some(("A", "x"))),
            ("A=\"x # y\"  # z", Some(("A", "x # y"))),
            ("A='x'", Some(("A", "x"))),
            ("A=x#y", Some(("A", "x#y"))),
            ("A=", Some(("A", ""))),
            ("A=   # nothing", Some(("A", ""))),
            ("A-B=1", Some(("A-B", "1"))),
            ("A", None),
            ("A=\"x", None),
            ("A=\"x\" y", None),
            ("A B=1", None),
            ("=1", None),
        ] {
            let got = parse(line).remove(0).ok();
            assert_eq!(got.as_ref().map(|a| (a.name.as_str(), a.value.as_str())), expected, "{line}");
        }
    }

    #[test]
    fn quoted_values_read_back() {
        for (value, text) in [
            ("a b", Some("a b")),
            ("x#y", Some("x#y")),
            ("/a b/c #d.gguf", Some("\"/a b/c #d.gguf\"")),
            ("'q", Some("\"'q\"")),
            ("\"abc\"", Some("'\"abc\"'")),
            (" x ", Some("\" x \"")),
            ("it's \"so\"", Some("it's \"so\"")),
            ("'it' \"so\"", None),
            ("x\nMISTRAL_INSECURE=true", None),
            ("x\ty", None),
            ("", Some("")),
        ] {
            assert_eq!(quoted(value).as_deref(), text, "{value:?}");
            if let Some(text) = text {
                let read = parse(&format!("A={text}")).remove(0).expect("an assignment");
                assert_eq!(read.value, value);
            }
        }
    }

    #[test]
    fn comments_and_blank_lines_are_skipped_but_counted() {
        let got = parse("\u{feff}# one\n\nA=1\r\nnonsense\n");
        assert_eq!(got, [Ok(Assignment { name: "A".into(), value: "1".into(), line: 3 }), Err(4)]);
    }
}
