//! What an expression of PromQL speaks of: its metrics with the labels that it chooses by, and the labels that it groups by.
//!
//! What it is not: a parser of the language; `promtool check rules` is one.

/// A metric as it is used.
#[derive(PartialEq, Eq, Debug)]
pub struct Used {
    pub name: String,
    /// Labels between its braces.
    pub labels: Vec<String>,
}

#[derive(PartialEq, Eq, Debug, Default)]
pub struct Spoken {
    pub metrics: Vec<Used>,
    /// Labels behind `by`, `on` and the like.
    pub grouped: Vec<String>,
}

/// Words that are followed by labels in parentheses.
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const OPERATORS: [&str; 4] = ["and", "or", "unless", "bool"];

/// The error says what does not close.
pub fn read(expr: &str) -> Result<Spoken, String> {
    let mut spoken = Spoken::default();
    let mut open = Vec::new();
    let mut groups = false;
    let mut rest = expr;
    while let Some(first) = rest.chars().next() {
        let word =
            |from: &str| from.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(from.len());
        let mut length = first.len_utf8();
        match first {
            '"' => length = rest[1..].find('"').ok_or_else(|| format!("a text does not end: {expr}"))? + 2,
            '$' => length = 1 + word(&rest[1..]),
            '0'..='9' => length = word(rest),
            '(' | '{' | '[' => open.push((first, std::mem::take(&mut groups))),
            ')' | '}' | ']' => {
                let begun = match first {
                    ')' => '(',
                    '}' => '{',
                    _ => '[',
                };
                if open.pop().map(|(begin, _)| begin) != Some(begun) {
                    return Err(format!("{first} closes nothing: {expr}"));
                }
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                length = word(rest);
                let name = rest[..length].to_owned();
                let next = rest[length..].trim_start();
                let is_function = ["(", "by (", "without ("].iter().any(|begin| next.starts_with(begin));
                match open.last() {
                    Some(('{', _)) => match spoken.metrics.last_mut() {
                        Some(metric) => metric.labels.push(name),
                        None => return Err(format!("braces without a metric: {expr}")),
                    },
                    Some(('(', true)) => spoken.grouped.push(name),
                    _ if GROUPING.contains(&name.as_str()) => groups = true,
                    _ if is_function || OPERATORS.contains(&name.as_str()) => {}
                    _ => spoken.metrics.push(Used { name, labels: Vec::new() }),
                }
            }
            _ => {}
        }
        rest = &rest[length..];
    }
    if open.is_empty() { Ok(spoken) } else { Err(format!("something is not closed: {expr}")) }
}

#[test]
fn metrics_and_labels_are_told_apart() {
    let expr = "sum by (scope) (rate(a_total{job=\"x{y}\",le!=\"1\"}[5m])) / on (scope) max by (scope) (b) > 2 * 3e1 and c";
    let spoken = read(expr).unwrap();
    let used = |name: &str, labels: &[&str]| Used {
        name: name.to_owned(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
    };
    assert_eq!(spoken.metrics, [used("a_total", &["job", "le"]), used("b", &[]), used("c", &[])]);
    assert_eq!(spoken.grouped, ["scope", "scope", "scope"]);
    for wrong in ["sum(a", "a)", "a{b=\"c\"]", "a{b=\"c}"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
