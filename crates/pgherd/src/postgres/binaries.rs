//! Which PostgreSQL servers are installed on this machine.
//!
//! Looks in an explicit directory, Debian's `/usr/lib/postgresql/*/bin`, the PATH and `pg_config --bindir`. An installation
//! counts when it has the server and the tools that replication needs, all from one directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::error::{Error, Result};

/// The majors whose control file, history and promotion were tested.
pub const MAJORS: std::ops::RangeInclusive<u32> = 15..=18;

const TOOLS: [&str; 6] = ["postgres", "pg_ctl", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata"];

/// `postgres --version` prints a line and ends; more means a hanging file system.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Installation {
    pub major: u32,
    /// As the server prints it: `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    pub bin_dir: PathBuf,
}

impl Installation {
    pub fn tool(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

/// Nothing usable was found; the text names every place that was searched and what was wrong with it.
#[derive(Debug, thiserror::Error)]
#[error(
    "no usable PostgreSQL (15 to 18) was found; searched: {searched}; install one with: apt-get install postgresql"
)]
pub struct NotFound {
    pub searched: String,
}

/// Every installation, the newest major first. With `explicit` only that directory counts.
pub async fn discover(explicit: Option<&Path>) -> Result<Vec<Installation>, NotFound> {
    let mut found: BTreeMap<PathBuf, Installation> = BTreeMap::new();
    let mut searched = Vec::new();
    let places = match explicit {
        Some(dir) => vec![dir.to_owned()],
        None => usual_places().await,
    };
    for place in places {
        match inspect(&place).await {
            Ok(installation) => {
                let real = std::fs::canonicalize(&place).unwrap_or_else(|_| place.clone());
                found.entry(real).or_insert(installation);
            }
            Err(reason) => searched.push(format!("{} ({reason})", place.display())),
        }
    }
    if found.is_empty() {
        let searched = if searched.is_empty() {
            "/usr/lib/postgresql/*/bin, the PATH, pg_config (nothing there)".to_owned()
        } else {
            searched.join(", ")
        };
        return Err(NotFound { searched });
    }
    let mut all: Vec<Installation> = found.into_values().collect();
    all.sort_by(|a, b| b.cmp(a));
    Ok(all)
}

/// One directory; the error says in words why it is no installation.
pub async fn inspect(bin_dir: &Path) -> Result<Installation, String> {
    if let Some(missing) = TOOLS.iter().find(|tool| !bin_dir.join(tool).is_file()) {
        return Err(format!("{missing} is missing"));
    }
    let output = Command::new(bin_dir.join("postgres")).arg("--version").kill_on_drop(true).output();
    let output = tokio::time::timeout(VERSION_DEADLINE, output)
        .await
        .map_err(|_| "postgres --version hangs".to_owned())?
        .map_err(|error| format!("postgres does not run: {error}"))?;
    if !output.status.success() {
        return Err(format!("postgres --version failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let version = line.strip_prefix("postgres (PostgreSQL) ").unwrap_or(&line).to_owned();
    let major = parse_major(&version).ok_or_else(|| format!("\"{line}\" names no version"))?;
    if !MAJORS.contains(&major) {
        return Err(format!("major {major} is not supported"));
    }
    Ok(Installation { major, version, bin_dir: bin_dir.to_owned() })
}

fn parse_major(version: &str) -> Option<u32> {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

async fn usual_places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Ok(entries) = std::fs::read_dir("/usr/lib/postgresql") {
        places.extend(entries.flatten().map(|entry| entry.path().join("bin")));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path).filter(|dir| dir.join("postgres").is_file()));
    let pg_config = Command::new("pg_config").arg("--bindir").kill_on_drop(true).output();
    if let Ok(Ok(output)) = tokio::time::timeout(VERSION_DEADLINE, pg_config).await
        && output.status.success()
    {
        places.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
    }
    places
}

/// The installation for `major`, or an error that names the package to install.
pub fn choose(installations: &[Installation], major: u32) -> Result<&Installation> {
    installations.iter().find(|installation| installation.major == major).ok_or_else(|| Error::Parameter {
        name: "postgres.version".into(),
        reason: format!(
            "PostgreSQL {major} is not installed; install it with: apt-get install postgresql-{major}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_major_is_the_leading_number() {
        assert_eq!(parse_major("15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(parse_major("18beta1"), Some(18));
        assert_eq!(parse_major("devel"), None);
    }

    #[tokio::test]
    async fn a_missing_server_names_the_place_and_the_remedy() {
        let error = discover(Some(Path::new("/nonexistent/bin"))).await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/bin") && error.contains("apt-get install"), "{error}");
    }
}
