//! `cargo xtask test regress`: PostgreSQL's own regression suite through the proxy.
//!
//! ```text
//! suite (schedule, libpq_pipeline) ─► pass: direct, session, transaction ─► verdict (accepted) ─► table, target/regress
//! ```
//!
//! A pass is a new server as a single node of a cluster, and every test against one of its ports, in the groups of
//! PostgreSQL's parallel schedule. All tests have the same start-up packet, so their sessions share the servers of one pool.
//! A result is compared with that of the direct pass: what differs is the proxy's doing, or chance.
//! Invariant: a difference that `accepted.toml` does not name, and a test that does not end, fail the run.

mod accepted;
mod options;
mod pass;
mod suite;
mod verdict;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tests::bench;

use crate::options::Options;
use crate::pass::{End, Mode, Pass};
use crate::suite::Suite;
use crate::verdict::{Verdict, Verdicts};

fn main() -> ExitCode {
    bench::main(options::USAGE, Options::parse, |options, _| run(options))
}

fn run(options: &Options) -> Result<()> {
    let suite = Suite::read(&options.suite, options.bounded, &options.tests)?;
    let kept = options.suite.parent().context("a folder above the suite")?;
    let accepted = accepted::list()?;
    println!("{} tests; {}", suite.count(), bench::machine_line()?);
    let pass = |mode| pass::run(&suite, mode, options, kept);
    let direct = pass(Mode::Direct)?;
    let expected = suite.folder.join("expected");
    let mut table = head(&direct, &expected);
    let mut all = Vec::new();
    for &mode in &options.modes {
        let through = pass(mode)?;
        let verdicts = verdict::compare(&direct, &through, &accepted, &expected)?;
        table.push_str(&row(&verdicts, &through));
        all.push(verdicts);
    }
    println!("\n{table}");
    all.iter().for_each(|verdicts| tell(verdicts, kept));
    fs::write(kept.join("summary.txt"), &table)?;
    match all.iter().map(|verdicts| verdicts.failed().len()).sum() {
        0 => Ok(()),
        count => bail!("{count} results differ from the direct run's, or did not come; see above"),
    }
}

fn head(direct: &Pass, expected: &std::path::Path) -> String {
    let is_expected = |test: &String| {
        let result = fs::read(direct.out(test)).unwrap_or_default();
        test.starts_with(suite::PIPELINE) || verdict::is_expected(&result, test, expected)
    };
    let as_expected = direct.outcomes.keys().filter(|test| is_expected(test)).count();
    let stuck = direct.outcomes.values().filter(|outcome| outcome.end == End::Stuck).count();
    let line = ["mode", "tests", "same", "accepted", "different", "stuck", "seconds"];
    let [mode, tests, same, accepted, different, stuck_word, seconds] = line;
    let total = direct.outcomes.len();
    format!(
        "{mode:12} {tests:>6} {same:>6} {accepted:>9} {different:>10} {stuck_word:>6} {seconds:>8}\n\
         {:12} {total:6} {as_expected:6} {:9} {:10} {stuck:6} {:8.0}   (against PostgreSQL's expected files)\n",
        "direct",
        "",
        total - as_expected - stuck,
        direct.took.as_secs_f64()
    )
}

fn row(verdicts: &Verdicts, pass: &Pass) -> String {
    let accepted = verdicts.count(|verdict| matches!(verdict, Verdict::Accepted(_)));
    let different = verdicts.count(|verdict| matches!(verdict, Verdict::Different | Verdict::NotCompared));
    format!(
        "{:12} {:6} {:6} {accepted:9} {different:10} {:6} {:8.0}\n",
        verdicts.mode.name(),
        verdicts.tests.len(),
        verdicts.count(|verdict| *verdict == Verdict::Same),
        verdicts.count(|verdict| *verdict == Verdict::Stuck),
        pass.took.as_secs_f64()
    )
}

/// Names what is not the same, with what to look at.
fn tell(verdicts: &Verdicts, kept: &std::path::Path) {
    let mode = verdicts.mode.name();
    for (test, verdict) in &verdicts.tests {
        match verdict {
            Verdict::Same => {}
            Verdict::Accepted(reason) => println!("{mode}: {test}: accepted: {reason}"),
            Verdict::Stuck => println!("{mode}: {test}: STUCK"),
            Verdict::Different => println!("{mode}: {test}: DIFFERENT"),
            Verdict::NotCompared => println!("{mode}: {test}: the direct run did not end"),
        }
    }
    verdicts.unused.iter().for_each(|entry| println!("{mode}: accepted, but no longer different: {entry}"));
    if !verdicts.failed().is_empty() {
        println!("{mode}: the differences are in {}", kept.join(mode).join("*.diff").display());
    }
}
