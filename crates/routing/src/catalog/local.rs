//! What tells of the server it runs on, or of its own connection, rather than of the data.
//!
//! What it is: functions of PostgreSQL that are not VOLATILE, and settings, whose answer from some replica would
//! mislead whoever asks. Views on such functions (pg_stat_activity, pg_locks, pg_settings, pg_replication_slots,
//! pg_cursors …) follow from them; those on VOLATILE ones (pg_is_in_recovery, pg_current_wal_lsn, pg_database_size,
//! pg_stat_statements) need no list. What it is not: pg_stats, pg_statistic, the catalogs and information_schema,
//! which are data like any other. Invariant: a client that asks for the primary (`target_session_attrs`) finds it.

/// Functions of pg_catalog in PostgreSQL 15 to 18.
const FUNCTIONS: [&str; 32] = [
    // Another answer on each server, or in each connection to one.
    "pg_backend_pid",
    "pg_conf_load_time",
    "pg_config",
    "pg_cursor",
    "pg_get_aios",
    "pg_get_replication_slots",
    "pg_lock_status",
    "pg_listening_channels",
    "pg_postmaster_start_time",
    "pg_prepared_statement",
    "pg_show_all_settings",
    "pg_get_loaded_modules",
    "pg_get_process_memory_contexts",
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    // Refused during recovery, or of no meaning there.
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "txid_current",
    "txid_current_if_assigned",
    "pg_walfile_name",
    "pg_walfile_name_offset",
    // They read what a text names when they run.
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
];

/// Settings that differ between the nodes of a cluster by nature.
const SETTINGS: [&str; 24] = [
    "all",
    "archive_mode",
    "archive_command",
    "cluster_name",
    "config_file",
    "data_directory",
    "default_transaction_read_only",
    "external_pid_file",
    "hba_file",
    "hot_standby",
    "ident_file",
    "in_hot_standby",
    "listen_addresses",
    "log_directory",
    "log_filename",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target_timeline",
    "restore_command",
    "synchronous_standby_names",
    "transaction_deferrable",
    "transaction_read_only",
    "unix_socket_directories",
];

pub fn is_local_function(name: &str) -> bool {
    name.starts_with("pg_stat_get_") || FUNCTIONS.contains(&name)
}

/// `name` in any case, as SHOW takes it.
pub fn is_local_setting(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.eq_ignore_ascii_case(name))
}
