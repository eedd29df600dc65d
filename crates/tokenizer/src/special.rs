//! Which tokens start, end and fill a text.

use crate::vocabulary::{TokenKind, Vocabulary};

/// The special tokens of a model. All ids lie in the vocabulary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SpecialTokens {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) unknown: Option<u32>,
    pub(crate) padding: Option<u32>,
    /// Whether a prompt that is no chat starts with `bos`.
    pub(crate) add_bos: bool,
    /// Tokens at which an answer is over, ascending.
    pub(crate) end_of_generation: Vec<u32>,
}

impl SpecialTokens {
    /// Adds tokens at which an answer is over.
    pub(crate) fn add_end_of_generation(&mut self, ids: impl IntoIterator<Item = u32>) {
        self.end_of_generation.extend(ids);
        self.end_of_generation.sort_unstable();
        self.end_of_generation.dedup();
    }
}

/// Texts of tokens that end an answer whatever the file says about them: model files often name only one such token,
/// and instruction-tuned models end their turns with another.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // Between files of code: text behind them is another file.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// The tokens that end an answer by their text; they count as control tokens from now on.
///
/// A token that the file calls ordinary text counts only if nobody writes such text: `</s>` also ends struck-out text
/// in HTML, and some vocabularies have a token for that. Two more exceptions: where `<|return|>` and `<|call|>` (or `<|call(s)|>` and `<|flush|>`) end answers, `<|end|>` only ends
/// a part of one; and where `<|tool_response>` does, `</s>` is an ordinary token.
pub(crate) fn mark_end_texts(vocabulary: &mut Vocabulary) -> Vec<u32> {
    let found: Vec<(u32, &'static str)> = vocabulary
        .iter()
        .filter(|(_, text, kind)| *kind != TokenKind::Normal || is_unmistakable(text))
        .filter_map(|(id, text, _)| Some((id, *END_TEXTS.iter().find(|end| **end == text)?)))
        .collect();
    let has = |text: &str| found.iter().any(|(_, found)| *found == text);
    let calls = has("<|call|>") || has("<|calls|>");
    let end_is_part = calls && (has("<|return|>") || has("<|flush|>"));
    let ends = found.iter().filter(|(_, text)| match *text {
        "<|end|>" => !end_is_part,
        "</s>" => !has("<|tool_response>"),
        _ => true,
    });
    let ids: Vec<u32> = ends.map(|(id, _)| *id).collect();
    for &id in &ids {
        vocabulary.set_kind(id, TokenKind::Control);
    }
    ids
}

fn is_unmistakable(text: &str) -> bool {
    text.starts_with("<|") || text.starts_with("<｜") || text == "<end_of_turn>"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(texts: &[&str], expected: &[u32]) {
        let mut vocabulary = Vocabulary::default();
        for text in texts {
            let kind = if text.starts_with("</") { TokenKind::UserDefined } else { TokenKind::Normal };
            vocabulary.push(text, text.as_bytes(), kind).unwrap();
        }
        assert_eq!(mark_end_texts(&mut vocabulary), expected);
        assert!(expected.iter().all(|&id| vocabulary.kind(id) == Some(TokenKind::Control)));
    }

    #[test]
    fn known_texts_end_an_answer() {
        check(&["a", "<|im_end|>", "<|endoftext|>", "<|im_start|>"], &[1, 2]);
        check(&["<|end|>", "</s>"], &[0, 1]);
        check(&["<|end|>", "<|return|>", "<|call|>"], &[1, 2]);
        check(&["<|end|>", "<|calls|>", "<|flush|>"], &[1, 2]);
        check(&["</s>", "<|tool_response>"], &[1]);
        check(&["[PAD]", "<|im_end|>"], &[1]);
    }
}
