//! The test suites of PostgreSQL drivers, and the drivers that ship none, fetched for the tests through the proxy.
//!
//! What it is: one part for each language, each in a folder of its own. What it is not: an installation; nothing outside
//! `target/drivers` is touched (cargo keeps the packages that it has fetched, as always). Invariant: a part in `target/drivers/fetched` whose `versions` is what the
//! part says is whole.

mod go;
mod jdbc;
mod node;
mod python;
mod rust;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{setup, shell};

/// What one language needs.
struct Part {
    /// Its folder; `tests/drivers/suite.rs` has the same names.
    name: &'static str,
    /// Without this program the machine cannot have it.
    needs: &'static str,
    /// The suites that are left out then.
    suites: &'static str,
    /// Changes with whatever is fetched.
    versions: fn() -> String,
    /// Into its folder, which is there and empty.
    fetch: fn(&Path) -> Result<()>,
}

const PARTS: [Part; 5] = [python::PART, node::PART, jdbc::PART, rust::PART, go::PART];

/// `test drivers …`: the arguments pass through to the program of that name.
pub fn drivers(arguments: &[String]) -> Result<()> {
    setup::all()?;
    for part in &PARTS {
        match shell::has_program(part.needs) {
            true => part.fetched()?,
            false => println!("There is no {} here: {} left out.", part.needs, part.suites),
        }
    }
    run(arguments)
}

/// The suites that are part of every `cargo xtask test`. What cannot be had is left out and said: whether a registry of
/// some language answers is not what this is to find out.
pub fn bounded(may_fetch: bool) -> Result<()> {
    for part in &PARTS {
        if !may_fetch && !part.is_there()? {
            println!("Not fetched, and --no-setup forbids that: {} left out.", part.suites);
        } else if !shell::has_program(part.needs) {
            println!("There is no {} here: {} left out.", part.needs, part.suites);
        } else if let Err(error) = part.fetched() {
            println!("{} left out: {error:#}", part.suites);
        }
    }
    run(&["--bounded".to_owned()])
}

fn run(arguments: &[String]) -> Result<()> {
    let mut program = shell::program_of_tests("drivers")?;
    let fetched = folder()?;
    // It has a place for what is printed also where nothing could be fetched.
    fs::create_dir_all(&fetched).with_context(|| format!("make {}", fetched.display()))?;
    program.arg("--fetched").arg(fetched);
    program.arg("--programs").arg(shell::root().join("tests/drivers/programs"));
    shell::run(program.args(arguments))
}

fn folder() -> Result<PathBuf> {
    Ok(std::path::absolute(shell::target_dir())?.join("drivers/fetched"))
}

impl Part {
    fn is_there(&self) -> Result<bool> {
        let versions = folder()?.join(self.name).join("versions");
        Ok(fs::read_to_string(versions).is_ok_and(|there| there == (self.versions)()))
    }

    /// Fetches it unless it is there already.
    fn fetched(&self) -> Result<()> {
        if self.is_there()? {
            return Ok(());
        }
        println!("Fetching what these need: {}.", self.suites);
        let folder = folder()?.join(self.name);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        fs::create_dir_all(&folder)?;
        // Where it stays: some of it names its own path. So `versions` comes last.
        (self.fetch)(&folder)?;
        fs::write(folder.join("versions"), (self.versions)()).context("note the versions")
    }
}
