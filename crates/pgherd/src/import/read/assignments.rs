//! Files of `key = 'value'   # comment`, as repmgr and Pgpool-II read them: PostgreSQL's own rules, where the equals sign may be left out.

use super::Unreadable;
use crate::import::plan::Entry;

pub fn read(file: &str, text: &str) -> Result<Vec<Entry>, Unreadable> {
    let mut entries = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let unreadable = |why: &str| Unreadable { file: file.to_owned(), line: at + 1, why: why.to_owned() };
        let end = line.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(line.len());
        let (key, rest) = line.split_at(end);
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if key.is_empty() || !key.chars().all(fits) {
            return Err(unreadable("expected key = value"));
        }
        let rest = rest.trim_start();
        let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
        let value = match rest.strip_prefix('\'') {
            Some(quoted) => match unquoted(quoted) {
                (value, Some(after)) if after.is_empty() || after.starts_with('#') => value,
                (_, Some(_)) => return Err(unreadable("text behind the closing quote")),
                (_, None) => return Err(unreadable("the closing quote is missing")),
            },
            None => rest.split('#').next().unwrap_or_default().trim_end().to_owned(),
        };
        entries.push(Entry {
            file: file.to_owned(),
            line: at + 1,
            path: vec![key.to_ascii_lowercase()],
            value,
            section: String::new(),
        });
    }
    Ok(entries)
}

/// The value up to the closing quote, and what follows it; `None`: there is no closing quote. One that is doubled or follows a
/// backslash is one of the value.
pub fn unquoted(text: &str) -> (String, Option<&str>) {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => {
                chars.next();
                value.push('\'');
            }
            '\'' => return (value, Some(text[at + 1..].trim_start())),
            '\\' => value.extend(chars.next().map(|(_, next)| next)),
            c => value.push(c),
        }
    }
    (value, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_comments_and_missing_equals_signs() {
        let text =
            "# head\nnode_id=1\nnode_name = 'it''s' # a name\nport 9999\nempty =\nopts=-q -o A=1 # c\n";
        let read = read("f", text).unwrap();
        let pairs: Vec<(usize, &str, &str)> =
            read.iter().map(|entry| (entry.line, entry.path[0].as_str(), entry.value.as_str())).collect();
        let expected = [
            (2, "node_id", "1"),
            (3, "node_name", "it's"),
            (4, "port", "9999"),
            (5, "empty", ""),
            (6, "opts", "-q -o A=1"),
        ];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_line() {
        assert_eq!(
            read("f", "a = 1\nb = 'x\n").unwrap_err().to_string(),
            "f:2: the closing quote is missing"
        );
        assert_eq!(read("f", "a = 'x' y\n").unwrap_err().line, 1);
        assert_eq!(read("f", "[section]\n").unwrap_err().to_string(), "f:1: expected key = value");
    }
}
