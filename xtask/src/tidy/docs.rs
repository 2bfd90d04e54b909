//! Rules for the documents: short, and true about paths.

use super::Source;

const LIMITS: [(&str, usize); 2] = [("README.md", 150), ("ARCHITECTURE.md", 300)];
/// What a path in backticks begins with; other words in backticks are code, commands or settings.
const FOLDERS: [&str; 10] =
    ["crates/", "sim/", "tests/", "xtask/", "docs/", "fuzz/", "benches/", ".ci/", ".cargo/", "packaging/"];

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
        let gone = paths_in(&map.text).filter(|path| !std::path::Path::new(path).exists());
        found.extend(gone.map(|path| format!("ARCHITECTURE.md: `{path}` does not exist")));
    }
    found
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
    fn a_missing_document_is_a_complaint() {
        assert_eq!(check(&[]).len(), 2);
    }
}
