//! Whether a test's result through the proxy is the one that the client would have got without.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::accepted::Difference;
use crate::pass::{End, Mode, Pass};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Same,
    /// With the reason.
    Accepted(String),
    Different,
    Stuck,
    /// The direct run has no result to compare with.
    NotCompared,
}

/// All tests of a pass, and the accepted differences that did not occur.
pub struct Verdicts {
    pub mode: Mode,
    pub tests: Vec<(String, Verdict)>,
    pub unused: Vec<String>,
}

impl Verdicts {
    pub fn count(&self, matches: impl Fn(&Verdict) -> bool) -> usize {
        self.tests.iter().filter(|(_, verdict)| matches(verdict)).count()
    }

    pub fn failed(&self) -> Vec<&str> {
        let bad =
            |verdict: &Verdict| matches!(verdict, Verdict::Different | Verdict::Stuck | Verdict::NotCompared);
        self.tests.iter().filter(|(_, verdict)| bad(verdict)).map(|(test, _)| test.as_str()).collect()
    }
}

/// Leaves a diff beside each result that is another than the direct one.
pub fn compare(direct: &Pass, pass: &Pass, accepted: &[Difference], expected: &Path) -> Result<Verdicts> {
    let mut verdicts = Verdicts { mode: pass.mode, tests: Vec::new(), unused: Vec::new() };
    for (test, outcome) in &pass.outcomes {
        let entry = accepted.iter().find(|entry| entry.test == *test && entry.is_of(pass.mode));
        let verdict = match (outcome.end, direct.outcomes.get(test).map(|outcome| outcome.end)) {
            (End::Stuck, _) => Verdict::Stuck,
            (End::Exited, Some(End::Exited)) => judge(direct, pass, test, entry, expected)?,
            (End::Exited, _) => Verdict::NotCompared,
        };
        if let Some(entry) = entry
            && verdict == Verdict::Same
        {
            verdicts.unused.push(format!("{} ({})", entry.test, entry.reason));
        }
        verdicts.tests.push((test.clone(), verdict));
    }
    Ok(verdicts)
}

fn judge(
    direct: &Pass,
    pass: &Pass,
    test: &str,
    entry: Option<&Difference>,
    expected: &Path,
) -> Result<Verdict> {
    let (theirs, ours) = (direct.out(test), pass.out(test));
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let result = read(&ours)?;
    if result == read(&theirs)? || is_expected(&result, test, expected) {
        return Ok(Verdict::Same);
    }
    let output = Command::new("diff").arg("-aU3").args([&theirs, &ours]).output().context("start diff")?;
    fs::write(ours.with_extension("diff"), &output.stdout)?;
    let changed = changed_lines(&String::from_utf8_lossy(&output.stdout));
    Ok(match entry.filter(|entry| entry.covers(&changed)) {
        Some(entry) => Verdict::Accepted(entry.reason.clone()),
        None => Verdict::Different,
    })
}

/// A test may print one of a few things by chance, as which of two sessions was first; then PostgreSQL has them all.
pub fn is_expected(result: &[u8], test: &str, expected: &Path) -> bool {
    let body = result.strip_suffix(b"-- exit status: 0\n").unwrap_or(result);
    let variants = std::iter::once(String::new()).chain((0..10).map(|number| format!("_{number}")));
    variants
        .map(|variant| expected.join(format!("{test}{variant}.out")))
        .any(|path| fs::read(path).is_ok_and(|text| text == body))
}

/// Lines that begin with + or -, without the two of the head.
fn changed_lines(diff: &str) -> BTreeSet<String> {
    let lines = diff.lines().skip(2).filter(|line| line.starts_with(['+', '-']));
    lines.map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_and_the_surroundings_of_a_difference_are_no_changes() {
        let diff = "--- a\n+++ b\n@@ -1,2 +1,2 @@\n same\n-old\n+new  \n";
        assert_eq!(changed_lines(diff), BTreeSet::from(["+new".to_owned(), "-old".to_owned()]));
    }
}
