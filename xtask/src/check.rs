//! The tests and what CI adds to them.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{setup, shell, tidy};

/// So many worlds pass before a change is good; some thousand a second, so well below a minute.
const SEEDS: &str = "20000";
/// Each test of real processes runs three servers: more at once only wait for each other on two cores.
const CLUSTERS_AT_ONCE: &str = "2";

/// `test [--no-setup] [filter]`: everything, or what the filter names; the simulator's seeds when nothing is filtered.
pub fn test(arguments: &[String]) -> Result<()> {
    let mut filter = None;
    let mut with_setup = true;
    for argument in arguments {
        match argument.as_str() {
            "--no-setup" => with_setup = false,
            flag if flag.starts_with('-') => {
                bail!("cargo xtask test knows no {flag}, only --no-setup and a filter")
            }
            name if filter.is_none() => filter = Some(name),
            extra => bail!("one filter at a time, and \"{extra}\" is the second"),
        }
    }
    if with_setup {
        setup::postgres()?;
    }
    // The tests of real processes start this binary; cargo builds it for them only when told.
    shell::cargo(&["build", "--package", "pgherd"])?;
    let filter: Vec<&str> = filter.into_iter().collect();
    let units = ["test", "--workspace", "--exclude", "tests"];
    shell::cargo(&[units.as_slice(), &filter].concat())?;
    if filter.is_empty() {
        sim(&["--seeds".to_owned(), SEEDS.to_owned()])?;
    }
    let clusters = ["test", "--package", "tests", "--test", "it"];
    let limits = ["--", "--test-threads", CLUSTERS_AT_ONCE];
    shell::cargo(&[clusters.as_slice(), &filter, &limits].concat())
}

/// The simulator's own arguments pass through. The dev profile optimises the pure crates and the simulator.
pub fn sim(arguments: &[String]) -> Result<()> {
    shell::cargo(&["build", "--package", "sim", "--bins"])?;
    shell::run(Command::new(shell::target_dir().join("debug/sim")).args(arguments))
}

pub fn ci() -> Result<()> {
    shell::cargo(&["fmt", "--all", "--check"])?;
    tidy::tidy()?;
    shell::cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"])?;
    test(&[])
}
