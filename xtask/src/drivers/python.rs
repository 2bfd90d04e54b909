//! Python: wheels in a virtual environment of Debian's, and beside them the suites out of the source packages of the same versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Part;
use crate::shell;

pub const PART: Part = Part {
    name: "python",
    needs: "python3",
    suites: "psycopg2, asyncpg, pg8000, psycopg, SQLAlchemy, Django and the exporter",
    versions,
    fetch,
};

/// Debian's own: one from somebody's home is built without some of the modules that the suites want.
const PYTHON: &str = "/usr/bin/python3";
/// Drivers whose source packages have their suites: the version, and the folder with the tests.
const SUITES: [(&str, &str, &str); 3] =
    [("psycopg2", "2.9.13", "tests"), ("asyncpg", "0.32.0", "tests"), ("pg8000", "1.31.6", "test")];
const WHEELS: [&str; 16] = [
    "psycopg2-binary==2.9.13",
    "asyncpg==0.32.0",
    "pg8000==1.31.6",
    "psycopg[binary]==3.3.9",
    "SQLAlchemy==2.1.9",
    "Django==5.2.19",
    "pytest==9.2.0",
    "pytest-timeout==2.4.0",
    // What the suites import.
    "distro==1.9.0",
    "uvloop>=0.23",
    "pytest-mock",
    "pytest-benchmark",
    "pytz",
    "python-dateutil",
    // What the exporter imports; it has no wheel that says so.
    "prometheus_client==0.8.0",
    "PyYAML>=5.4.1",
];
/// Source packages of Python alone. The exporter asks for a psycopg2 that this Python cannot build, and gets ours.
const UNBUILT: [&str; 2] = ["prometheus-pgbouncer-exporter==2.1.2", "python-json-logger==0.1.11"];

fn versions() -> String {
    let words = WHEELS.iter().chain(&UNBUILT).map(|word| format!("{word}\n"));
    words.chain(SUITES.map(|(name, version, _)| format!("{name} {version}\n"))).collect()
}

fn fetch(folder: &Path) -> Result<()> {
    let venv = folder.join("venv");
    shell::run(Command::new(PYTHON).args(["-m", "venv"]).arg(&venv))
        .context("a virtual environment needs Debian's python3-venv")?;
    let pip = || {
        let mut pip = Command::new(venv.join("bin/pip"));
        pip.args(["--quiet", "--disable-pip-version-check"]);
        pip
    };
    shell::run(pip().args(["install", "--only-binary=:all:"]).args(WHEELS))?;
    shell::run(pip().args(["install", "--no-deps"]).args(UNBUILT))?;
    for (name, version, tests) in SUITES {
        let sources = folder.join("sources").join(name);
        let mut download = pip();
        download.args(["download", "--no-deps", "--no-binary", name, "--dest"]).arg(&sources);
        shell::run(download.arg(format!("{name}=={version}")))?;
        unpack(&sources, &folder.join(name), tests)?;
    }
    fs::remove_dir_all(folder.join("sources")).context("remove the archives")
}

/// Only the tests: a driver's sources beside them would be imported in place of the wheel.
fn unpack(sources: &Path, suite: &Path, tests: &str) -> Result<()> {
    let archives: Vec<PathBuf> =
        fs::read_dir(sources)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let [archive] = &archives[..] else { bail!("not one archive in {}", sources.display()) };
    fs::create_dir_all(suite)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--strip-components=1", "--wildcards", "--file"]).arg(archive);
    shell::run(tar.arg("--directory").arg(suite).arg(format!("*/{tests}")))
}
