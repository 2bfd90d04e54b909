//! Promotion, and letting clients in or out.
//!
//! Invariant: at the moment of promotion the new sync set is in force for every session that could write, and no
//! session but our own exists: those that were read-only on the standby survive a promotion and could write at once.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use wire::{Lsn, Timeline};

use super::error::{Error, Result, within};
use super::hba::{Admission, NOT_THE_AGENT, REPLICATION_ROLE, REWIND_ROLE};
use super::observe::Observation;
use super::process;
use super::server::Server;
use super::session::{QUERY_DEADLINE, literal};
use super::settings::Dynamic;
use super::sync::parse_lsn;

/// A terminated session ends at its next look at signals; one deep in an extension may take longer.
const SESSIONS_DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// A finished promotion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promoted {
    pub timeline: Timeline,
    /// At or after the end-of-recovery record: whoever has flushed it has entered the new timeline.
    pub end_of_recovery: Lsn,
}

impl Server {
    /// Makes this standby a primary on exactly `timeline`, quarantined, with the given sync set; `member_slots` are its
    /// members' slots.
    ///
    /// The checkpoint that makes the control file name the new timeline runs in the background.
    pub async fn promote(
        &self,
        timeline: Timeline,
        synchronous_standby_names: &str,
        member_slots: &[String],
        deadline: Duration,
    ) -> Result<Promoted> {
        let current = self.detached_timeline(timeline).await?;
        let edit = as_primary(synchronous_standby_names, member_slots);
        let dynamic = self.write_settings(edit).await?;
        self.reload_and_confirm(&dynamic).await?;
        self.end_sessions().await?;
        self.skip_to(current, timeline)?;
        let promoted = within("the promotion", deadline, self.promote_now(timeline)).await?;
        self.checkpoint_soon().await;
        Ok(promoted)
    }

    /// Takes WAL from nobody any more, and says which timeline that has led to.
    pub(super) async fn detached_timeline(&self, wanted: Timeline) -> Result<Timeline> {
        self.detach().await?;
        let current = match self.observe().await? {
            Observation::Standby(standby) => standby.position.map(|position| position.timeline),
            _ => return Err(Error::Role { wanted: "standby" }),
        };
        current.ok_or_else(|| Error::Timeline { wanted, reason: "its own position is not known yet".into() })
    }

    async fn promote_now(&self, wanted: Timeline) -> Result<Promoted> {
        {
            let mut admin = self.admin.lock().await;
            let session = admin.session(&self.layout, self.config.port).await?;
            session.rows("promote", "SELECT pg_promote(false)", QUERY_DEADLINE).await?;
        }
        self.await_promoted(wanted).await
    }

    pub(super) async fn await_promoted(&self, wanted: Timeline) -> Result<Promoted> {
        let mut admin = self.admin.lock().await;
        let session = admin.session(&self.layout, self.config.port).await?;
        const RECOVERING: &str = "SELECT pg_is_in_recovery()";
        while session.value("await the promotion", RECOVERING, QUERY_DEADLINE).await?.as_deref() != Some("f")
        {
            sleep(POLL).await;
        }
        const WHERE: &str =
            "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), pg_current_wal_flush_lsn()";
        let rows = session.rows("read the new timeline", WHERE, QUERY_DEADLINE).await?;
        let column = |index: usize| rows.first().and_then(|row| row.get(index)).unwrap_or_default();
        let taken = u32::from_str_radix(column(0), 16).unwrap_or(0);
        if taken != wanted.0 {
            return Err(Error::Timeline { wanted, reason: format!("PostgreSQL took timeline {taken}") });
        }
        Ok(Promoted { timeline: wanted, end_of_recovery: parse_lsn(Some(column(1).to_owned()))? })
    }

    /// Off the path of opening: until it is done `pg_rewind` of the others would see the old timeline.
    async fn checkpoint_soon(&self) {
        let (layout, port) = (self.layout.clone(), self.config.port);
        tokio::spawn(async move {
            if let Err(error) = super::sync::checkpoint_of(&layout, port).await {
                tracing::warn!(%error, "the checkpoint after the promotion failed; the next one makes up for it");
            }
        });
    }

    /// Lets clients in. A line of the user's that PostgreSQL cannot read is an error, and nobody is let in: the server
    /// would go on by the rules of before without a word to anybody but its log.
    pub async fn admit(&self) -> Result<()> {
        self.set_admission(Admission::Open).await?;
        let Some(broken) = self.broken_hba_line().await? else { return Ok(()) };
        self.set_admission(Admission::Quarantined).await?;
        Err(Error::Configuration {
            reason: format!(
                "{}, line {broken}; mend [postgres] hba in this node's configuration and start pgherd anew",
                self.layout.hba().display()
            ),
        })
    }

    pub(super) async fn broken_hba_line(&self) -> Result<Option<String>> {
        const SQL: &str = "SELECT line_number || ': ' || error FROM pg_hba_file_rules WHERE error IS NOT NULL ORDER BY line_number";
        let mut admin = self.admin.lock().await;
        let session = admin.session(&self.layout, self.config.port).await?;
        session.value("read the rules of pg_hba.conf", SQL, QUERY_DEADLINE).await
    }

    /// Shuts clients out: no new one gets in, present ones are ended.
    pub async fn quarantine(&self) -> Result<()> {
        self.set_admission(Admission::Quarantined).await?;
        self.end_sessions().await
    }

    async fn set_admission(&self, admission: Admission) -> Result<()> {
        let mut dynamic = self.dynamic();
        if dynamic.admission != admission || self.is_fenced() {
            dynamic = self.write_settings(|dynamic| dynamic.admission = admission).await?;
        }
        self.reload_and_confirm(&dynamic).await
    }

    /// Ends every session that is not the cluster's own; the quarantined pg_hba.conf is in force already.
    ///
    /// Who comes by the private socket as its own role is the agent; others there are clients of the proxy. A client that was let in by the old pg_hba.conf but is still
    /// proving who it is shows in no view; it is a child of the postmaster that the views do not know.
    pub(super) async fn end_sessions(&self) -> Result<()> {
        let own_roles = format!("{}, {}", literal(REPLICATION_ROLE), literal(REWIND_ROLE));
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender') \
             AND {NOT_THE_AGENT} AND usename NOT IN ({own_roles})"
        );
        let begun = Instant::now();
        let mut admin = self.admin.lock().await;
        self.end_unauthenticated(&mut admin).await?;
        loop {
            let session = admin.session(&self.layout, self.config.port).await?;
            if session.rows("end sessions", &end, QUERY_DEADLINE).await?.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > SESSIONS_DEADLINE {
                return Err(Error::Deadline {
                    what: "the end of the clients' sessions".into(),
                    deadline: SESSIONS_DEADLINE,
                });
            }
            sleep(POLL).await;
        }
    }

    async fn end_unauthenticated(&self, admin: &mut super::session::Kept) -> Result<()> {
        let postmaster = self.running()?;
        let children = process::children(postmaster.pid);
        let session = admin.session(&self.layout, self.config.port).await?;
        let rows =
            session.rows("list the processes", "SELECT pid FROM pg_stat_activity", QUERY_DEADLINE).await?;
        let known: Vec<i32> = rows.iter().filter_map(|row| row.get(0)?.parse().ok()).collect();
        let is_client = |title: &str| {
            ["authentication", "initializing", "startup packet"].iter().any(|word| title.ends_with(word))
                || !title.starts_with("postgres: ")
        };
        for (pid, title) in children {
            if !known.contains(&pid) && is_client(&title) {
                process::signal(&self.layout.data, pid, Signal::TERM);
            }
        }
        Ok(())
    }
}

/// Quarantined, with the sync set in force before the first writable moment.
pub(super) fn as_primary(names: &str, member_slots: &[String]) -> impl FnOnce(&mut Dynamic) + use<> {
    let (names, slots) = (names.to_owned(), member_slots.join(", "));
    move |dynamic| {
        dynamic.admission = Admission::Quarantined;
        dynamic.synchronous_standby_names = names;
        dynamic.synchronized_standby_slots = Some(slots);
    }
}
