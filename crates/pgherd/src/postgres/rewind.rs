//! Bringing a diverged data directory back to a common history with `pg_rewind`.
//!
//! Invariant: what a rewind discards is copied to `kept/` first, and a rewind that has begun and not ended leaves a mark
//! that makes the data directory unusable for everything but being cloned anew.
//! Two branches that were promoted to the same timeline id look like one to `pg_rewind`, which then has nothing to do: their
//! histories tell them apart.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use wire::{Lsn, Timeline};

use tokio::sync::watch::Sender;

use super::account::watch;
use super::basebackup::{Progress, Secret, parse_progress, source_conninfo};
use super::control;
use super::error::{Error, Result};
use super::files;
use super::hba::REWIND_ROLE;
use super::lost::Lost;
use super::origin::{self, OriginServer};
use super::process;
use super::server::{Server, Source};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RewindOutcome {
    /// The histories have not diverged: follow.
    NotRequired,
    /// Clone instead: `pg_rewind` takes the timeline that is here for another one of the same id.
    Namesake(Timeline),
    /// `kept` holds the WAL from the fork on; what of it could be listed.
    Done { fork: Lsn, kept: PathBuf, lost: Option<Box<Lost>> },
    /// Clone instead; the reason is the tool's.
    Failed { reason: String },
}

impl Server {
    /// Rewinds the data directory to where it forked from `source`. The server must have been stopped cleanly: one that
    /// crashed is started (as a standby, following nobody) and stopped fast first.
    pub async fn rewind(
        &self,
        source: &Source,
        progress: &Sender<Progress>,
        deadline: Duration,
    ) -> Result<RewindOutcome> {
        const TOOLS_DEADLINE: Duration = Duration::from_secs(10);
        self.refuse_running()?;
        process::end_tools_at(&self.layout.data, TOOLS_DEADLINE).await?;
        let control = self.usable_control()?;
        if !control.state.is_clean() {
            return Ok(RewindOutcome::Failed {
                reason: format!("the server was not stopped cleanly (its state is {:?})", control.state),
            });
        }
        let secret = Secret::new(self, REWIND_ROLE, &source.password)?;
        let said = match self.pg_rewind(source, &secret, "--dry-run", progress, deadline).await {
            Ok(said) => said,
            Err(Error::Tool { tail, .. }) => return Ok(RewindOutcome::Failed { reason: tail }),
            Err(error) => return Err(error),
        };
        if said.contains("no rewind required") {
            return self
                .needless(source, control.checkpoint_timeline.max(control.min_recovery_timeline))
                .await;
        }
        let Some(fork) = parse_fork(&said) else {
            return Ok(RewindOutcome::Failed { reason: format!("pg_rewind names no fork: {said}") });
        };
        let kept = self.keep_wal(fork, control.wal_segment_bytes).await?;
        // The WAL itself is kept; a listing that fails must not keep the node out of its cluster.
        let lost = match self.list_lost(&kept, fork, parse_timeline(&said).unwrap_or(Timeline::FIRST)).await {
            Ok(lost) => Some(Box::new(lost)),
            Err(error) => {
                tracing::warn!(%error, kept = %kept.display(), "the kept WAL could not be listed");
                None
            }
        };
        self.rewind_now(source, &secret, progress, deadline).await.map(|failed| match failed {
            Some(reason) => RewindOutcome::Failed { reason },
            None => RewindOutcome::Done { fork, kept, lost },
        })
    }

    /// Nothing to rewind, or nothing that `pg_rewind` could see.
    async fn needless(&self, source: &Source, timeline: Timeline) -> Result<RewindOutcome> {
        let (Some(own), OriginServer::Primary { history, .. }) =
            (self.history(timeline)?, origin::ask(source).await?)
        else {
            let reason =
                format!("{} is missing here, or the source became a standby", timeline.history_file());
            return Ok(RewindOutcome::Failed { reason });
        };
        Ok(if own.begins_as(&history) {
            RewindOutcome::NotRequired
        } else {
            RewindOutcome::Namesake(timeline)
        })
    }

    /// The real run, between setting and removing the mark; `Some` is the tool's reason for failing.
    async fn rewind_now(
        &self,
        source: &Source,
        secret: &Secret,
        progress: &Sender<Progress>,
        deadline: Duration,
    ) -> Result<Option<String>> {
        let user_conf = self.layout.data.join("postgresql.conf");
        let own_text = fs::read(&user_conf).map_err(Error::at("read", &user_conf))?;
        files::write(&self.layout.rewind_mark(), b"", &self.account)?;
        match self.pg_rewind(source, secret, "--progress", progress, deadline).await {
            Ok(_) => {}
            Err(Error::Tool { tail, .. }) => return Ok(Some(tail)),
            Err(error) => return Err(error),
        }
        // The tool has brought the source's file; settings that differ from node to node stay this node's.
        files::write(&user_conf, &own_text, &self.account)?;
        control::read(&self.layout.data)
            .map_err(|error| Error::Unusable { data: self.layout.data.clone(), reason: error.to_string() })?;
        files::remove(&self.layout.rewind_mark())?;
        Ok(None)
    }

    async fn pg_rewind(
        &self,
        source: &Source,
        secret: &Secret,
        more: &str,
        progress: &Sender<Progress>,
        deadline: Duration,
    ) -> Result<String> {
        let data = self.layout.data.to_string_lossy().into_owned();
        let server = format!("--source-server={}", source_conninfo(source, REWIND_ROLE, "postgres"));
        let program = self.installation.tool("pg_rewind");
        let mut command = self.account.command(&program);
        command.args(["--target-pgdata", &data, &server, "--no-ensure-shutdown", more]);
        command.env("PGPASSFILE", &secret.path).kill_on_drop(true);
        let said = watch(command, &program, deadline, |line| {
            if let Some(now) = parse_progress(line) {
                progress.send_replace(now);
            }
        })
        .await?;
        Ok(format!("{}{}", said.stdout, said.stderr))
    }
}

/// Where a WAL segment file begins, by its name: timeline, high and low half of the segment number in hexadecimal.
pub(super) fn segment_start(name: &str, segment_bytes: u32) -> Option<Lsn> {
    if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) || segment_bytes == 0 {
        return None;
    }
    let high = u64::from_str_radix(&name[8..16], 16).ok()?;
    let low = u64::from_str_radix(&name[16..], 16).ok()?;
    Some(Lsn((high << 32) + low * u64::from(segment_bytes)))
}

/// `pg_rewind: servers diverged at WAL location 0/3000110 on timeline 1`
fn parse_fork(said: &str) -> Option<Lsn> {
    let (_, rest) = said.split_once("diverged at WAL location ")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The timeline in the same line: the own one, from the fork on.
fn parse_timeline(said: &str) -> Option<Timeline> {
    let (_, rest) = said.split_once("diverged at WAL location ")?;
    let (_, rest) = rest.split_once("on timeline ")?;
    rest.split_whitespace().next()?.parse().ok().map(Timeline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_messages_are_read() {
        let segment = 16 * 1024 * 1024;
        assert_eq!(segment_start("000000010000000100000002", segment), Some(Lsn(0x1_0200_0000)));
        assert_eq!(segment_start("00000002.history", segment), None);
        let said = "pg_rewind: servers diverged at WAL location 0/3000110 on timeline 1\n";
        assert_eq!((parse_fork(said), parse_timeline(said)), (Some(Lsn(0x3000110)), Some(Timeline(1))));
    }
}
