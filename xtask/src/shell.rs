//! Running other programs: cargo, apt-get, our own binaries.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace's folder: the parent of this crate's.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs cargo in the workspace, its output going where ours goes.
pub fn cargo<S: AsRef<OsStr>>(arguments: &[S]) -> Result<()> {
    run(cargo_command().args(arguments))
}

/// The cargo that runs us.
pub fn cargo_command() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// One of the programs of the package `tests`, built together with pgherd.
pub fn program_of_tests(name: &str) -> Result<Command> {
    cargo(&["build", "--package", "pgherd", "--package", "tests", "--bin", "pgherd", "--bin", name])?;
    Ok(Command::new(target_dir().join("debug").join(name)))
}

/// Runs a command to its end; anything but success is an error that names it.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    println!("$ {shown}");
    let status = command.status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

/// Puts the program in our place, so that signals and the exit code are its own.
pub fn become_program(program: &Path, task: &str, arguments: &[String]) -> Result<()> {
    let error = Command::new(program).arg(task).args(arguments).exec();
    Err(error).with_context(|| format!("start {}", program.display()))
}

pub fn is_root() -> bool {
    output_of(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0")
}

/// True when `program` is somewhere in PATH.
pub fn has_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// A command as root: as it is for root, through sudo for others.
pub fn as_root(program: &str) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if !has_program("sudo") {
        bail!("{program} needs root and there is no sudo; run this task once as root");
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}

fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
