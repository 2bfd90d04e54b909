//! PostgreSQL's own regression suite, fetched for the server that is here.
//!
//! What it is: the sources of Debian's package, and of them what the suite needs: its texts, and two files in C that one
//! call of the compiler each makes into `regress.so` and `libpq_pipeline`; headers and static libraries come from Debian's
//! packages, unpacked and not installed. Nothing is configured, and apt's own lists and sources stay as they are.
//! Invariant: what is in `target/regress/suite` is whole and of the version that its file `version` names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::apt::Apt;
use crate::{setup, shell};

/// The one major whose sources Debian 12 has.
const MAJOR: u32 = 15;
const SOURCE: &str = "postgresql-15";
const HEADERS: [&str; 2] = ["postgresql-server-dev-15", "libpq-dev"];
/// Transactions of many sessions on few servers are what a pool can do wrong; a session of its own is the easier half.
const BOUNDED: [&str; 3] = ["--bounded", "--mode", "transaction"];
/// Folders and files of the sources that the suite consists of.
const TAKEN: [&str; 4] = ["sql", "expected", "data", "parallel_schedule"];

/// `test regress …`: the arguments pass through to the program of that name.
pub fn regress(arguments: &[String]) -> Result<()> {
    setup::all()?;
    run(&suite(true)?, arguments)
}

/// The part that belongs to every `cargo xtask test`. Where the suite cannot be had it is left out and said: what Debian
/// keeps and which server a machine has is not what this is to find out.
pub fn bounded(may_fetch: bool) -> Result<()> {
    match suite(may_fetch) {
        Ok(suite) => run(&suite, &BOUNDED.map(str::to_owned)),
        Err(error) => {
            println!("PostgreSQL's regression suite left out: {error:#}");
            Ok(())
        }
    }
}

fn run(suite: &Path, arguments: &[String]) -> Result<()> {
    let mut shim = Command::new("cc");
    shim.args(["-O1", "-Wall", "-fPIC", "-shared", "tests/regress/protocol.c", "-ldl", "-o"]);
    shell::run(shim.arg(suite.join("protocol.so")))?;
    let mut program = shell::program_of_tests("regress")?;
    shell::run(program.arg("--suite").arg(suite).args(arguments))
}

/// The suite's folder; it is fetched unless it is there already.
fn suite(may_fetch: bool) -> Result<PathBuf> {
    let bin = setup::installed_bin(MAJOR).with_context(|| {
        format!("the regression suite is that of PostgreSQL {MAJOR}, which is not installed here")
    })?;
    let place = std::path::absolute(shell::target_dir())?.join("regress");
    let suite = place.join("suite");
    let version = version(&bin)?;
    if fs::read_to_string(suite.join("version")).is_ok_and(|there| there.trim() == version) {
        return Ok(suite);
    }
    ensure!(may_fetch, "it is not fetched, and --no-setup forbids that");
    println!("Fetching the regression suite of PostgreSQL {version} from Debian.");
    let part = place.join("part");
    for old in [&suite, &part] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
        }
    }
    fs::create_dir_all(part.join("suite"))?;
    let apt = Apt::new(&part.join("apt"))?;
    build(&sources(&apt, &version)?, &headers(&apt, &version)?, &part.join("suite"))?;
    fs::write(part.join("suite/version"), &version)?;
    fs::rename(part.join("suite"), &suite).context("move the suite into place")?;
    fs::remove_dir_all(&part).context("remove what the suite was made of")?;
    Ok(suite)
}

/// As Debian writes it: 15.18.
fn version(bin: &Path) -> Result<String> {
    let output = Command::new(bin.join("postgres")).arg("--version").output().context("start postgres")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = said.split_whitespace().nth(2).map(str::to_owned);
    word.with_context(|| format!("no version in \"{}\"", said.trim()))
}

/// The folder of the sources of this version, else of the newest that the archive has: security uploads come without.
fn sources(apt: &Apt, version: &str) -> Result<PathBuf> {
    let exactly = format!("{SOURCE}={version}-0+deb12u1");
    let fetch = |package: &str| shell::run(apt.command().args(["source", "--download-only", package]));
    fetch(&exactly).or_else(|_| fetch(SOURCE)).context("the sources of PostgreSQL from Debian")?;
    let archive = apt.only_file(|name| name.starts_with("postgresql-15_") && name.contains(".orig.tar."))?;
    let sources = apt.folder.join("sources");
    fs::create_dir_all(&sources)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=1", "--no-same-owner", "--file"]).arg(&archive);
    shell::run(tar.arg("--directory").arg(&sources))?;
    Ok(sources)
}

/// The root below which the headers lie, as if installed.
fn headers(apt: &Apt, version: &str) -> Result<PathBuf> {
    let exactly = HEADERS.map(|package| format!("{package}={version}-0+deb12u1"));
    apt.download(&exactly).or_else(|_| apt.download(&HEADERS))?;
    apt.unpack(&HEADERS)
}

fn build(sources: &Path, root: &Path, suite: &Path) -> Result<()> {
    let tests = sources.join("src/test/regress");
    for name in TAKEN {
        shell::run(Command::new("cp").arg("-r").args([&tests.join(name), &suite.join(name)]))?;
    }
    let includes = [
        root.join("usr/include/postgresql"),
        root.join("usr/include/postgresql/15/server"),
        sources.join("src/include"),
    ];
    let cc = || {
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-w"]).args(includes.iter().map(|path| format!("-I{}", path.display())));
        cc
    };
    let mut library = cc();
    library.args(["-fPIC", "-shared"]).arg(tests.join("regress.c"));
    shell::run(library.arg("-o").arg(suite.join("regress.so")))?;
    let mut program = cc();
    program.arg(sources.join("src/test/modules/libpq_pipeline/libpq_pipeline.c"));
    program.arg(format!("-L{}", root.join("usr/lib/postgresql/15/lib").display()));
    program.args(["-lpgfeutils", "-lpgcommon", "-lpgport", "-l:libpq.so.5"]);
    shell::run(program.arg("-o").arg(suite.join("libpq_pipeline")))?;
    match suite.join("sql").is_dir() {
        true => Ok(()),
        false => bail!("{} has no sql", suite.display()),
    }
}
