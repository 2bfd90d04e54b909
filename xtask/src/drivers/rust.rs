//! Rust: the suite that the published tokio-postgres has, built in a package of ours (`tests/drivers/tokio_postgres`).

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Part;
use crate::shell;

pub const PART: Part = Part { name: "rust", needs: "cargo", suites: "tokio-postgres", versions, fetch };

const MANIFEST: &str = include_str!("../../../tests/drivers/tokio_postgres/Cargo.toml");
const SERVER: &str = include_str!("../../../tests/drivers/tokio_postgres/server.rs");
/// The suite as its manifest names it.
const PACKAGE: &str = "tokio-postgres-0.7.18";
/// Its own texts say port 5433: a file, what it calls, and what it is to call.
const CALLS: [(&str, &str, &str); 2] = [
    ("main.rs", r#"TcpStream::connect("127.0.0.1:5433")"#, "TcpStream::connect(server::address())"),
    ("runtime.rs", "tokio_postgres::connect(", "server::connect("),
];

fn versions() -> String {
    format!("{PACKAGE}\n{MANIFEST}{SERVER}")
}

fn fetch(folder: &Path) -> Result<()> {
    let package = folder.join("package");
    fs::create_dir_all(&package)?;
    fs::write(package.join("Cargo.toml"), MANIFEST)?;
    fs::write(package.join("server.rs"), SERVER)?;
    // The versions that this workspace has, as far as it has them.
    fs::copy(shell::root().join("Cargo.lock"), package.join("Cargo.lock"))?;
    let tests = published(&package)?.join("tests/test");
    shell::run(Command::new("cp").arg("-r").args([&tests, &package.join("test")]))?;
    for (file, ours, theirs) in CALLS.map(|(file, calls, instead)| (file, instead, calls)) {
        let path = package.join("test").join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        ensure!(text.contains(theirs), "{} no longer calls {theirs}", path.display());
        fs::write(&path, text.replace(theirs, ours))?;
    }
    let built = package.join("target");
    let mut cargo = cargo(&package);
    shell::run(cargo.args(["test", "--quiet", "--no-run", "--test", "suite", "--target-dir"]).arg(&built))?;
    fs::rename(program(&built.join("debug/deps"))?, folder.join("suite"))?;
    fs::remove_dir_all(&package).context("remove what the suite was built of")
}

fn cargo(package: &Path) -> Command {
    let mut cargo = shell::cargo_command();
    cargo.current_dir(package).env("RUSTFLAGS", "--cap-lints=allow");
    cargo
}

/// Where cargo keeps the package as it was published.
fn published(package: &Path) -> Result<PathBuf> {
    let output =
        cargo(package).args(["metadata", "--format-version", "1"]).output().context("start cargo")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let end = format!("/{PACKAGE}/Cargo.toml");
    let manifest = text.split('"').find(|word| word.ends_with(&end));
    let manifest = manifest.with_context(|| format!("cargo knows no {end}"))?;
    Ok(Path::new(manifest).with_file_name(""))
}

/// What cargo has built has a number in its name.
fn program(folder: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_program = |path: &PathBuf| {
        path.extension() != Some(OsStr::new("d"))
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("suite-"))
    };
    let mut found = files.into_iter().filter(is_program);
    found.next().with_context(|| format!("cargo left no suite in {}", folder.display()))
}
