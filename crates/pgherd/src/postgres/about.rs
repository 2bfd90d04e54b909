//! What is told of a running server to people and monitors. Nothing is decided by it.

use serde::Deserialize;

/// Facts of one run of the server, from one look.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct About {
    /// When the postmaster started, microseconds since 1970.
    pub started_us: i64,
    /// `server_version_num`.
    pub version: u32,
    /// It takes WAL from an archive, too.
    pub restores: bool,
    /// Somebody has paused replay; `None` on a primary.
    pub replay_paused: Option<bool>,
    /// Commit time of the last transaction that was replayed, microseconds since 1970; `None` before the first.
    pub replayed_at_us: Option<i64>,
}

/// On a primary `pg_is_wal_replay_paused` is an error, so it is not called there.
pub(super) const SQL: &str = "json_build_object(
        'started_us', (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
        'version', current_setting('server_version_num')::int,
        'restores', current_setting('restore_command') <> '',
        'replay_paused', CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END,
        'replayed_at_us', (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint)";
