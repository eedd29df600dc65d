//! Names that nobody knows, and the nearest that somebody does.

/// The known name that has all words of `name`, or if none has, that is fewest changes away; capitals, `-` and `_` count as
/// one another.
pub(crate) fn nearest(name: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    let name = plain(name);
    known.into_iter().min_by_key(|known| {
        let known = plain(known);
        let has_all_words = name.split('_').all(|word| known.split('_').any(|other| other == word));
        (!has_all_words, edit_distance(&name, &known))
    })
}

/// A name without what sources write differently: `MISTRAL_MAX_BATCH_SIZE`, `max_batch_size` and `--max-batch-size` are
/// one.
fn plain(name: &str) -> String {
    let name = name.trim_start_matches('-').to_ascii_lowercase().replace('-', "_");
    name.strip_prefix("mistral_").map(str::to_owned).unwrap_or(name)
}

/// Whether a word is another but for one letter that is missing, too many or wrong, or two that have changed places.
pub(super) fn is_slip(word: &str, other: &str) -> bool {
    let changed = || word.bytes().zip(other.bytes()).enumerate().filter(|(_, (a, b))| a != b);
    let places: Vec<usize> = changed().map(|(place, _)| place).collect();
    let is_swap = || match places[..] {
        [first, second] => {
            let (word, other) = (word.as_bytes(), other.as_bytes());
            first + 1 == second && word[first] == other[second] && word[second] == other[first]
        }
        _ => false,
    };
    edit_distance(word, other) == 1 || (word.len() == other.len() && is_swap())
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_however_it_is_spelled() {
        let known = || ["port", "host", "max_batch_size", "max_body_size", "metal_heap_size"].map(str::to_owned);
        for (name, expected) in [
            ("MISTRAL_PORT", "port"),
            ("mistral_port", "port"),
            ("--prot", "port"),
            ("max-bach-size", "max_batch_size"),
            ("MAX_BODY", "max_body_size"),
            ("MISTRAL_HEAP_SIZE", "metal_heap_size"),
        ] {
            assert_eq!(nearest(name, known()).as_deref(), Some(expected), "{name}");
        }
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn slips_are_one_letter_or_two_that_have_changed_places() {
        for (word, expected) in [
            ("MISTRL", true),
            ("MISTRALL", true),
            ("MISTREL", true),
            ("MITSRAL", true),
            ("MISTRAL", false),
            ("MINSTREL", false),
            ("MISTER", false),
            ("LISTRAM", false),
            ("", false),
        ] {
            assert_eq!(is_slip(word, "MISTRAL"), expected, "{word}");
        }
    }
}
