//! Stop strings over streamed text.

/// Finds the first of some strings in a text that comes in parts, and holds back what may be the start of one.
///
/// The string that is complete first counts, the longest of those that end at the same place; the result does not
/// depend on how the text is cut.
#[derive(Debug, Clone)]
pub struct StopStrings {
    strings: Vec<String>,
    /// Text that was pushed and not released: a prefix of some string, so shorter than the longest.
    held: String,
    matched: Option<usize>,
}

/// What one part of a text gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOutcome {
    /// Text that can go out now. Text from a stop string on never does.
    pub text: String,
    /// The stop string that was found, by its index. Everything behind it is dropped.
    pub matched: Option<usize>,
}

impl StopStrings {
    /// Looks for these strings; empty ones never match.
    pub fn new(strings: impl IntoIterator<Item = String>) -> Self {
        Self { strings: strings.into_iter().collect(), held: String::new(), matched: None }
    }

    /// Adds a part of the text. After a match nothing comes out any more.
    pub fn push(&mut self, part: &str) -> StopOutcome {
        if self.matched.is_some() {
            return StopOutcome { text: String::new(), matched: self.matched };
        }
        self.held.push_str(part);
        if let Some((start, index)) = self.first_match() {
            self.matched = Some(index);
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return StopOutcome { text, matched: self.matched };
        }
        let rest = self.held.split_off(self.possible_start());
        StopOutcome { text: std::mem::replace(&mut self.held, rest), matched: None }
    }

    /// What is still held back when the text ends.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start and index of the match that ends first.
    fn first_match(&self) -> Option<(usize, usize)> {
        let found = self.strings.iter().enumerate().filter(|(_, string)| !string.is_empty());
        let found = found.filter_map(|(index, string)| Some((self.held.find(string)?, string.len(), index)));
        let (start, _, index) = found.min_by_key(|&(start, len, index)| (start + len, start, index))?;
        Some((start, index))
    }

    /// Where the longest tail starts that is a proper prefix of some string.
    fn possible_start(&self) -> usize {
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let from = (self.held.len() + 1).saturating_sub(longest);
        let mut starts = (from..self.held.len()).filter(|&start| self.held.is_char_boundary(start));
        let opens = |start: &usize| self.strings.iter().any(|string| string.starts_with(&self.held[*start..]));
        starts.find(opens).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], parts: &[&str]) -> (String, Option<usize>, Vec<String>) {
        let mut matcher = StopStrings::new(stops.iter().map(|stop| (*stop).to_owned()));
        let mut texts = Vec::new();
        let mut matched = None;
        for part in parts {
            let outcome = matcher.push(part);
            texts.push(outcome.text);
            matched = outcome.matched;
        }
        let rest = if matched.is_some() { String::new() } else { matcher.finish() };
        (texts.concat() + &rest, matched, texts)
    }

    fn check(stops: &[&str], parts: &[&str], text: &str, matched: Option<usize>) {
        let (ours, found, _) = run(stops, parts);
        assert_eq!((ours.as_str(), found), (text, matched), "{stops:?} {parts:?}");
    }

    #[test]
    fn text_ends_before_the_stop_string() {
        check(&["END"], &["abcENDdef", "g"], "abc", Some(0));
        check(&["END"], &["abcE", "N", "Ddef"], "abc", Some(0));
        check(&["END"], &["abcE", "N", "X", "EN"], "abcENXEN", None);
        check(&["", "b"], &["abc"], "a", Some(1));
        check(&[], &["abc"], "abc", None);
        check(&["cd", "bcd", "d"], &["abcd"], "a", Some(1));
        check(&["abcx", "b"], &["abc"], "a", Some(1));
        check(&["é!"], &["caf", "é", "?é!"], "café?", Some(0));
    }

    #[test]
    fn only_a_possible_start_is_held_back() {
        let (_, _, texts) = run(&["END"], &["abE", "x", "EN", "EN"]);
        assert_eq!(texts, ["ab", "Ex", "", "EN"]);
    }

    proptest! {
        #[test]
        fn the_cuts_of_the_text_do_not_matter(
            text in "[abé]{0,14}",
            stops in prop::collection::vec("[abé]{0,4}", 0..4),
            cuts in prop::collection::vec(0usize..15, 0..6),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| text.is_char_boundary(cut.min(text.len()))).collect();
            cuts.extend([0, text.len()]);
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(text.len()));
            cuts.sort_unstable();
            let parts: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            let (cut, cut_match, _) = run(&stops, &parts);
            let (whole, whole_match, _) = run(&stops, &[&text]);
            prop_assert_eq!((&cut, cut_match), (&whole, whole_match));
            match whole_match {
                Some(index) => {
                    let found = whole.clone() + stops[index];
                    prop_assert!(text.starts_with(&found));
                }
                None => {
                    prop_assert_eq!(&whole, &text);
                    prop_assert!(stops.iter().all(|stop| stop.is_empty() || !text.contains(stop)));
                }
            }
        }
    }
}
