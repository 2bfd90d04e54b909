//! Measurements, always on the release profile.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{self, HAPROXY};
use crate::shell;

const PGBOUNCER: [&str; 3] = ["pgbouncer", "libevent-2.1-7", "libc-ares2"];
const ETCD: [&str; 1] = ["etcd-server"];
/// The user postgres runs it, so Debian's Python and not one from somebody's home.
const PYTHON: &str = "/usr/bin/python3";

pub fn bench(arguments: &[String]) -> Result<()> {
    match arguments.split_first() {
        Some((name, rest)) if name == "failover" => failover(rest),
        Some((name, rest)) if name == "proxy" => proxy(rest),
        Some((name, _)) => bail!("there is no bench \"{name}\"; there are: failover, proxy"),
        None => bail!(
            "which bench? cargo xtask bench failover [--runs 20] [--only EVENT,…] [--versus patroni]\n             \
             cargo xtask bench proxy [--rounds 5] [--versus pgbouncer,haproxy]"
        ),
    }
}

fn failover(arguments: &[String]) -> Result<()> {
    setup::all()?;
    setup::namespaces()?;
    shell::cargo(&["build", "--release", "--package", "pgherd", "--package", "tests", "--bins"])?;
    if compares(arguments) {
        patroni(&shell::target_dir().join("bench"))?;
    }
    shell::run(Command::new(shell::target_dir().join("release/failover")).args(arguments))
}

fn proxy(arguments: &[String]) -> Result<()> {
    setup::all()?;
    if arguments.iter().any(|word| word == "--strace") {
        setup::strace()?;
    }
    shell::cargo(&["build", "--release", "--package", "pgherd", "--package", "tests", "--bins"])?;
    if compares(arguments) {
        let packages = [HAPROXY.as_slice(), &PGBOUNCER].concat();
        debian(&shell::target_dir().join("bench"), &packages, &["usr/sbin/haproxy", "usr/sbin/pgbouncer"])?;
    }
    shell::run(Command::new(shell::target_dir().join("release/proxy")).args(arguments))
}

fn compares(arguments: &[String]) -> bool {
    arguments.iter().any(|word| word.starts_with("--versus"))
}

/// Unpacks these packages under `bench` unless their `programs` are there: nothing is installed, so nothing of them starts by itself.
fn debian(bench: &Path, packages: &[&str], programs: &[&str]) -> Result<()> {
    let folder = bench.join("debian");
    let root = folder.join("root");
    if programs.iter().all(|program| root.join(program).is_file()) {
        return Ok(());
    }
    fs::create_dir_all(&folder)?;
    shell::run(Command::new("apt-get").arg("download").args(packages).current_dir(&folder))?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            shell::run(Command::new("dpkg").arg("-x").args([&path, &root]))?;
        }
    }
    Ok(())
}

/// Puts the newest Patroni, etcd and HAProxy under target/bench.
fn patroni(bench: &Path) -> Result<()> {
    let venv = bench.join("venv");
    debian(bench, &[HAPROXY.as_slice(), &ETCD].concat(), &["usr/sbin/haproxy", "usr/bin/etcd"])?;
    if !venv.join("bin/patroni").is_file() {
        shell::run(Command::new(PYTHON).args(["-m", "venv"]).arg(&venv))
            .context("a virtual environment needs Debian's python3-venv")?;
    }
    let mut pip = Command::new(venv.join("bin/pip"));
    shell::run(pip.args(["install", "--quiet", "--upgrade", "patroni[etcd3]", "psycopg[binary]"]))
}
