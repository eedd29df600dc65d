//! Names that nobody knows, and the nearest that somebody does.

use super::defs::{Def, TABLE};

/// The known name that somebody may have meant: one that has all words of `name`, but for slips, or that is few changes
/// away; of several the nearest. Capitals, `-` and `_` count as one another.
pub(crate) fn nearest(name: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    nearest_of(name, known.into_iter().map(|known| (known.clone(), known)))
}

/// The same of things that have names, maybe several of them.
pub(crate) fn nearest_of<T>(name: &str, known: impl IntoIterator<Item = (String, T)>) -> Option<T> {
    let name = plain(name);
    let likely = known.into_iter().filter_map(|(known, thing)| Some((distance(&name, &plain(&known))?, thing)));
    likely.min_by_key(|(distance, _)| *distance).map(|(_, thing)| thing)
}

/// The setting that somebody may have meant, by its own name or by one that others give it.
pub(crate) fn nearest_setting(name: &str) -> Option<&'static Def> {
    nearest_of(name, TABLE.iter().flat_map(|def| def.names().map(|known| (known.to_owned(), *def))))
}

/// How far a known name is from another: whether it lacks a word of it, and how many letters differ. `None`: so far
/// that nobody means the one who writes the other.
fn distance(name: &str, known: &str) -> Option<(bool, usize)> {
    let edits = edit_distance(name, known);
    let has_all_words =
        |is_like: fn(&str, &str) -> bool| words(name).all(|word| words(known).any(|own| is_like(word, own)));
    if has_all_words(|word, own| word == own) {
        return Some((false, edits));
    }
    // What both begin with says nothing: `LLAMA_ARG_`.
    let shared = words(name).zip(words(known)).take_while(|(word, own)| word == own);
    let own_len = name.len().saturating_sub(shared.map(|(word, _)| word.len() + 1).sum());
    let is_near = edits <= (own_len / 3).max(1) || has_all_words(is_like);
    is_near.then_some((true, edits))
}

/// Whether a word is another but for a slip, or one is short for the other: `len` for `length`.
fn is_like(word: &str, other: &str) -> bool {
    let is_short = |short: &str, long: &str| short.len() > 2 && long.starts_with(short);
    word == other || is_short(word, other) || is_short(other, word) || (word.len() > 3 && is_slip(word, other))
}

fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(['_', '.', '/', ':', '@'])
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
        for far in ["MISTRAL_COLOUR", "MISTRAL_HORN", "x", "", "MISTRAL_", "max_tokens"] {
            assert_eq!(nearest(far, known()), None, "{far}");
        }
    }

    #[test]
    fn settings_are_known_by_what_others_call_them() {
        for (name, expected) in [
            ("MISTRAL_LOG_LEVEL", "LOG"),
            ("MISTRAL_LOG_LEVL", "LOG"),
            ("MISTRAL_LOGLEVEL", "LOG"),
            ("MISTRAL_CTX_SIZE", "MAX_SEQ_LEN"),
            ("mistral_ctx_sise", "MAX_SEQ_LEN"),
            ("--ctx-size", "MAX_SEQ_LEN"),
            ("MISTRAL_MAX_CONTEXT", "MAX_SEQ_LEN"),
            ("MISTRAL_CONTEXT", "MAX_SEQ_LEN"),
            ("MISTRAL_CONTEXT_LEN", "MAX_SEQ_LEN"),
            ("MISTRAL_CONTEXT_OVERFLO", "CONTEXT_OVERFLOW"),
            ("MISTRAL_THREADS", "NUM_THREADS"),
            ("MISTRAL_THREAD", "NUM_THREADS"),
            ("MISTRAL_KV_TYPE", "KV_CACHE_DTYPE"),
            ("MISTRAL_API_KEY", "API_KEYS"),
            ("MISTRAL_MAX_NUM_SEQS", "MAX_BATCH_SIZE"),
            ("MISTRAL_NUM_PARALLEL", "MAX_BATCH_SIZE"),
            ("MISTRAL_N_PARALLEL", "MAX_BATCH_SIZE"),
            ("MISTRAL_PARALLEL", "MAX_BATCH_SIZE"),
            ("MISTRAL_HF_TOKEN", "HUB_TOKEN"),
            ("MISTRAL_HF_ENDPOINT", "HUB_ENDPOINT"),
            ("MISTRAL_RUST_LOG", "LOG"),
            ("MISTRAL_TENSOR_PARALLEL", "TENSOR_PARALLEL_SIZE"),
            ("MISTRAL_MAX_BATCHED_TOKENS", "PREFILL_CHUNK_SIZE"),
            ("MISTRAL_GPU_MEMORY_UTILISATION", "MEMORY_FRACTION"),
            ("MISTRAL_FLASH_ATTENTION", "USE_FLASH_ATTENTION"),
            ("MISTRAL_TIMEOUT", "REQUEST_TIMEOUT"),
            ("MISTRAL_BODY_TIMOUT", "BODY_TIMEOUT"),
            ("MISTRAL_BIND", "HOST"),
        ] {
            assert_eq!(nearest_setting(name).map(|def| def.key), Some(expected), "{name}");
        }
        for far in ["MISTRAL_COLOUR", "MISTRAL_HORN", "MISTRAL_X", "MISTRAL_", "MISTRAL_TEMPERATURE"] {
            assert_eq!(nearest_setting(far).map(|def| def.key), None, "{far}");
        }
    }

    /// A model is named by some of its words rather than by a short name that has none of them.
    #[test]
    fn models_are_known_by_their_words() {
        let known = || ["m", "gemma", "SmolLM2-135M-Instruct.Q4_1", "org/tiny:q8_0"].map(str::to_owned);
        for (name, expected) in [
            ("smollm2", Some("SmolLM2-135M-Instruct.Q4_1")),
            ("smolm2-instruct", Some("SmolLM2-135M-Instruct.Q4_1")),
            ("org-tiny", Some("org/tiny:q8_0")),
            ("gema", Some("gemma")),
            ("llama", None),
        ] {
            assert_eq!(nearest(name, known()).as_deref(), expected, "{name}");
        }
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
