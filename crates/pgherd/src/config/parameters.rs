//! PostgreSQL parameters: the user's are passed on as they are, except those that pgherd must own.

/// Parameters that pgherd sets itself, and what to do instead. One that a user could set here would either be
/// overridden in silence or break what pgherd promises.
const OWNED: &[(&str, &str)] = &[
    ("allow_alter_system", "pgherd reads and writes these settings itself"),
    ("config_file", "the files below node.dir/conf are pgherd's"),
    ("data_directory", "set node.dir"),
    ("fsync", "without it acknowledged commits could be lost"),
    ("full_page_writes", "pg_rewind and crash safety need it"),
    ("hba_file", "set postgres.hba"),
    ("hot_standby", "replicas always serve reads and answer pgherd"),
    ("include", "set the parameters themselves in [postgres.parameters]"),
    ("include_dir", "set the parameters themselves in [postgres.parameters]"),
    ("include_if_exists", "set the parameters themselves in [postgres.parameters]"),
    ("lc_messages", "the proxy must recognise the server's messages"),
    ("listen_addresses", "set postgres.listen"),
    ("port", "set postgres.port"),
    ("primary_conninfo", "pgherd decides whom a replica follows"),
    ("primary_slot_name", "pgherd decides whom a replica follows"),
    ("promote_trigger_file", "pgherd decides who is primary"),
    ("restart_after_crash", "pgherd decides whether a crashed primary comes back"),
    ("sync_replication_slots", "declare slots in [slots]; replicas always keep those of the primary"),
    ("synchronized_standby_slots", "set sync.standbys; pgherd keeps it in step with the sync set"),
    ("synchronous_standby_names", "set sync.standbys; pgherd chooses the standbys"),
    ("trigger_file", "pgherd decides who is primary"),
    ("unix_socket_directories", "sockets are in node.dir/run"),
    ("wal_log_hints", "pg_rewind needs it"),
    ("wal_retrieve_retry_interval", "takeover times depend on it"),
];

/// Why `parameter` (lower case) cannot be set in `[postgres.parameters]`, and what to set instead.
pub fn owner(parameter: &str) -> Option<&'static str> {
    if parameter.starts_with("recovery_target") {
        return Some("restoring to a point in time is not something a running cluster does");
    }
    OWNED.iter().find(|(name, _)| *name == parameter).map(|(_, instead)| *instead)
}

/// `(name, what instead)` of each, for the reference page.
pub(super) fn owned() -> impl Iterator<Item = (&'static str, &'static str)> {
    OWNED.iter().copied()
}

/// A name as PostgreSQL's configuration files allow it: anything else could end the line and begin another.
pub(super) fn is_name(name: &str) -> bool {
    name.split('.').all(|part| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
            && bytes.all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'$')
    })
}
