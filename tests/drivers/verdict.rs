//! Whether a test that passes direct passes through the proxy.

use std::time::Duration;

use crate::accepted::Difference;
use crate::lines::Outcome;
use crate::pass::Pass;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// What fails direct claims nothing, and neither does what is skipped there.
    Same,
    /// With the reason.
    Accepted(String),
    /// With what it said.
    Different(String),
}

/// All tests of a suite, and the accepted differences that did not occur.
pub struct Verdicts {
    pub driver: &'static str,
    pub tests: Vec<(String, Verdict)>,
    pub passed_direct: usize,
    pub unused: Vec<String>,
    /// By the direct pass, if there is one, and by the other.
    pub took: [Duration; 2],
}

impl Verdicts {
    pub fn count(&self, matches: impl Fn(&Verdict) -> bool) -> usize {
        self.tests.iter().filter(|(_, verdict)| matches(verdict)).count()
    }

    pub fn failed(&self) -> usize {
        self.count(|verdict| matches!(verdict, Verdict::Different(_)))
    }
}

/// Without a direct pass each test is to pass.
pub fn compare(
    driver: &'static str,
    direct: Option<&Pass>,
    through: &Pass,
    accepted: &[Difference],
) -> Verdicts {
    let asked: Vec<(&String, &Outcome)> = match direct {
        Some(direct) => direct.outcomes.iter().collect(),
        None => through.outcomes.keys().map(|test| (test, &Outcome::Passed)).collect(),
    };
    let (mut tests, mut unused) = (Vec::new(), Vec::new());
    for &(test, outcome) in &asked {
        let entry = accepted.iter().find(|entry| entry.is_of(driver, test));
        let verdict = judge(outcome, through.outcomes.get(test), entry);
        if entry.is_some_and(|entry| !entry.by_chance) && verdict == Verdict::Same {
            unused.push(test.clone());
        }
        tests.push((test.clone(), verdict));
    }
    let passed_direct = asked.iter().filter(|(_, outcome)| **outcome == Outcome::Passed).count();
    let took = [direct.map_or(Duration::ZERO, |direct| direct.took), through.took];
    Verdicts { driver, tests, passed_direct, unused, took }
}

fn judge(direct: &Outcome, through: Option<&Outcome>, entry: Option<&Difference>) -> Verdict {
    let said = match (direct, through) {
        (Outcome::Failed(_) | Outcome::Skipped, _) | (Outcome::Passed, Some(Outcome::Passed)) => {
            return Verdict::Same;
        }
        (Outcome::Passed, Some(Outcome::Failed(said))) => said.as_str(),
        (Outcome::Passed, Some(Outcome::Skipped)) => "skipped, and not when it is direct",
        (Outcome::Passed, None) => "it did not come to it",
    };
    match entry.filter(|entry| entry.covers(said)) {
        Some(entry) => Verdict::Accepted(entry.reason.clone()),
        None => Verdict::Different(said.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_test_that_passes_direct_can_be_different() {
        let failed = Outcome::Failed("no".to_owned());
        assert_eq!(judge(&failed, Some(&Outcome::Passed), None), Verdict::Same);
        assert_eq!(judge(&Outcome::Skipped, None, None), Verdict::Same);
        assert_eq!(judge(&Outcome::Passed, Some(&failed), None), Verdict::Different("no".to_owned()));
        assert!(matches!(judge(&Outcome::Passed, None, None), Verdict::Different(_)));
    }
}
