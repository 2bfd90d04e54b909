//! Replication slots of the local server: seeing, making, advancing, dropping them.
//!
//! What it does not do: choose. On connections of its own, so that a slow advance keeps no change waiting.
//! Invariant: a consumer's slot is advanced on a standby only: there it is a copy, on a primary it is its consumer's.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use tokio::time::{Instant, sleep};
use wire::Lsn;

use super::error::{Error, Result};
use super::rewind::segment_start;
use super::server::Server;
use super::session::{CONNECT_DEADLINE, Kept, QUERY_DEADLINE, Session, literal};

/// An advance decodes the WAL from the slot's restart_lsn on; the server itself ends it after 30 s.
const ADVANCE_DEADLINE: Duration = Duration::from_secs(31);

/// Creating a logical slot waits for the end of every running transaction; one that takes longer is tried again.
const CREATE_DEADLINE: Duration = Duration::from_secs(10);

/// A backend that was told to end does so at its next look at signals; a promotion does not wait longer.
const END_DEADLINE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

/// A row of `pg_replication_slots`; columns that a major does not have are empty.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct SlotRow {
    pub slot_name: String,
    /// `physical` or `logical`.
    pub slot_type: String,
    pub database: Option<String>,
    pub temporary: bool,
    pub active: bool,
    #[serde(default, deserialize_with = "xid")]
    pub xmin: Option<u32>,
    #[serde(default, deserialize_with = "xid")]
    pub catalog_xmin: Option<u32>,
    pub restart_lsn: Option<Lsn>,
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `lost` once the WAL it needs is gone.
    pub wal_status: Option<String>,
    /// 17 and newer: PostgreSQL itself keeps it on standbys.
    #[serde(default)]
    pub failover: bool,
    /// 17 and newer: made by PostgreSQL's own synchronization.
    #[serde(default)]
    pub synced: bool,
    /// 16 and newer: rows it needs have been removed.
    #[serde(default)]
    pub conflicting: Option<bool>,
    /// 17 and newer.
    #[serde(default)]
    pub invalidation_reason: Option<String>,
}

impl SlotRow {
    pub fn is_logical(&self) -> bool {
        self.slot_type == "logical"
    }

    /// Why it cannot be used any more.
    pub fn lost(&self) -> Option<String> {
        if let Some(reason) = &self.invalidation_reason {
            return Some(reason.clone());
        }
        if self.conflicting == Some(true) {
            return Some("rows that it needs have been removed".to_owned());
        }
        (self.wal_status.as_deref() == Some("lost")).then(|| "WAL that it needs has been removed".to_owned())
    }
}

/// PostgreSQL writes a transaction id as text, and an absent one as nothing or 0.
fn xid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.and_then(|text| text.parse().ok()).filter(|xid| *xid != 0))
}

/// Every slot of a server at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct SlotsSeen {
    pub in_recovery: bool,
    /// Flushed on a primary, replayed on a standby.
    pub lsn: Option<Lsn>,
    /// `max_slot_wal_keep_size`; `None` is without a limit.
    pub keep_bytes: Option<u64>,
    /// Of a WAL segment.
    pub segment_bytes: u64,
    pub slots: Vec<SlotRow>,
}

const SQL: &str = "SELECT json_build_object(
    'in_recovery', pg_is_in_recovery(),
    'lsn', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END,
    'keep_bytes', (SELECT setting::int8 * 1048576 FROM pg_settings
                   WHERE name = 'max_slot_wal_keep_size' AND setting::int8 >= 0),
    'segment_bytes', (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size'),
    'slots', (SELECT coalesce(json_agg(to_json(s) ORDER BY slot_name), '[]') FROM pg_replication_slots AS s))";

/// Connections for slots, by database.
#[derive(Default)]
pub(super) struct SlotSessions(BTreeMap<String, Kept>);

impl SlotSessions {
    async fn session(&mut self, server: &Server, database: &str) -> Result<&mut Session> {
        let kept = self.0.entry(database.to_owned()).or_default();
        kept.session_in(&server.layout, server.config.port, database).await
    }
}

/// The database of everything that belongs to none.
const HOME: &str = "postgres";

impl Server {
    pub async fn slots(&self) -> Result<SlotsSeen> {
        let mut sessions = self.slot_sessions.lock().await;
        let session = sessions.session(self, HOME).await?;
        let answer = session.value("look at the slots", SQL, QUERY_DEADLINE).await?.unwrap_or_default();
        serde_json::from_str(&answer)
            .map_err(|error| Error::Io { what: "read the slots".into(), source: error.into() })
    }

    /// Makes a physical slot that holds WAL from now on, or, without `reserve`, from its receiver's first coming on.
    pub async fn create_physical_slot(&self, name: &str, reserve: bool) -> Result<()> {
        let sql = format!("SELECT pg_create_physical_replication_slot({}, {reserve})", literal(name));
        self.on_slots(HOME, "create a physical slot", &sql, QUERY_DEADLINE).await
    }

    /// Makes a logical slot on a primary; one that PostgreSQL keeps on standbys itself where it can (17 and newer).
    pub async fn create_logical_slot(&self, name: &str, database: &str, plugin: &str) -> Result<()> {
        let failover = if self.installation.major >= FAILOVER_SLOTS { ", failover => true" } else { "" };
        let (name, plugin) = (literal(name), literal(plugin));
        let sql = format!("SELECT pg_create_logical_replication_slot({name}, {plugin}{failover})");
        // Not kept: an open connection would be in the way of DROP DATABASE.
        let mut session =
            Session::open_in(&self.layout, self.config.port, database, CONNECT_DEADLINE).await?;
        let limit = format!("SET statement_timeout = {}", CREATE_DEADLINE.as_millis());
        session.rows("limit the wait for transactions", &limit, QUERY_DEADLINE).await?;
        session.rows("create a logical slot", &sql, CREATE_DEADLINE + QUERY_DEADLINE).await.map(drop)
    }

    /// Advances a copy on a standby; on a primary it does nothing. `database` is a logical slot's own.
    pub async fn advance_slot(&self, name: &str, database: Option<&str>, to: Lsn) -> Result<()> {
        let name = literal(name);
        let sql =
            format!("SELECT pg_replication_slot_advance({name}, '{to}'::pg_lsn) WHERE pg_is_in_recovery()");
        self.on_slots(database.unwrap_or(HOME), "advance a slot", &sql, ADVANCE_DEADLINE).await
    }

    /// Moves a standby's slot on this primary to where that standby is, while it takes its WAL elsewhere. What its feedback
    /// left in the slot would hold back vacuum for ever: the slot is made anew, while a copy of it holds the WAL.
    ///
    /// A new slot begins at the last checkpoint's redo; one that lies beyond the standby's place is waited out.
    pub async fn advance_member_slot(&self, slot: &SlotRow, to: Lsn) -> Result<()> {
        const MOVING: &str = "'moving_a_member_slot'";
        let name = literal(&slot.slot_name);
        let mut sessions = self.slot_sessions.lock().await;
        let session = sessions.session(self, HOME).await?;
        let began = format!("SELECT redo_lsn <= '{to}'::pg_lsn FROM pg_control_checkpoint()");
        let held_back = slot.xmin.is_some() || slot.catalog_xmin.is_some();
        if held_back
            && session.value("look for the redo point", &began, QUERY_DEADLINE).await?.as_deref() == Some("t")
        {
            let steps = [
                // Left by a run of this that failed.
                format!(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {MOVING}"
                ),
                format!("SELECT pg_copy_physical_replication_slot({name}, {MOVING}, true)"),
                format!("SELECT pg_drop_replication_slot({name})"),
                format!("SELECT pg_create_physical_replication_slot({name}, true)"),
                format!("SELECT pg_drop_replication_slot({MOVING})"),
            ];
            for sql in steps {
                session.rows("renew a standby's slot", &sql, QUERY_DEADLINE).await?;
            }
        }
        let sql = format!("SELECT pg_replication_slot_advance({name}, '{to}'::pg_lsn)");
        session.rows("advance a standby's slot", &sql, QUERY_DEADLINE).await.map(drop)
    }

    /// Removes the slots that are ours from a stopped server.
    pub fn discard_slots(&self, is_ours: impl Fn(&str) -> bool) -> Result<()> {
        self.refuse_running()?;
        let dir = self.layout.data.join("pg_replslot");
        let entries = std::fs::read_dir(&dir).map_err(Error::at("list", &dir))?.flatten();
        for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(&is_ours)) {
            let path = entry.path();
            std::fs::remove_dir_all(&path).map_err(Error::at("remove", &path))?;
        }
        Ok(())
    }

    /// Drops a slot; false: it is in use, or not there.
    pub async fn drop_slot(&self, name: &str) -> Result<bool> {
        let sql = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
             WHERE slot_name = {} AND NOT active",
            literal(name)
        );
        let mut sessions = self.slot_sessions.lock().await;
        let session = sessions.session(self, HOME).await?;
        Ok(!session.rows("drop a slot", &sql, QUERY_DEADLINE).await?.is_empty())
    }

    /// Drops slots whatever uses them, on the way to a promotion: a copy that is not ready must not become a slot.
    pub async fn drop_slots_in_use(&self, names: &[String]) -> Result<()> {
        let list: Vec<String> = names.iter().map(|name| literal(name)).collect();
        let of = format!("slot_name IN ({})", list.join(", "));
        let end = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE {of} AND active"
        );
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE {of} AND NOT active"
        );
        let left = format!("SELECT slot_name FROM pg_replication_slots WHERE {of}");
        let begun = Instant::now();
        let mut admin = self.admin.lock().await;
        loop {
            let session = admin.session(&self.layout, self.config.port).await?;
            session.rows("end what uses slots", &end, QUERY_DEADLINE).await?;
            session.rows("drop slots", &drop, QUERY_DEADLINE).await?;
            if session.rows("look for slots", &left, QUERY_DEADLINE).await?.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > END_DEADLINE {
                let what = format!("the end of what uses the slots {}", names.join(", "));
                return Err(Error::Deadline { what, deadline: END_DEADLINE });
            }
            sleep(POLL).await;
        }
    }

    async fn on_slots(&self, database: &str, what: &str, sql: &str, deadline: Duration) -> Result<()> {
        let mut sessions = self.slot_sessions.lock().await;
        let session = sessions.session(self, database).await?;
        session.rows(what, sql, deadline).await.map(drop)
    }

    /// The WAL segment with `lsn` is in pg_wal, on whatever timeline.
    pub fn has_wal(&self, lsn: Lsn) -> Result<bool> {
        let segment_bytes = self.usable_control()?.wal_segment_bytes;
        let wal = self.layout.wal();
        let entries = std::fs::read_dir(&wal).map_err(Error::at("list", &wal))?.flatten();
        let wanted = Lsn(lsn.0 - lsn.0 % u64::from(segment_bytes.max(1)));
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.any(|name| segment_start(&name, segment_bytes) == Some(wanted)))
    }
}

/// The first major whose logical slots survive a promotion without anybody's help.
pub const FAILOVER_SLOTS: u32 = 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_major_are_read() {
        let old = r#"{"slot_name":"a","plugin":"pgoutput","slot_type":"logical","datoid":5,"database":"postgres",
            "temporary":false,"active":false,"active_pid":null,"xmin":null,"catalog_xmin":"731","restart_lsn":"0/15D9EE8",
            "confirmed_flush_lsn":"0/15D9F20","wal_status":"reserved","safe_wal_size":null,"two_phase":false}"#;
        let row: SlotRow = serde_json::from_str(old).unwrap();
        assert_eq!((row.catalog_xmin, row.xmin, row.failover, row.lost()), (Some(731), None, false, None));
        let new = old.replace(
            r#""two_phase":false"#,
            r#""two_phase":false,"conflicting":true,"invalidation_reason":"rows_removed","failover":true,"synced":true"#,
        );
        let row: SlotRow = serde_json::from_str(&new).unwrap();
        assert!(row.failover && row.synced);
        assert_eq!(row.lost().as_deref(), Some("rows_removed"));
        let lost: SlotRow = serde_json::from_str(&old.replace("reserved", "lost")).unwrap();
        assert!(lost.lost().is_some());
    }
}
