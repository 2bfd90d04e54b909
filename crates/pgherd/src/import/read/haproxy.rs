//! HAProxy's file: sections, and directives of words.

use super::Unreadable;
use crate::import::plan::Entry;

const SECTIONS: [&str; 19] = [
    "global",
    "defaults",
    "listen",
    "frontend",
    "backend",
    "userlist",
    "peers",
    "resolvers",
    "mailers",
    "program",
    "http-errors",
    "ring",
    "cache",
    "fcgi-app",
    "log-forward",
    "crt-store",
    "traces",
    "log-profile",
    "acme",
];
/// Directives whose second word says which.
const PAIRS: [&str; 11] = [
    "option",
    "timeout",
    "stats",
    "http-check",
    "tcp-check",
    "capture",
    "external-check",
    "stick",
    "tcp-request",
    "tcp-response",
    "monitor",
];

/// The entries' sections are `listen NAME`; the value is what follows the directive.
pub fn read(file: &str, text: &str) -> Result<Vec<Entry>, Unreadable> {
    let mut entries = Vec::new();
    let mut section = String::new();
    for (at, line) in text.lines().enumerate() {
        let unreadable = |why: &str| Unreadable { file: file.to_owned(), line: at + 1, why: why.to_owned() };
        let mut words = words(line).ok_or_else(|| unreadable("the closing quote is missing"))?;
        let Some(first) = words.first().cloned() else { continue };
        if SECTIONS.contains(&first.as_str()) && !line.starts_with(char::is_whitespace) {
            section = words[..words.len().min(2)].join(" ");
            continue;
        }
        if section.is_empty() {
            return Err(unreadable("a directive stands in no section"));
        }
        if matches!(first.as_str(), "no" | "default") && words.len() > 1 {
            words.remove(0);
            words[0] = format!("{first} {}", words[0]);
        }
        let bare = words[0].rsplit(' ').next().unwrap_or_default();
        let taken = if PAIRS.contains(&bare) && words.len() > 1 { 2 } else { 1 };
        entries.push(Entry {
            file: file.to_owned(),
            line: at + 1,
            path: vec![words[..taken].join(" ")],
            value: words[taken..].join(" "),
            section: section.clone(),
        });
    }
    Ok(entries)
}

/// Words, without quotes, backslashes and what follows a `#`; `None` without a closing quote.
fn words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('#', None) => break,
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_and_directives() {
        let text = "global # all\n    maxconn 100\nlisten a b\n bind *:5000\n option httpchk OPTIONS /primary\n \
                    no option redispatch\n stats uri '/a b'\n";
        let told: Vec<String> = read("f", text)
            .unwrap()
            .iter()
            .map(|entry| format!("{} [{}] {}|{}", entry.line, entry.section, entry.key(), entry.value))
            .collect();
        let expected = [
            "2 [global] maxconn|100",
            "4 [listen a] bind|*:5000",
            "5 [listen a] option httpchk|OPTIONS /primary",
            "6 [listen a] no option redispatch|",
            "7 [listen a] stats uri|/a b",
        ];
        assert_eq!(told, expected);
        assert_eq!(
            read("f", " bind *:1\n").unwrap_err().to_string(),
            "f:1: a directive stands in no section"
        );
    }
}
