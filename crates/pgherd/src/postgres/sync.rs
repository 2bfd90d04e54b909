//! Changing the sync set of a running primary, and knowing when the change is in force.
//!
//! *In force* means applied by every walsender. A walsender reads the configuration before it reads replies, so one that has
//! sent a WAL record written after the reload has nothing stale left; an old flush LSN would prove nothing.
//! Invariant: the LSN returned was taken after the change was in force; k of the new set flushing it is then proof.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use wire::Lsn;

use super::error::{Error, Result};
use super::layout::Layout;
use super::server::Server;
use super::session::{CONNECT_DEADLINE, Kept, QUERY_DEADLINE, Session, identifier, literal};
use super::settings::{Dynamic, NOBODY};

/// A healthy walsender sends a new record at once; one that has not by then is stuck or stopped, and is ended.
const LAGGARD_AFTER: Duration = Duration::from_millis(200);
/// A walsender that was told to end and does not within this is frozen; the caller has to know.
const GONE_DEADLINE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(2);
/// A checkpoint writes all of the shared buffers; on a slow disk minutes.
const CHECKPOINT_DEADLINE: Duration = Duration::from_secs(600);

/// A sync set in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Flushed on the primary after the change was in force: wait until k of the set have flushed it.
    pub lsn: Lsn,
}

/// Whose flushes count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    /// Any k of the names.
    #[default]
    Quorum,
    /// The first k of those that are there, in the order of the names.
    Priority,
}

/// The value of `synchronous_standby_names` for k of `names`; `''` only for k = 0.
pub fn standby_names(names: &[String], k: u32, method: Method) -> Result<String> {
    let refuse = |reason: &str| {
        Err(Error::Parameter { name: "synchronous_standby_names".into(), reason: reason.to_owned() })
    };
    match (names.is_empty(), k) {
        (true, 0) => Ok(String::new()),
        // Nobody is left, and commits shall wait rather than go unprotected.
        (true, _) => Ok(NOBODY.to_owned()),
        (false, 0) => refuse("k = 0 with members would acknowledge commits that nobody holds"),
        (false, _) => {
            let names: Vec<String> = names.iter().map(|name| identifier(name)).collect();
            let word = match method {
                Method::Quorum => "ANY",
                Method::Priority => "FIRST",
            };
            Ok(format!("{word} {k} ({})", names.join(", ")))
        }
    }
}

impl Server {
    /// Makes commits wait for `k` of `names` (application names); returns once that is in force.
    ///
    /// `slots` are the members' slots: from 17 on a logical consumer is sent nothing that one of them has not flushed, so
    /// it never has what a later primary lacks. They change with the set, so a member that is gone holds up no consumer
    /// for longer than it holds up commits.
    pub async fn apply_sync(
        &self,
        names: &[String],
        k: u32,
        method: Method,
        slots: &[String],
    ) -> Result<Applied> {
        let wanted = standby_names(names, k, method)?;
        let mut dynamic = self.dynamic();
        // On disk, so that an agent which dies before the checkpoint leaves the duty to the next one.
        let from_empty = dynamic.synchronous_standby_names.is_empty() || dynamic.sync_unproven;
        let unproven = from_empty && !wanted.is_empty();
        // A set without members acknowledges nothing; whoever had to confirm before still has to.
        let confirming = (k == 0 || !slots.is_empty()).then(|| slots.join(", "));
        let confirmed = dynamic.synchronized_standby_slots.is_none()
            || confirming.is_none()
            || dynamic.synchronized_standby_slots == confirming;
        if dynamic.synchronous_standby_names != wanted || dynamic.sync_unproven != unproven || !confirmed {
            let edit = |dynamic: &mut Dynamic| {
                dynamic.synchronous_standby_names = wanted.clone();
                if let Some(confirming) = confirming {
                    dynamic.synchronized_standby_slots = Some(confirming);
                }
                dynamic.sync_unproven = unproven;
            };
            dynamic = self.write_settings(edit).await?;
        }
        self.reload_and_confirm(&dynamic).await?;
        if unproven {
            // Backends wait only once the checkpointer has copied a flag, which it does before a checkpoint.
            self.checkpoint().await?;
            self.write_settings(|dynamic| dynamic.sync_unproven = false).await?;
        }
        let mut admin = self.admin.lock().await;
        let session = admin.session(&self.layout, self.config.port).await?;
        let mark = write_mark(session, QUERY_DEADLINE).await?;
        self.await_walsenders(&mut admin, names, mark).await?;
        let session = admin.session(&self.layout, self.config.port).await?;
        const FLUSHED: &str = "SELECT pg_current_wal_flush_lsn()";
        let lsn = session.value("read the flush LSN", FLUSHED, QUERY_DEADLINE).await?;
        Ok(Applied { lsn: parse_lsn(lsn)? })
    }

    /// Waits until every walsender of before has sent `mark`, counts for nothing, or is gone; one that is not among
    /// `names` any more must count for nothing, because other walsenders count it by the priority it shows.
    async fn await_walsenders(&self, admin: &mut Kept, names: &[String], mark: Lsn) -> Result<()> {
        let begun = Instant::now();
        let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
        let stale = format!(
            "SELECT pid FROM pg_stat_replication WHERE coalesce(sync_priority, 0) > 0 \
             AND (sent_lsn IS NULL OR sent_lsn < '{mark}'::pg_lsn \
                  OR application_name <> ALL (ARRAY[{}]::text[]))",
            names.join(",")
        );
        // A walsender that is forked from now on has read the new configuration: it has nothing stale to forget.
        let mut old: Option<Vec<i32>> = None;
        let mut ended = false;
        loop {
            let session = admin.session(&self.layout, self.config.port).await?;
            let rows = session.rows("look at the walsenders", &stale, QUERY_DEADLINE).await?;
            let mut pids: Vec<i32> = rows.iter().filter_map(|row| row.get(0)?.parse().ok()).collect();
            let old = old.get_or_insert_with(|| pids.clone());
            pids.retain(|pid| old.contains(pid));
            if pids.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > LAGGARD_AFTER + GONE_DEADLINE {
                return Err(Error::NotInForce { pids });
            }
            if begun.elapsed() > LAGGARD_AFTER && !ended {
                let list: Vec<String> = pids.iter().map(i32::to_string).collect();
                let sql =
                    format!("SELECT pg_terminate_backend(pid) FROM unnest(ARRAY[{}]) AS pid", list.join(","));
                session.rows("end walsenders that lag", &sql, QUERY_DEADLINE).await?;
                ended = true;
            }
            sleep(POLL).await;
        }
    }

    /// A checkpoint that begins now.
    pub async fn checkpoint(&self) -> Result<()> {
        checkpoint_of(&self.layout, self.config.port).await
    }

    /// The same ahead of a stop. Where WAL is archived a new file is begun, too: the archiver takes the last one now, and
    /// shows that it does.
    pub async fn checkpoint_ahead(&self) -> Result<()> {
        self.checkpoint().await?;
        const SWITCH: &str =
            "SELECT CASE WHEN current_setting('archive_mode') <> 'off' THEN pg_switch_wal() END";
        let mut admin = self.admin.lock().await;
        let session = admin.session(&self.layout, self.config.port).await?;
        session.rows("begin a new WAL file", SWITCH, QUERY_DEADLINE).await.map(drop)
    }
}

pub(super) async fn checkpoint_of(layout: &Layout, port: u16) -> Result<()> {
    let mut session = Session::open(layout, port, CONNECT_DEADLINE).await?;
    session.rows("lift the statement timeout", "SET statement_timeout = 0", QUERY_DEADLINE).await?;
    session.rows("checkpoint", "CHECKPOINT", CHECKPOINT_DEADLINE).await.map(drop)
}

/// Writes a WAL record, flushed here and waited for nowhere; returns its end.
pub(super) async fn write_mark(session: &mut Session, deadline: Duration) -> Result<Lsn> {
    // Transactional: its commit is what gets the record flushed, and thereby sent.
    const SQL: &str = "SELECT pg_logical_emit_message(true, 'pgherd', '')";
    parse_lsn(session.value("write a WAL record", SQL, deadline).await?)
}

pub(super) fn parse_lsn(text: Option<String>) -> Result<Lsn> {
    let text = text.unwrap_or_default();
    text.parse()
        .map_err(|error| Error::Io { what: "read an LSN".into(), source: std::io::Error::other(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_empty_means_k_0() {
        let names = ["n2_7f3a_t3".to_owned(), "a\"b".to_owned()];
        assert_eq!(standby_names(&names[..1], 1, Method::Priority).unwrap(), r#"FIRST 1 ("n2_7f3a_t3")"#);
        let standby_names = |names: &[String], k| standby_names(names, k, Method::Quorum);
        assert_eq!(standby_names(&names, 1).unwrap(), r#"ANY 1 ("n2_7f3a_t3", "a""b")"#);
        assert_eq!(standby_names(&[], 0).unwrap(), "");
        assert_eq!(standby_names(&[], 1).unwrap(), NOBODY);
        assert!(standby_names(&names, 0).is_err());
    }
}
