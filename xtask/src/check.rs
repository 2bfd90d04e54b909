//! The tests and what CI adds to them.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{drivers, majors, regress, setup, shell, tidy};

/// So many worlds pass before a change is good; a hundred or two a second, so two or three minutes.
const SEEDS: &str = "20000";
/// Each test of real processes runs three servers: more at once only wait for each other on two cores.
const CLUSTERS_AT_ONCE: &str = "2";
/// The same schedule each time, so that what a change breaks is that change's; other seeds are met by `cargo xtask chaos`.
/// This one has seventeen kinds of fault, of all that there are in a minute the most (`tests/chaos/schedule.rs` holds it
/// to that). With the ending and its checks some two minutes in all.
const CHAOS: [&str; 6] = ["--seed", "364978", "--seconds", "60", "--baseline", "15"];
/// Names the directory of PostgreSQL's programs to the tests of real servers.
const TEST_BIN: &str = "PGHERD_TEST_BIN";

/// The unit tests that start real servers are among these: a package, and a filter of its tests.
const REAL_SERVERS: [(&str, &str); 2] = [("pgherd", "postgres::"), ("proxy", "tests::")];

/// What `test` was asked for.
#[derive(Default, PartialEq, Eq, Debug)]
struct Wanted {
    without_setup: bool,
    major: Option<u32>,
    filter: Option<String>,
}

impl Wanted {
    fn parse(arguments: &[String]) -> Result<Wanted> {
        let mut wanted = Wanted::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--no-setup" => wanted.without_setup = true,
                "--major" => wanted.major = Some(major(arguments.next())?),
                flag if flag.starts_with("--major=") => {
                    wanted.major = Some(major(flag.split_once('=').map(|(_, value)| value))?);
                }
                flag if flag.starts_with('-') => {
                    bail!("cargo xtask test knows no {flag}, only --no-setup, --major and a filter")
                }
                name if wanted.filter.is_none() => wanted.filter = Some(name.to_owned()),
                extra => bail!("one filter at a time, and \"{extra}\" is the second"),
            }
        }
        if wanted.without_setup && wanted.major.is_some() {
            bail!(
                "--major fetches a server and --no-setup forbids that; with a server of your own, type: \
                   PGHERD_TEST_BIN=DIR cargo test --package tests"
            );
        }
        Ok(wanted)
    }
}

fn major(value: Option<impl AsRef<str>>) -> Result<u32> {
    let value = value.as_ref().map_or("", AsRef::as_ref);
    value.parse().with_context(|| format!("--major wants a major version, 15 to 18, not \"{value}\""))
}

/// `test [--no-setup] [--major N] [filter]`: everything, or what the filter names; the simulator's seeds when nothing
/// is filtered. With a major only the tests that start real servers: nothing else depends on it.
pub fn test(arguments: &[String]) -> Result<()> {
    let wanted = Wanted::parse(arguments)?;
    let filter: Vec<&str> = wanted.filter.as_deref().into_iter().collect();
    if let Some(major) = wanted.major {
        return test_on(major, &filter);
    }
    if !wanted.without_setup {
        setup::all()?;
        setup::strace()?;
        setup::browser()?;
    }
    // The tests of real processes start this binary; cargo builds it for them only when told.
    shell::cargo(&["build", "--package", "pgherd"])?;
    let units = ["test", "--workspace", "--exclude", "tests"];
    shell::cargo(&[units.as_slice(), &filter].concat())?;
    if filter.is_empty() {
        sim(&["--seeds".to_owned(), SEEDS.to_owned()])?;
        sim(&["--mutations".to_owned()])?;
        sim(&["--crash-steps".to_owned()])?;
        worlds(&[])?;
        worlds(&["--deviations".to_owned()])?;
    }
    shell::run(&mut clusters(&filter))?;
    if filter.is_empty() {
        regress::bounded(!wanted.without_setup)?;
        drivers::bounded(!wanted.without_setup)?;
        chaos_with(&CHAOS, !wanted.without_setup)?;
    }
    Ok(())
}

/// `chaos …`: a real cluster under faults; the arguments pass through.
pub fn chaos(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    chaos_with(&arguments, true)
}

fn chaos_with(arguments: &[&str], setup: bool) -> Result<()> {
    if setup {
        setup::all()?;
        setup::namespaces()?;
    }
    shell::cargo(&["build", "--package", "pgherd", "--package", "tests", "--bins"])?;
    shell::run(Command::new(shell::target_dir().join("debug/chaos")).args(arguments))
}

/// The tests that start real servers, on servers of this major.
fn test_on(major: u32, filter: &[&str]) -> Result<()> {
    let bin = majors::bin_dir(major)?;
    println!("PostgreSQL {major} is in {}", bin.display());
    setup::browser()?;
    shell::cargo(&["build", "--package", "pgherd"])?;
    for (package, tests) in REAL_SERVERS {
        let tests = if filter.is_empty() { &[tests] } else { filter };
        let mut units = shell::cargo_command();
        units.args(["test", "--package", package, "--"]).args(tests);
        shell::run(units.env(TEST_BIN, &bin))?;
    }
    shell::run(clusters(filter).env(TEST_BIN, &bin))
}

fn clusters(filter: &[&str]) -> Command {
    let mut cargo = shell::cargo_command();
    cargo.args(["test", "--package", "tests", "--test", "it"]);
    // These programs' own tests: checkers, verdicts, arguments.
    cargo.args(["--bin", "chaos", "--bin", "regress", "--bin", "drivers"]).args(filter);
    cargo.args(["--", "--test-threads", CLUSTERS_AT_ONCE]);
    cargo
}

/// The simulator's own arguments pass through. The dev profile optimises the pure crates and the simulator.
pub fn sim(arguments: &[String]) -> Result<()> {
    // The brain's deliberate faults exist only where they are asked for.
    let faulty =
        |argument: &String| ["--mutations", "--survey", "--mutant", "--list"].contains(&argument.as_str());
    let build = ["build", "--package", "sim", "--bins"];
    let features: &[&str] = if arguments.iter().any(faulty) { &["--features", "sim/mutations"] } else { &[] };
    shell::cargo(&[build.as_slice(), features].concat())?;
    shell::run(Command::new(shell::target_dir().join("debug/sim")).args(arguments))
}

/// The exhaustive model, with the brain's deliberate faults at hand and off unless one is asked for.
pub fn worlds(arguments: &[String]) -> Result<()> {
    shell::cargo(&["build", "--package", "sim", "--features", "sim/mutations", "--bins"])?;
    shell::run(Command::new(shell::target_dir().join("debug/worlds")).args(arguments))
}

pub fn ci() -> Result<()> {
    shell::cargo(&["fmt", "--all", "--check"])?;
    tidy::tidy()?;
    setup::parser()?;
    shell::cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"])?;
    test(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Wanted> {
        Wanted::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_arguments_of_test() {
        assert_eq!(parse("").unwrap(), Wanted::default());
        let wanted = Wanted { major: Some(18), filter: Some("bad_input".into()), without_setup: false };
        for line in ["--major 18 bad_input", "bad_input --major=18"] {
            assert_eq!(parse(line).unwrap(), wanted);
        }
        for wrong in ["--major", "--major new", "--mayor 18", "a b", "--no-setup --major 18"] {
            parse(wrong).unwrap_err();
        }
    }
}
