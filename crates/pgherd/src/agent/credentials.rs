//! `credentials.json` in the node's directory: the passwords of the cluster's own roles, for a standby cluster.
//!
//! A standby cluster is a copy of this one and logs in with the same passwords; its operator copies this file. It is as
//! private as the passfile that a replica logs in with: only pgherd's own user reads it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::records::Credentials;

/// Where the node keeps its copy, and what it last wrote there.
pub struct CredentialsFile {
    path: PathBuf,
    written: Option<Credentials>,
}

impl CredentialsFile {
    pub fn in_dir(dir: &Path) -> CredentialsFile {
        CredentialsFile { path: dir.join("credentials.json"), written: None }
    }

    /// Another cluster's, as its operator was given them.
    pub fn read(path: &Path) -> Result<Credentials> {
        let bytes = std::fs::read(path).with_context(|| {
            format!(
                "read {}; copy credentials.json from the directory of a node of the cluster to be followed",
                path.display()
            )
        })?;
        serde_json::from_slice(&bytes).with_context(|| format!("{} holds no credentials", path.display()))
    }

    pub(super) fn keep(&mut self, credentials: &Credentials) {
        if self.written.as_ref() == Some(credentials) {
            return;
        }
        match self.write(credentials) {
            Ok(()) => self.written = Some(credentials.clone()),
            // Nothing rests on it here; whoever wants to copy it finds none.
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the credentials could not be written down")
            }
        }
    }

    fn write(&self, credentials: &Credentials) -> Result<()> {
        let text = serde_json::to_vec_pretty(credentials)?;
        if std::fs::read(&self.path).is_ok_and(|present| present == text) {
            return Ok(());
        }
        let fresh = self.path.with_extension("json.new");
        let write = || -> std::io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &self.path)
        };
        write().with_context(|| format!("write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_kept_is_private_and_read_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = Credentials { replication: "one".into(), rewind: "two".into() };
        CredentialsFile::in_dir(dir.path()).keep(&credentials);
        let path = dir.path().join("credentials.json");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(CredentialsFile::read(&path).unwrap(), credentials);
        let missing = CredentialsFile::read(&dir.path().join("none")).unwrap_err();
        assert!(format!("{missing:#}").contains("copy credentials.json"));
    }
}
