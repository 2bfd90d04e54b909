//! Measurements, always on the release profile.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{setup, shell};

/// Debian's own, with the libraries of HAProxy that a machine without it lacks.
const DEBIAN: [&str; 5] =
    ["etcd-server", "haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"];
/// The user postgres runs it, so Debian's Python and not one from somebody's home.
const PYTHON: &str = "/usr/bin/python3";

pub fn bench(arguments: &[String]) -> Result<()> {
    match arguments.split_first() {
        Some((name, rest)) if name == "failover" => failover(rest),
        Some((name, _)) => bail!("there is no bench \"{name}\"; there is: failover"),
        None => {
            bail!("which bench? cargo xtask bench failover [--runs 20] [--only EVENT,…] [--versus patroni]")
        }
    }
}

fn failover(arguments: &[String]) -> Result<()> {
    setup::postgres()?;
    setup::namespaces()?;
    shell::cargo(&["build", "--release", "--package", "pgherd", "--package", "tests", "--bins"])?;
    if arguments.iter().any(|word| word.starts_with("--versus")) {
        patroni(&shell::target_dir().join("bench"))?;
    }
    shell::run(Command::new(shell::target_dir().join("release/failover")).args(arguments))
}

/// Puts the newest Patroni, etcd and HAProxy under target/bench: nothing is installed, so nothing of them starts by itself.
fn patroni(bench: &Path) -> Result<()> {
    let (venv, debian) = (bench.join("venv"), bench.join("debian"));
    let root = debian.join("root");
    if !root.join("usr/sbin/haproxy").is_file() || !root.join("usr/bin/etcd").is_file() {
        fs::create_dir_all(&debian)?;
        shell::run(Command::new("apt-get").arg("download").args(DEBIAN).current_dir(&debian))?;
        for entry in fs::read_dir(&debian)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "deb") {
                shell::run(Command::new("dpkg").arg("-x").args([&path, &root]))?;
            }
        }
    }
    if !venv.join("bin/patroni").is_file() {
        shell::run(Command::new(PYTHON).args(["-m", "venv"]).arg(&venv))
            .context("a virtual environment needs Debian's python3-venv")?;
    }
    let mut pip = Command::new(venv.join("bin/pip"));
    shell::run(pip.args(["install", "--quiet", "--upgrade", "patroni[etcd3]", "psycopg[binary]"]))
}
