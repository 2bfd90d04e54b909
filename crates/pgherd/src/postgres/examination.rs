//! What a doctor asks a running server, in one statement on a session of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::error::{Error, Result};
use super::server::Server;
use super::session::{CONNECT_DEADLINE, Session};

/// It reads shared memory, two small directories and pg_authid.
const DEADLINE: Duration = Duration::from_secs(3);

/// Of one run of the server, from one look.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Examination {
    /// `server_version_num`.
    pub version: u32,
    pub in_recovery: bool,
    /// Settings by name, as PostgreSQL shows them; one that this major does not have is absent.
    pub settings: BTreeMap<String, String>,
    pub archiver: Archiver,
    pub slots: Vec<ExaminedSlot>,
    /// Roles that may log in with a password stored as MD5.
    pub md5_roles: u32,
}

/// `pg_stat_archiver`, and what waits. Ages in seconds; negative when the wall clock was set back.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Archiver {
    pub archived_ago: Option<i64>,
    pub last_archived: Option<String>,
    pub failed_ago: Option<i64>,
    pub last_failed: Option<String>,
    /// WAL files that wait to be archived, and the age of the oldest.
    pub ready: u32,
    pub ready_age: i64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ExaminedSlot {
    pub slot_name: String,
    pub slot_type: String,
    pub active: bool,
    pub temporary: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`; `None` for one that holds no WAL.
    pub wal_status: Option<String>,
    /// From PostgreSQL 17 on: why it can be used no more.
    pub invalidation_reason: Option<String>,
    /// WAL that it holds, in bytes.
    pub held: i64,
}

/// `to_jsonb` of a row, so that columns which this major does not have are simply absent. Some time of the last WAL file on a
/// standby is what it has received or replayed.
const SQL: &str = "
SELECT json_build_object(
    'version', current_setting('server_version_num')::int,
    'in_recovery', pg_is_in_recovery(),
    'settings', (SELECT json_object_agg(name, current_setting(name)) FROM pg_settings WHERE name IN (
        'max_connections', 'superuser_reserved_connections', 'reserved_connections', 'archive_mode', 'archive_command',
        'archive_library', 'max_slot_wal_keep_size', 'wal_log_hints', 'data_checksums', 'fsync', 'full_page_writes',
        'password_encryption')),
    'archiver', (SELECT json_build_object(
        'archived_ago', extract(epoch FROM clock_timestamp() - last_archived_time)::bigint,
        'last_archived', last_archived_wal,
        'failed_ago', extract(epoch FROM clock_timestamp() - last_failed_time)::bigint,
        'last_failed', last_failed_wal,
        'ready', (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'),
        'ready_age', (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - modification)::bigint), 0)
            FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready')) FROM pg_stat_archiver),
    'slots', (SELECT coalesce(json_agg(to_jsonb(s) || jsonb_build_object('held', coalesce(pg_wal_lsn_diff(
        CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
             ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint)), '[]') FROM pg_replication_slots s),
    'md5_roles', (SELECT count(*) FROM pg_authid WHERE rolcanlogin AND rolpassword LIKE 'md5%'))";

impl Server {
    /// Looks at the running server, beside whatever else is done to it; ends within its deadlines.
    pub async fn examine(&self) -> Result<Examination> {
        let mut session = Session::open(&self.layout, self.config.port, CONNECT_DEADLINE).await?;
        let answer = session.value("examine the server", SQL, DEADLINE).await?.unwrap_or_default();
        serde_json::from_str(&answer)
            .map_err(|error| Error::Io { what: "read the examination".into(), source: error.into() })
    }
}
