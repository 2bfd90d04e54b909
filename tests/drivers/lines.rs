//! What a suite says of its tests: one line for each, whatever language it is written in.
//!
//! `ok NAME`, `skip NAME`, or `not ok NAME<tab>MESSAGE`. Invariant: the last line of a name counts, so that a test which
//! fails in its tear-down has failed.

use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Passed,
    Skipped,
    /// With what it said.
    Failed(String),
}

pub fn parse(text: &str) -> BTreeMap<String, Outcome> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<(String, Outcome)> {
    if let Some(failed) = line.strip_prefix("not ok ") {
        let (name, message) = failed.split_once('\t').unwrap_or((failed, ""));
        return Some((name.to_owned(), Outcome::Failed(message.to_owned())));
    }
    match line.strip_prefix("ok ") {
        Some(name) => Some((name.to_owned(), Outcome::Passed)),
        None => Some((line.strip_prefix("skip ")?.to_owned(), Outcome::Skipped)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_name_counts_and_other_text_is_passed_over() {
        let parsed = parse("hello\nok a b\nskip c\nok d\nnot ok d\tit was 2\n");
        let failed = Outcome::Failed("it was 2".to_owned());
        let expected = [("a b", Outcome::Passed), ("c", Outcome::Skipped), ("d", failed)];
        assert_eq!(parsed, expected.map(|(name, outcome)| (name.to_owned(), outcome)).into());
    }
}
