//! The attributes of SCRAM's messages: a letter, `=`, a value, and commas between them.

/// The value of the attribute at the front, which must have this letter, and what follows its comma.
pub fn attribute(text: &str, letter: char) -> Option<(&str, &str)> {
    let value = text.strip_prefix(letter)?.strip_prefix('=')?;
    Some(value.split_once(',').unwrap_or((value, "")))
}

/// The same with any letter.
pub fn any_attribute(text: &str) -> Option<(char, &str, &str)> {
    let letter = text.chars().next().filter(char::is_ascii_alphabetic)?;
    attribute(text, letter).map(|(value, rest)| (letter, value, rest))
}

/// RFC 5802's `printable`, of which a nonce consists.
pub fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, 0x21..=0x2b | 0x2d..=0x7e))
}
