//! PgBouncer's file: sections, `key = value` up to the end of the line, comments on lines of their own, `%include`.
//!
//! Values have no quotes and no escapes of their own, and a `;` in one is part of it; that is why no general reader of
//! INI files reads it. In `[databases]`, `[users]` and `[peers]` a value is a connection string, which becomes one entry for each of its parts.

use super::Unreadable;
use crate::import::convert::connection;
use crate::import::plan::Entry;

/// Files that include each other without end are refused here, as PgBouncer does.
const INCLUDES_DEEP_MAX: usize = 10;

/// `load` gives the text of an included file, named as in the file, and what to call it.
pub type Load<'a> = &'a dyn Fn(&str) -> Result<String, String>;

pub fn read(file: &str, text: &str, load: Load<'_>) -> Result<Vec<Entry>, Unreadable> {
    let mut reader = Reader { section: String::new(), entries: Vec::new(), load };
    reader.file(file, text, 0)?;
    Ok(reader.entries)
}

struct Reader<'a> {
    section: String,
    entries: Vec<Entry>,
    load: Load<'a>,
}

impl Reader<'_> {
    fn file(&mut self, file: &str, text: &str, deep: usize) -> Result<(), Unreadable> {
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            let unreadable = |why: String| Unreadable { file: file.to_owned(), line: at + 1, why };
            if line.is_empty() || line.starts_with([';', '#']) {
                continue;
            }
            if let Some(name) = line.strip_prefix("%include") {
                if deep == INCLUDES_DEEP_MAX {
                    return Err(unreadable("too many files include each other".to_owned()));
                }
                let name = name.trim();
                let text = (self.load)(name).map_err(|why| unreadable(format!("%include {name}: {why}")))?;
                self.file(name, &text, deep + 1)?;
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let name =
                    rest.strip_suffix(']').ok_or_else(|| unreadable("expected [section]".to_owned()))?;
                self.section = name.trim().to_owned();
                continue;
            }
            let (key, value) =
                key_and_value(line).ok_or_else(|| unreadable("expected key = value".to_owned()))?;
            if self.section.is_empty() {
                return Err(unreadable(format!("{key} stands in no section")));
            }
            self.entry(file, at + 1, key, value);
        }
        Ok(())
    }

    fn entry(&mut self, file: &str, line: usize, key: String, value: &str) {
        let mut push = |path: Vec<String>, value: String| {
            self.entries.push(Entry { file: file.to_owned(), line, path, value, section: String::new() });
        };
        if !matches!(self.section.as_str(), "databases" | "users" | "peers") {
            push(vec![self.section.clone(), key], value.to_owned());
            return;
        }
        push(vec![self.section.clone(), key.clone()], String::new());
        for (part, value) in connection(value) {
            push(vec![self.section.clone(), key.clone(), part], value);
        }
    }
}

/// A name in double quotes may hold anything; one in it is doubled.
fn key_and_value(line: &str) -> Option<(String, &str)> {
    if let Some(rest) = line.strip_prefix('"') {
        let mut name = String::new();
        let mut chars = rest.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c != '"' {
                name.push(c);
            } else if chars.peek().is_some_and(|(_, next)| *next == '"') {
                chars.next();
                name.push('"');
            } else {
                let value = rest[at + 1..].trim_start().strip_prefix('=')?;
                return Some((name, value.trim()));
            }
        }
        return None;
    }
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    (!key.is_empty() && !key.contains(char::is_whitespace)).then(|| (key.to_owned(), value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_connection_strings_and_included_files() {
        let text = "[databases]\n\"my \"\"db\" = host=h connect_query='SELECT 1; --x'\n* = port=5432\n%include more.ini\n";
        let load = |name: &str| match name {
            "more.ini" => Ok("[pgbouncer]\n; no\nauth_query = SELECT a = '1'; -- all of it\n".to_owned()),
            _ => Err("not there".to_owned()),
        };
        let told: Vec<String> = read("f", text, &load)
            .unwrap()
            .iter()
            .map(|entry| format!("{} {}={}", entry.place(), entry.key(), entry.value))
            .collect();
        let expected = [
            "f:2 databases.my \"db=",
            "f:2 databases.my \"db.host=h",
            "f:2 databases.my \"db.connect_query=SELECT 1; --x",
            "f:3 databases.*=",
            "f:3 databases.*.port=5432",
            "more.ini:3 pgbouncer.auth_query=SELECT a = '1'; -- all of it",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_line() {
        let none = |_: &str| Err("not there".to_owned());
        assert_eq!(read("f", "[a\n", &none).unwrap_err().to_string(), "f:1: expected [section]");
        assert_eq!(read("f", "a = 1\n", &none).unwrap_err().to_string(), "f:1: a stands in no section");
        assert_eq!(read("f", "%include x\n", &none).unwrap_err().to_string(), "f:1: %include x: not there");
        let itself = |_: &str| Ok("%include f\n".to_owned());
        assert_eq!(read("f", "%include f\n", &itself).unwrap_err().why, "too many files include each other");
    }
}
