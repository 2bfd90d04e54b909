//! Rules for Rust files: their length, their names, their heads, no sleeps in tests.

use super::Source;

const LINES_MAX: usize = 800;
const LINES_COMFORTABLE: usize = 400;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 10] =
    ["utils", "util", "common", "manager", "managers", "helper", "helpers", "service", "services", "misc"];
/// The one place where a test may wait: for a condition, with a deadline.
const WAITING: &str = "tests/src/wait.rs";

pub fn check(sources: &[Source]) -> Vec<String> {
    rust(sources).flat_map(complaints).collect()
}

/// Files that still pass but should be thought about.
pub fn long_files(sources: &[Source]) -> Vec<String> {
    rust(sources)
        .map(|source| (source, source.text.lines().count()))
        .filter(|(_, lines)| (LINES_COMFORTABLE + 1..=LINES_MAX).contains(lines))
        .map(|(source, lines)| format!("{}: {lines} lines, more than {LINES_COMFORTABLE}", source.path))
        .collect()
}

fn rust(sources: &[Source]) -> impl Iterator<Item = &Source> {
    sources.iter().filter(|source| source.path.ends_with(".rs"))
}

fn complaints(source: &Source) -> Vec<String> {
    let Source { path, text } = source;
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{path}: {lines} lines, {LINES_MAX} at most: split it where the words change"));
    }
    if !text.starts_with("//!") {
        found.push(format!("{path}: no module head: begin with //! and say what it is"));
    }
    let words = path.trim_end_matches(".rs").split('/');
    if let Some(word) = words.clone().find(|word| EMPTY_NAMES.contains(word)) {
        found.push(format!("{path}: \"{word}\" says nothing about what is inside: use a noun of the field"));
    }
    if path.starts_with("tests/") && path != WAITING && sleeps(text) {
        found.push(format!("{path}: sleeps: wait for a condition, with a deadline ({WAITING})"));
    }
    found
}

fn sleeps(text: &str) -> bool {
    // Written in two parts so that this file does not name what it forbids.
    [concat!("thread::", "sleep"), concat!("time::", "sleep")].iter().any(|call| text.contains(call))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints_of(path: &str, text: &str) -> usize {
        complaints(&Source { path: path.into(), text: text.into() }).len()
    }

    #[test]
    fn each_rule_bites() {
        assert_eq!(complaints_of("a/src/lease.rs", "//! The lease.\n"), 0);
        assert_eq!(complaints_of("a/src/lease.rs", "fn main() {}\n"), 1);
        assert_eq!(complaints_of("a/src/utils.rs", "//! x\n"), 1);
        assert_eq!(complaints_of("a/src/utils/x.rs", "//! x\n"), 1);
        assert_eq!(complaints_of("a/src/long.rs", &"//! x\n".repeat(801)), 1);
        let sleeping = format!("//! x\nstd::thread::{}(d);\n", "sleep");
        assert_eq!(complaints_of("tests/it/x.rs", &sleeping), 1);
        assert_eq!(complaints_of(WAITING, &sleeping), 0);
        assert_eq!(complaints_of("crates/a/src/x.rs", &sleeping), 0);
    }
}
