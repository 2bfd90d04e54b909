//! What the harnesses of other languages print of their tests.
//!
//! Both print each test once, when it has ended. Invariant: a test that was begun and of which nothing more is said has no outcome.

use std::collections::BTreeMap;

use crate::lines::Outcome;

/// Of a failure; the rest is in the log.
const MESSAGE_CHARS_MAX: usize = 600;

#[derive(Clone, Copy, Debug)]
pub enum Harness {
    /// Rust's.
    Libtest,
    /// `go test -v`.
    Go,
}

impl Harness {
    /// So that it prints each test.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Harness::Libtest => &[],
            Harness::Go => &["-test.v"],
        }
    }

    pub fn outcomes(self, printed: &str) -> BTreeMap<String, Outcome> {
        match self {
            Harness::Libtest => libtest(printed),
            Harness::Go => go(printed),
        }
    }
}

/// `test NAME ... ok`; what a failure said comes at the end, below `---- NAME stdout ----`.
fn libtest(printed: &str) -> BTreeMap<String, Outcome> {
    let message = |name: &str| {
        let head = format!("---- {name} stdout ----\n");
        let said = printed.split_once(&head).map_or("", |(_, after)| after);
        one_line(said.trim_start().lines().take_while(|line| !line.starts_with("note: run with")))
    };
    let outcome = |line: &str| {
        let (name, word) = line.strip_prefix("test ")?.split_once(" ... ")?;
        let outcome = match word.split([' ', ',']).next()? {
            "ok" => Outcome::Passed,
            "ignored" => Outcome::Skipped,
            "FAILED" => Outcome::Failed(message(name)),
            _ => return None,
        };
        Some((name.to_owned(), outcome))
    };
    printed.lines().filter_map(outcome).collect()
}

/// `--- PASS: NAME (0.01s)`; what a test said comes between `=== RUN   NAME` and that line. A panic ends the whole program, and the test with it.
fn go(printed: &str) -> BTreeMap<String, Outcome> {
    let mut outcomes = BTreeMap::new();
    let (mut running, mut said) = ("", Vec::new());
    for line in printed.lines() {
        let ended = |word: &str| line.trim_start().strip_prefix(word)?.split_whitespace().next();
        if let Some(name) = line.strip_prefix("=== RUN ").or_else(|| line.strip_prefix("=== CONT ")) {
            (running, said) = (name.trim(), Vec::new());
        } else if let Some(name) = ended("--- PASS: ") {
            outcomes.insert(name.to_owned(), Outcome::Passed);
        } else if let Some(name) = ended("--- SKIP: ") {
            outcomes.insert(name.to_owned(), Outcome::Skipped);
        } else if let Some(name) = ended("--- FAIL: ") {
            outcomes.insert(name.to_owned(), Outcome::Failed(one_line(said.iter().copied())));
        } else if line.starts_with("panic: ") {
            outcomes.insert(running.to_owned(), Outcome::Failed(line.to_owned()));
        } else {
            said.push(line);
        }
    }
    outcomes
}

fn one_line<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let words = lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
    words.chars().take(MESSAGE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<const N: usize>(expected: [(&str, Outcome); N]) -> BTreeMap<String, Outcome> {
        expected.map(|(name, outcome)| (name.to_owned(), outcome)).into()
    }

    #[test]
    fn what_libtest_prints() {
        let text = "running 4 tests\ntest a ... ok\ntest b::c ... FAILED\ntest d ... ignored, no socket\ntest e ... \n\n\
                    failures:\n\n---- b::c stdout ----\n\nthread 'b::c' panicked at x.rs:1:2:\nit was 2\n\
                    note: run with `RUST_BACKTRACE=1`\n\nfailures:\n    b::c\n";
        let failed = Outcome::Failed("thread 'b::c' panicked at x.rs:1:2: it was 2".to_owned());
        let expected = [("a", Outcome::Passed), ("b::c", failed), ("d", Outcome::Skipped)];
        assert_eq!(libtest(text), named(expected));
    }

    #[test]
    fn what_go_prints() {
        let text = "=== RUN   TestA\n--- PASS: TestA (0.00s)\n=== RUN   TestB\n=== RUN   TestB/one\n    b_test.go:3: it was 2\n\
                    --- FAIL: TestB (0.10s)\n    --- FAIL: TestB/one (0.10s)\n=== RUN   TestC\n    c_test.go:1: no\n\
                    --- SKIP: TestC (0.00s)\n=== RUN   TestD\npanic: lost [recovered]\n";
        let failed = |said: &str| Outcome::Failed(said.to_owned());
        let expected = [
            ("TestA", Outcome::Passed),
            ("TestB", failed("b_test.go:3: it was 2")),
            ("TestB/one", failed("b_test.go:3: it was 2")),
            ("TestC", Outcome::Skipped),
            ("TestD", failed("panic: lost [recovered]")),
        ];
        assert_eq!(go(text), named(expected));
    }
}
