//! Cloning another server with `pg_basebackup`.
//!
//! Invariant: the present data directory is moved aside only when the new copy is whole, and is deleted only when the
//! caller says that the new one runs ([`Server::discard_old_copies`]).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch::Sender;

use super::account::watch;
use super::error::{Error, Result};
use super::files;
use super::hba::REPLICATION_ROLE;
use super::lifecycle::remove_tree;
use super::process;
use super::receiver::{conninfo, pgpass_line};
use super::server::{Server, Source};

const TOOLS_DEADLINE: Duration = Duration::from_secs(10);
/// What an old copy is called: this and the moment it was put aside.
const OLD: &str = "data.old-";

/// How far a base backup is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    pub done_bytes: u64,
    /// An estimate, 0 while not known; the database may grow meanwhile.
    pub total_bytes: u64,
}

impl Server {
    /// Replaces the data directory by a copy of `source`. The server must be stopped.
    ///
    /// With `slot` the source keeps the WAL that the copy needs until this node follows.
    pub async fn basebackup(
        &self,
        source: &Source,
        slot: Option<&str>,
        progress: &Sender<Progress>,
        deadline: Duration,
    ) -> Result<()> {
        self.refuse_running()?;
        self.layout.prepare(&self.account)?;
        let fresh = self.layout.dir.join("data.new");
        process::end_tools_at(&fresh, TOOLS_DEADLINE).await?;
        remove_tree(&fresh)?;
        files::private_dir(&fresh, &self.account)?;
        let secret = Secret::new(self, REPLICATION_ROLE, &source.password)?;
        let program = self.installation.tool("pg_basebackup");
        let mut command = self.account.command(&program);
        command.kill_on_drop(true).env("PGPASSFILE", &secret.path);
        command.arg("--pgdata").arg(&fresh).arg("--dbname").arg(source_conninfo(
            source,
            REPLICATION_ROLE,
            "replication",
        ));
        command.args(["--wal-method=stream", "--checkpoint=fast", "--progress", "--no-password"]);
        if let Some(slot) = slot {
            command.args(["--slot", slot]);
        }
        watch(command, &program, deadline, |line| {
            if let Some(now) = parse_progress(line) {
                progress.send_replace(now);
            }
        })
        .await?;
        self.swap_in(&fresh).await
    }

    async fn swap_in(&self, fresh: &std::path::Path) -> Result<()> {
        self.refuse_running()?;
        process::await_leftovers(&self.layout.data, TOOLS_DEADLINE).await?;
        let data = &self.layout.data;
        if data.exists() {
            files::rename(data, &self.layout.dir.join(format!("{OLD}{}", files::moment())))?;
        }
        files::rename(fresh, data)?;
        files::remove(&self.layout.rewind_mark())
    }

    /// Former data directories that were moved aside, oldest first.
    pub fn old_copies(&self) -> Result<Vec<PathBuf>> {
        let dir = &self.layout.dir;
        let entries = fs::read_dir(dir).map_err(Error::at("list", dir))?.flatten();
        let old = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(OLD));
        let mut old: Vec<PathBuf> = old.map(|entry| entry.path()).collect();
        old.sort();
        Ok(old)
    }

    /// Deletes them; for when the new copy streams.
    pub async fn discard_old_copies(&self) -> Result<Vec<PathBuf>> {
        let old = self.old_copies()?;
        files::blocking(move || {
            old.iter().try_for_each(|path| remove_tree(path))?;
            Ok(old)
        })
        .await
    }
}

/// A passfile for one run of a tool.
pub(super) struct Secret {
    pub path: PathBuf,
}

impl Secret {
    pub fn new(server: &Server, role: &str, password: &str) -> Result<Secret> {
        let path = server.layout.conf.join(format!("tool-{:016x}.pgpass", rand::random::<u64>()));
        files::write(&path, pgpass_line(role, password).as_bytes(), &server.account)?;
        Ok(Secret { path })
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // One that stays is as private as the directory it lies in.
        let _ = fs::remove_file(&self.path);
    }
}

pub(super) fn source_conninfo(source: &Source, role: &str, database: &str) -> String {
    conninfo(&[
        ("host", source.host.clone()),
        ("port", source.port.to_string()),
        ("user", role.to_owned()),
        ("dbname", database.to_owned()),
        ("connect_timeout", "5".to_owned()),
        ("keepalives_idle", "5".to_owned()),
        ("keepalives_interval", "2".to_owned()),
        ("keepalives_count", "3".to_owned()),
        ("tcp_user_timeout", "15000".to_owned()),
        ("application_name", "pgherd clone".to_owned()),
    ])
}

/// `  12345/67890 kB (18%), 0/1 tablespace`
pub(super) fn parse_progress(line: &str) -> Option<Progress> {
    let (done, rest) = line.trim().split_once('/')?;
    let (total, _) = rest.split_once(" kB")?;
    Some(Progress {
        done_bytes: done.parse::<u64>().ok()? * 1024,
        total_bytes: total.parse::<u64>().ok()? * 1024,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines_are_read() {
        let progress = Progress { done_bytes: 1024, total_bytes: 2048 };
        assert_eq!(parse_progress("   1/2 kB (50%), 0/1 tablespace"), Some(progress));
        assert_eq!(parse_progress("waiting for checkpoint"), None);
    }
}
