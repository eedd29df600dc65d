//! Finds the longest of many fixed strings at a position of a text.
//!
//! The strings lie sorted; a probe narrows the range of candidates byte by byte, so its cost is bounded by the longest
//! string and not by their number (vocabularies hold thousands of added tokens).

/// A set of strings, each with a number.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenMatcher {
    /// Sorted by bytes, without duplicates and without the empty string.
    entries: Vec<(Box<[u8]>, u32)>,
    /// For each first byte, the range of entries that start with it.
    first: Vec<(u32, u32)>,
}

/// What stands at one position of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Probe {
    /// Length in bytes and number of the longest string that was allowed and matched.
    pub longest: Option<(usize, u32)>,
    /// Whether the text ended inside of some longer string.
    pub continues: bool,
}

impl TokenMatcher {
    /// Of equal strings the first one counts.
    pub(crate) fn new<'a>(tokens: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut entries: Vec<(Box<[u8]>, u32)> = tokens
            .into_iter()
            .filter(|(text, _)| !text.is_empty())
            .map(|(text, number)| (text.as_bytes().into(), number))
            .collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0)); // stable: keeps the first of equals in front
        entries.dedup_by(|later, earlier| later.0 == earlier.0);
        let mut first = vec![(0, 0); 256];
        for (index, (text, _)) in entries.iter().enumerate() {
            let range: &mut (u32, u32) = &mut first[usize::from(text[0])];
            if range.1 == 0 {
                range.0 = index as u32;
            }
            range.1 = index as u32 + 1;
        }
        Self { entries, first }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Looks at the start of `text`; `allowed` may leave strings out by their number.
    pub(crate) fn probe(&self, text: &[u8], allowed: impl Fn(u32) -> bool) -> Probe {
        let mut probe = Probe::default();
        let (Some(&first_byte), false) = (text.first(), self.is_empty()) else {
            return probe;
        };
        let (start, end) = self.first[usize::from(first_byte)];
        let mut candidates = &self.entries[start as usize..end as usize];
        let mut depth = 1; // bytes in which all candidates equal the text
        while let Some((shortest, number)) = candidates.first() {
            if shortest.len() == depth {
                if allowed(*number) {
                    probe.longest = Some((depth, *number));
                }
                candidates = &candidates[1..];
                continue;
            }
            let Some(&byte) = text.get(depth) else {
                probe.continues = true;
                break;
            };
            let from = candidates.partition_point(|(candidate, _)| candidate[depth] < byte);
            let len = candidates[from..].partition_point(|(candidate, _)| candidate[depth] == byte);
            candidates = &candidates[from..from + len];
            depth += 1;
        }
        probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, longest: Option<(usize, u32)>, continues: bool) {
        let tokens = [("<s>", 1), ("<", 2), ("<s", 3), ("  ", 4), ("    ", 5), ("<s>", 9), ("", 7), ("é", 6)];
        assert_eq!(
            TokenMatcher::new(tokens).probe(text.as_bytes(), |_| true),
            Probe { longest, continues },
            "{text:?}"
        );
    }

    #[test]
    fn the_longest_string_wins() {
        check("<s>x", Some((3, 1)), false);
        check("<sx", Some((2, 3)), false);
        check("<x", Some((1, 2)), false);
        check("   ", Some((2, 4)), true);
        check("     ", Some((4, 5)), false);
        check("é", Some((2, 6)), false);
        check("x", None, false);
        check("", None, false);
        check("<s", Some((2, 3)), true);
    }

    #[test]
    fn strings_may_be_left_out() {
        let matcher = TokenMatcher::new([("<s>", 1), ("<s", 2)]);
        assert_eq!(matcher.probe(b"<s>", |number| number != 1).longest, Some((2, 2)));
        assert_eq!(TokenMatcher::default().probe(b"<s>", |_| true), Probe::default());
    }
}
