//! The alphabet of byte-level BPE: every byte as one printable character.
//!
//! Bytes that are printable in Latin-1 stand for themselves; the others, in order, are moved to U+0100 and up. It comes
//! from GPT-2 and every vocabulary of this kind uses it.

/// The character that stands for a byte.
pub(crate) fn char_of(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    let moved_before = (0..byte).filter(|&earlier| !is_printable(earlier)).count() as u32;
    char::from_u32(0x100 + moved_before).expect("at most 68 characters above U+0100")
}

/// The byte that a character stands for.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    /// `MOVED[i]` is the byte whose character is U+0100 + i.
    const MOVED: [u8; 68] = moved_bytes();
    match u32::from(c) {
        code @ 0..=0xFF if is_printable(code as u8) => Some(code as u8),
        code @ 0x100..=0x143 => Some(MOVED[code as usize - 0x100]),
        _ => None,
    }
}

/// The bytes of a token's text, if all its characters are of this alphabet.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte_of).collect()
}

/// Whether a byte can occur in UTF-8 text; vocabularies may lack the others.
pub(crate) fn occurs_in_utf8(byte: u8) -> bool {
    !matches!(byte, 0xC0 | 0xC1 | 0xF5..=0xFF)
}

const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

const fn moved_bytes() -> [u8; 68] {
    let mut moved = [0; 68];
    let (mut byte, mut len) = (0, 0);
    while byte < 256 {
        if !is_printable(byte as u8) {
            moved[len] = byte as u8;
            len += 1;
        }
        byte += 1;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(char_of(b'\n'), 'Ċ');
        assert_eq!(char_of(0xAD), 'Ń');
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('\u{144}'), None);
        assert_eq!(decode("Ġé"), Some(vec![b' ', 0xE9]));
        assert_eq!(decode("你"), None);
    }
}
