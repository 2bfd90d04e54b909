//! `cargo xtask test drivers`: the test suites of PostgreSQL drivers through the proxy.
//!
//! ```text
//! suites ─► pass: direct, through the proxy ─► verdict (accepted.toml) ─► table, target/drivers
//! ```
//!
//! A pass is a new server as the single node of a cluster, and one suite against one of its ports, in the same environment. Some
//! suites are the drivers' own; where a driver ships none, a program of ours does with it what people do.
//! Invariant: a test that passes direct passes through the proxy too, or `accepted.toml` names it with what it then says;
//! everything else, and a suite that does not end, fails the run.

mod accepted;
mod harness;
mod lines;
mod options;
mod pass;
mod suite;
mod verdict;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tests::bench;

use crate::options::Options;
use crate::pass::Way;
use crate::suite::{Claim, Suite};
use crate::verdict::{Verdict, Verdicts};

fn main() -> ExitCode {
    bench::main(options::USAGE, Options::parse, |options, _| run(options))
}

fn run(options: &Options) -> Result<()> {
    let accepted = accepted::list()?;
    let kept = options.fetched.parent().context("a folder above what was fetched")?;
    println!("{}", bench::machine_line()?);
    let mut table = row(["driver", "tests", "passed", "same", "accepted", "different", "seconds"]);
    let mut all = Vec::new();
    for suite in suite::chosen(&options.only, options.bounded)? {
        if !suite.is_here(options) {
            println!("{}: left out, what it needs was not fetched", suite.name);
            continue;
        }
        let verdicts = compare(suite, options, &accepted, kept)?;
        table.push_str(&verdicts.row());
        tell(&verdicts, kept);
        all.push(verdicts);
    }
    println!("\n{table}");
    fs::write(kept.join("summary.txt"), &table)?;
    match all.iter().map(|verdicts| verdicts.failed()).sum() {
        0 => Ok(()),
        count => bail!("{count} tests pass direct and not through the proxy; see above"),
    }
}

fn compare(
    suite: &Suite,
    options: &Options,
    accepted: &[accepted::Difference],
    kept: &Path,
) -> Result<Verdicts> {
    let direct = match suite.claim {
        Claim::AsDirect => Some(pass::run(suite, Way::Direct, options, kept)?),
        Claim::Passes => None,
    };
    let through = pass::run(suite, options.way, options, kept)?;
    Ok(verdict::compare(suite.name, direct.as_ref(), &through, accepted))
}

impl Verdicts {
    fn row(&self) -> String {
        let count = |matches: fn(&Verdict) -> bool| self.count(matches).to_string();
        row([
            self.driver,
            &self.tests.len().to_string(),
            &self.passed_direct.to_string(),
            &count(|verdict| *verdict == Verdict::Same),
            &count(|verdict| matches!(verdict, Verdict::Accepted(_))),
            &count(|verdict| matches!(verdict, Verdict::Different(_))),
            &format!("{:.0} + {:.0}", self.took[0].as_secs_f64(), self.took[1].as_secs_f64()),
        ])
    }
}

fn row([driver, tests, passed, same, accepted, different, seconds]: [&str; 7]) -> String {
    format!("{driver:14} {tests:>6} {passed:>7} {same:>6} {accepted:>9} {different:>10} {seconds:>11}\n")
}

/// Names what is not the same, with what it said.
fn tell(verdicts: &Verdicts, kept: &Path) {
    let driver = verdicts.driver;
    for (test, verdict) in &verdicts.tests {
        match verdict {
            Verdict::Same => {}
            Verdict::Accepted(reason) => println!("{driver}: {test}: accepted: {reason}"),
            Verdict::Different(said) => println!("{driver}: {test}: DIFFERENT: {said}"),
        }
    }
    verdicts.unused.iter().for_each(|test| println!("{driver}: accepted, but not different now: {test}"));
    if verdicts.failed() > 0 {
        println!("{driver}: what it printed is in {}", kept.join(driver).display());
    }
}
