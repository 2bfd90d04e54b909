//! A text without the values in it: texts that differ in plain literals alone have one shape, and one verdict.
//!
//! What it is: one pass over the bytes that replaces whole numbers and texts in single quotes, where it is certain that they
//! are literals. What it is not: a lexer; what it does not know, it leaves alone or gives up on. Invariant: two texts of one shape
//! have the same tokens but for the values of literals, and no verdict on a query depends on those.

/// Statements of which no literal says what they do.
const QUERIES: [&[u8]; 4] = [b"select", b"with", b"values", b"table"];

/// The one function of which a literal says where it may run.
const SETTING: &[u8] = b"current_setting";

/// Writes the shape of `text` to `out`; false when it has none but itself.
pub fn write(text: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    let head = text.trim_ascii_start();
    let word = head.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(head.len());
    if !QUERIES.iter().any(|query| head[..word].eq_ignore_ascii_case(query)) || names_setting(text) {
        return false;
    }
    let (mut at, mut copied, mut before) = (0, 0, b' ');
    while let Some(&byte) = text.get(at) {
        let rest = &text[at..];
        let (end, value): (usize, &[u8]) = match byte {
            b'\'' if !is_word(before) && before != b'&' => match text_end(rest) {
                Some(end) => (end, b"''"),
                None => return false,
            },
            b'0'..=b'9' if !is_word(before) && before != b'.' => {
                let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
                match rest.get(end) {
                    // 1.5, 1e5, 0x1F.
                    Some(&next) if is_word(next) || next == b'.' => (end, &rest[..end]),
                    _ => (end, b"0"),
                }
            }
            // An escape of its own kind, a name, a text between dollars, a comment, which may be a hint, another statement.
            b'\'' | b'"' | b'\\' => return false,
            b'$' if !rest.get(1).is_some_and(u8::is_ascii_digit) => return false,
            b'-' if rest.get(1) == Some(&b'-') => return false,
            b'/' if rest.get(1) == Some(&b'*') => return false,
            b';' if !rest[1..].trim_ascii().is_empty() => return false,
            _ => {
                (at, before) = (at + 1, byte);
                continue;
            }
        };
        out.extend_from_slice(&text[copied..at]);
        out.extend_from_slice(value);
        at += end;
        (copied, before) = (at, text[at - 1]);
    }
    out.extend_from_slice(&text[copied..]);
    true
}

fn names_setting(text: &[u8]) -> bool {
    text.windows(SETTING.len()).any(|window| window.eq_ignore_ascii_case(SETTING))
}

/// Where the text in single quotes ends with which `rest` begins; `None` when that depends on more.
fn text_end(rest: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match (rest.get(at)?, rest.get(at + 1)) {
            (b'\'', Some(b'\'')) => at += 2,
            (b'\'', _) => return Some(at + 1),
            (b'\\', _) => return None,
            _ => at += 1,
        }
    }
}

/// Part of a name, a keyword or a number; `$1` is one, and `a$1`.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{classify, tests::catalog};

    fn shape(text: &str) -> Option<String> {
        let mut out = Vec::new();
        write(text.as_bytes(), &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn values_are_replaced_and_nothing_else() {
        for (text, expected) in [
            ("SELECT a FROM t1 WHERE b = 4711;", "SELECT a FROM t1 WHERE b = 0;"),
            ("select 'x', 'it''s', 12, $3, t.a2", "select '', '', 0, $3, t.a2"),
            ("SELECT 1.5, 1e5, .5, 0x1F, a[7], -3", "SELECT 1.5, 1e5, .5, 0x1F, a[0], -0"),
            ("  WITH x AS (SELECT 1) TABLE x", "  WITH x AS (SELECT 0) TABLE x"),
            ("SELECT date '2026-01-01'", "SELECT date ''"),
            ("SELECT 12", "SELECT 0"),
            ("SELECT ''", "SELECT ''"),
        ] {
            assert_eq!(shape(text).unwrap_or_default(), expected, "{text}");
        }
    }

    #[test]
    fn in_doubt_a_text_is_its_own_shape() {
        for text in [
            "UPDATE t SET a = 1",
            "SET x = 1",
            "selection 1",
            "/* pgherd: primary */ SELECT 1",
            "SELECT 1 -- no",
            "SELECT 1; DELETE FROM t",
            "SELECT E'a', 1",
            "SELECT U&'a', 1",
            "SELECT 'a\\', 1",
            "SELECT 'open",
            "SELECT $$a$$",
            "SELECT \"a\"",
            "SELECT Current_Setting('TimeZone')",
            "SELECT current_setting ( 'in_hot_standby')",
        ] {
            assert_eq!(shape(text), None, "{text}");
        }
    }

    #[test]
    fn texts_of_one_shape_have_one_verdict() {
        let catalog = catalog(1);
        let values = ["7", "'port'", "'seven'", "'it''s ; DELETE'", "0", "''"];
        for frame in [
            "SELECT {}",
            "SELECT nextval({})",
            "SELECT count(*) FROM users WHERE a = {} LIMIT {}",
            "SELECT {} FOR UPDATE",
            "SELECT {} INTO t",
            "WITH x AS (DELETE FROM t WHERE a = {} RETURNING a) SELECT * FROM x",
            "SELECT set_config({}, {}, false)",
            "SELECT current_setting({})",
            "SELECT current_setting(  {}, true)",
            "SELECT {}::regclass, {} + {}",
            "VALUES ({}), ({})",
            "SELECT {}{}",
            "SELECT a{}, {}b",
        ] {
            for value in values {
                let text = frame.replace("{}", value);
                let Some(shape) = shape(&text) else { continue };
                assert_eq!(
                    classify(text.as_bytes(), &catalog),
                    classify(shape.as_bytes(), &catalog),
                    "{text}"
                );
            }
        }
    }
}
