//! The test suites of PostgreSQL drivers, and the drivers that ship none, fetched for the tests through the proxy.
//!
//! What it is: wheels in a virtual environment of Debian's Python, and beside them the suites out of the source packages of the same
//! versions; packages of npm in a folder; one Debian package, unpacked. What it is not: an installation; nothing outside
//! `target/drivers` is touched. Invariant: what is in `target/drivers/fetched` is whole and of the versions named here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{setup, shell};

/// Debian's own: one from somebody's home is built without some of the modules that the suites want.
const PYTHON: &str = "/usr/bin/python3";
/// Drivers whose source packages have their suites: the version, and the folder with the tests.
const SUITES: [(&str, &str, &str); 3] =
    [("psycopg2", "2.9.13", "tests"), ("asyncpg", "0.32.0", "tests"), ("pg8000", "1.31.6", "test")];
const WHEELS: [&str; 14] = [
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
];
const NODE: [&str; 2] = ["pg@8", "postgres@3"];
const JDBC: &str = "libpostgresql-jdbc-java";

/// `test drivers …`: the arguments pass through to the program of that name.
pub fn drivers(arguments: &[String]) -> Result<()> {
    setup::all()?;
    let fetched = fetched()?;
    let mut program = shell::program_of_tests("drivers")?;
    program
        .arg("--fetched")
        .arg(&fetched)
        .arg("--programs")
        .arg(shell::root().join("tests/drivers/programs"));
    shell::run(program.args(arguments))
}

/// The folder with all of it; it is fetched unless it is there already.
fn fetched() -> Result<PathBuf> {
    let place = std::path::absolute(shell::target_dir())?.join("drivers");
    let (fetched, versions) = (place.join("fetched"), versions());
    if fs::read_to_string(fetched.join("versions")).is_ok_and(|there| there == versions) {
        return Ok(fetched);
    }
    println!("Fetching drivers and their test suites.");
    if fetched.exists() {
        fs::remove_dir_all(&fetched).with_context(|| format!("remove {}", fetched.display()))?;
    }
    fs::create_dir_all(&fetched)?;
    // A virtual environment names its own path, so it is made where it stays; `versions` comes last.
    python(&fetched)?;
    node(&fetched)?;
    jdbc(&fetched)?;
    fs::write(fetched.join("versions"), versions)?;
    Ok(fetched)
}

fn versions() -> String {
    let words = WHEELS.iter().chain(&NODE).chain([&JDBC]).map(|word| format!("{word}\n"));
    words.chain(SUITES.map(|(name, version, _)| format!("{name} {version}\n"))).collect()
}

fn python(fetched: &Path) -> Result<()> {
    let venv = fetched.join("venv");
    shell::run(Command::new(PYTHON).args(["-m", "venv"]).arg(&venv))
        .context("a virtual environment needs Debian's python3-venv")?;
    let pip = || {
        let mut pip = Command::new(venv.join("bin/pip"));
        pip.args(["--quiet", "--disable-pip-version-check"]);
        pip
    };
    shell::run(pip().args(["install", "--only-binary=:all:"]).args(WHEELS))?;
    for (name, version, tests) in SUITES {
        let sources = fetched.join("sources").join(name);
        let mut download = pip();
        download.args(["download", "--no-deps", "--no-binary", name, "--dest"]).arg(&sources);
        shell::run(download.arg(format!("{name}=={version}")))?;
        unpack(&sources, &fetched.join(name), tests)?;
    }
    fs::remove_dir_all(fetched.join("sources")).context("remove the archives")
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

fn node(fetched: &Path) -> Result<()> {
    if !shell::has_program("npm") {
        println!("There is no npm here: node-postgres and postgres.js are left out.");
        return Ok(());
    }
    let folder = fetched.join("node");
    fs::create_dir_all(&folder)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
    shell::run(npm.arg(&folder).args(NODE))
}

fn jdbc(fetched: &Path) -> Result<()> {
    if !shell::has_program("java") {
        println!("There is no java here: JDBC is left out.");
        return Ok(());
    }
    let folder = fetched.join("jdbc");
    fs::create_dir_all(&folder)?;
    shell::run(Command::new("apt-get").args(["--quiet", "download", JDBC]).current_dir(&folder))?;
    let debs = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let deb = debs.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    let deb = deb.with_context(|| format!("apt-get left nothing in {}", folder.display()))?;
    shell::run(Command::new("dpkg").arg("-x").args([&deb, &folder]))
}
