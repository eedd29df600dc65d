//! How much longer the steps of a `tokenizer.json` may make a text.
//!
//! A normalizer that replaces each letter by a megabyte, ten that double the text, or a character map that claims to be
//! 4 GiB long are all valid JSON. Real tokenizers make a text at most a few times as long, so this measures before
//! anything is built.

use serde_json::Value as Json;

use crate::error::TokenizerError;

/// Most normalizers and pre-tokenizers together.
const MAX_STEPS: usize = 32;

/// Longest pattern; the longest known has about a thousand bytes.
const MAX_PATTERN_BYTES: usize = 16 << 10;

/// Longest text that one step puts in front or in place of something.
const MAX_CONTENT_BYTES: usize = 64;

/// Most times that the replacing steps together may multiply the length of a text.
const MAX_GROWTH: usize = 64;

/// Largest precompiled character map; the one in use has 240 KB.
const MAX_MAP_BYTES: usize = 4 << 20;

/// Checks all steps of these components (normalizer and pre-tokenizer).
pub(crate) fn check<'a>(components: impl IntoIterator<Item = &'a Json>) -> Result<(), TokenizerError> {
    let mut steps = Vec::new();
    for component in components {
        collect_steps(component, &mut steps);
    }
    TokenizerError::check_limit("number of normalizers and pre-tokenizers", steps.len(), MAX_STEPS)?;
    let mut growth = 1usize;
    for step in steps {
        growth = growth.saturating_mul(check_step(step)?);
        TokenizerError::check_limit("growth of a text by normalizers", growth, MAX_GROWTH)?;
    }
    Ok(())
}

/// The steps of a component: itself, or those of a sequence. The nesting of the file is limited already.
fn collect_steps<'a>(component: &'a Json, steps: &mut Vec<&'a Json>) {
    let lists = ["normalizers", "pretokenizers"].map(|list| component.get(list).and_then(Json::as_array));
    match lists.into_iter().flatten().next() {
        Some(inner) => inner.iter().for_each(|step| collect_steps(step, steps)),
        None if component.is_object() => steps.push(component),
        None => {}
    }
}

/// How many times longer a step can make a text.
fn check_step(step: &Json) -> Result<usize, TokenizerError> {
    let text = |field: &str| step.get(field).and_then(Json::as_str);
    let kind = text("type").unwrap_or_default();
    for field in ["content", "prepend", "replacement"] {
        let len = text(field).map_or(0, str::len);
        TokenizerError::check_limit(&format!("length of {field:?} of {kind} in bytes"), len, MAX_CONTENT_BYTES)?;
    }
    let pattern = step.get("pattern");
    let [literal, regex] = ["String", "Regex"].map(|kind| pattern.and_then(|pattern| pattern.get(kind)?.as_str()));
    let pattern_len = literal.or(regex).map_or(0, str::len);
    TokenizerError::check_limit(&format!("length of the pattern of {kind} in bytes"), pattern_len, MAX_PATTERN_BYTES)?;
    match kind {
        "Precompiled" => check_map(text("precompiled_charsmap").unwrap_or_default()).map(|()| 1),
        "ByteLevel" => Ok(2),
        "Replace" if regex == Some("") || literal == Some("") => {
            Err(TokenizerError::invalid("pattern of Replace", "empty", "text to replace"))
        }
        "Replace" => {
            let replaced_len = literal.map_or(1, str::len); // a regex may match a single byte
            Ok(text("content").map_or(1, str::len).div_ceil(replaced_len).max(1))
        }
        _ => Ok(1),
    }
}

/// A SentencePiece character map: the length of a trie, the trie, and replacements that end with a zero byte.
fn check_map(base64: &str) -> Result<(), TokenizerError> {
    TokenizerError::check_limit("size of the precompiled character map", base64.len(), MAX_MAP_BYTES)?;
    let wrong =
        |found: &str| TokenizerError::invalid("precompiled character map", found, "a trie and its replacements");
    let map = decode_base64(base64).ok_or_else(|| wrong("no base64"))?;
    let (length, rest) = map.split_first_chunk::<4>().ok_or_else(|| wrong("too short"))?;
    let trie_len = u32::from_le_bytes(*length) as usize;
    let replacements = rest.get(trie_len..).ok_or_else(|| wrong("shorter than it says"))?;
    let longest = replacements.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    TokenizerError::check_limit("longest replacement of the character map in bytes", longest, MAX_CONTENT_BYTES)
}

/// Standard base64, with or without padding.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let (mut buffer, mut bits) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        buffer = buffer << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            decoded.push((buffer >> bits) as u8);
            buffer &= (1 << bits) - 1;
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn base64_decodes() {
        assert_eq!(decode_base64("SGVsbG8="), Some(b"Hello".to_vec()));
        assert_eq!(decode_base64("AP/+gA=="), Some(vec![0, 255, 254, 128]));
        assert_eq!(decode_base64(""), Some(Vec::new()));
        assert_eq!(decode_base64("a b"), None);
    }

    #[test]
    fn real_steps_pass_and_growing_ones_do_not() {
        let replace = |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"String": pattern}, "content": content});
        let sequence = |steps: &[Json]| json!({"type": "Sequence", "normalizers": steps});
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        assert!(check([&sequence(&[prepend, replace(" ", "▁")]), &Json::Null]).is_ok());
        assert!(check([&replace("``", "\"")]).is_ok());
        assert!(check([&replace("a", &"b".repeat(64))]).is_ok());
        assert!(check([&replace("a", &"b".repeat(65))]).is_err());
        assert!(check([&sequence(&vec![replace("a", "aa"); 6])]).is_ok());
        assert!(check([&sequence(&vec![replace("a", "aa"); 7])]).is_err());
        assert!(check([&sequence(&vec![replace("a", "a"); 33])]).is_err());
        assert!(check([&replace("", "a")]).is_err());
    }
}
