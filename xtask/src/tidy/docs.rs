//! Rules for the documents: short, and true about paths.

use std::path::Path;

use super::Source;

const LIMITS: [(&str, usize); 2] = [("README.md", 150), ("ARCHITECTURE.md", 300)];
/// What a path in backticks begins with; other words in backticks are code, commands or settings.
const FOLDERS: [&str; 10] =
    ["crates/", "sim/", "tests/", "xtask/", "docs/", "fuzz/", "benches/", ".ci/", ".cargo/", "packaging/"];

/// What it says of pgherd is backed by a test each.
const COMPARISON: &str = "docs/comparison.md";
const SCRIPTS: &str = "crates/brain/tests/golden/scripts";

pub fn check(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, lines_max) in LIMITS {
        let Some(source) = sources.iter().find(|source| source.path == name) else {
            found.push(format!("{name}: is missing"));
            continue;
        };
        let lines = source.text.lines().count();
        if lines > lines_max {
            found.push(format!("{name}: {lines} lines, {lines_max} at most"));
        }
    }
    if let Some(map) = sources.iter().find(|source| source.path == "ARCHITECTURE.md") {
        let gone = paths_in(&map.text).filter(|path| !Path::new(path).exists());
        found.extend(gone.map(|path| format!("ARCHITECTURE.md: `{path}` does not exist")));
    }
    if let Some(table) = sources.iter().find(|source| source.path == COMPARISON) {
        let gone = proofs_in(&table.text).filter(|(file, test)| !is_there(sources, file, test));
        found.extend(gone.map(|(file, test)| format!("{COMPARISON}: there is no test {file}::{test}")));
    }
    found
}

/// `file::test` in backticks, or `golden script`.
fn proofs_in(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let words = text.split('`').skip(1).step_by(2);
    let proof = |word: &'_ str| {
        word.starts_with(|first: char| first.is_ascii_lowercase()) && !word.starts_with("cargo ")
    };
    words
        .filter(move |word| proof(word))
        .filter_map(|word| word.split_once("::").or_else(|| word.split_once("golden ")))
}

fn is_there(sources: &[Source], file: &str, test: &str) -> bool {
    if file.is_empty() {
        return Path::new(SCRIPTS).join(format!("{test}.txt")).exists();
    }
    let (end, name) = (format!("/{file}.rs"), format!("fn {test}("));
    sources.iter().any(|source| source.path.ends_with(&end) && source.text.contains(&name))
}

/// Every path in backticks, without the part after a colon or `#`.
fn paths_in(text: &str) -> impl Iterator<Item = &str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            FOLDERS.iter().any(|folder| word.starts_with(folder)) && !word.contains([' ', '*', '<'])
        })
        .map(|word| word.split([':', '#']).next().unwrap_or(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_from_other_code() {
        let text = "`crates/brain` has `decide(&View)` and `crates/a/src/x.rs:12`, not `sim --seed 7` nor `tests/*`.";
        assert_eq!(paths_in(text).collect::<Vec<_>>(), ["crates/brain", "crates/a/src/x.rs"]);
    }

    #[test]
    fn a_test_that_is_not_there_is_a_complaint() {
        let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        let table = "| x | `a::one` | `a::two` `golden nothing` `--flag` `cargo x::y` |";
        let sources = [source(COMPARISON, table), source("tests/it/a.rs", "fn one() {}")];
        let complaints: Vec<String> =
            check(&sources).into_iter().filter(|c| c.starts_with(COMPARISON)).collect();
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].contains("a::two") && complaints[1].contains("nothing"));
    }

    #[test]
    fn a_missing_document_is_a_complaint() {
        assert_eq!(check(&[]).len(), 2);
    }
}
