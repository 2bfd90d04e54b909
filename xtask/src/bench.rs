//! Measurements, always on the release profile.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{setup, shell};

pub fn bench(arguments: &[String]) -> Result<()> {
    match arguments.split_first() {
        Some((name, rest)) if name == "failover" => failover(rest),
        Some((name, _)) => bail!("there is no bench \"{name}\"; there is: failover"),
        None => bail!("which bench? cargo xtask bench failover [--runs 20]"),
    }
}

fn failover(arguments: &[String]) -> Result<()> {
    setup::postgres()?;
    shell::cargo(&["build", "--release", "--package", "pgherd", "--package", "tests", "--bins"])?;
    shell::run(Command::new(shell::target_dir().join("release/failover")).args(arguments))
}
