//! repmgr: `repmgr.conf`, to 5.5.

use super::convert::{connection, same};
use super::plan::{Entry, Plan};
use super::report::Fate;
use super::table::{Row, absent, absent_always, needless, setting, several};
use crate::config;

const DEADLINES: &str = "deadlines of a takeover and of a switchover are pgherd's own ([failover] failure_timeout and drain_timeout)";
const SHELL: &str = "nodes ask nothing of each other by SSH or shell: their agents are connected by TLS";
const SERVICE: &str = "pgherd starts and stops PostgreSQL itself: disable the service of the distribution's PostgreSQL, and let a service run pgherd run";
const BARMAN: &str =
    "there is no replica from a backup yet; Barman can go on by a slot of [slots] and the read-write port";
const CHILDREN: &str = "a primary whose standbys are gone waits, or goes on alone, by [sync] on_last_standby_lost; no command is run for it";
const THRESHOLDS: &str = "alarms belong to your monitor: /metrics and pgherd status have the figures";
const LOGS: &str = "pgherd logs to standard error: PGHERD_LOG sets the level";
const BDR: &str = "BDR is not supported";

pub const ROWS: &[Row] = &[
    needless("node_id", "nodes have names alone; pgherd gives each a number of its own"),
    setting("node_name", "node.name", same, ""),
    several("conninfo", "[peers.NAME] postgres of this node", conninfo),
    absent_always(
        "data_directory",
        "the data directory is data below [node] dir, and made anew; a running server is not taken over in place: follow it as a standby cluster, then promote",
    ),
    needless(
        "config_directory",
        "pgherd's own files are below [node] dir; set parameters in [postgres.parameters]",
    ),
    needless(
        "replication_user|use_primary_conninfo_password|passfile",
        "pgherd makes the roles it needs, with passwords of their own (credentials.json)",
    ),
    several("replication_type", "nothing for physical", replication_type),
    several("location", "[tags] zone", location),
    needless("use_replication_slots", "replicas always have slots"),
    needless(
        "witness_sync_interval",
        "a witness is a node without PostgreSQL (--witness NAME=HOST), whose store is always the same",
    ),
    absent("log_level|log_facility|log_file|log_status_interval|loglevel|logfacility|logfile", LOGS),
    absent(
        "event_notification_command",
        "[hooks] program, a script that is called with on_role_change and on_event and a JSON document instead of %n %e %s %t %d (docs/concepts/hooks.md)",
    ),
    absent("event_notifications", "[hooks] events, the rules in brackets that pgherd events shows"),
    setting("pg_bindir", "postgres.bin_dir", bin_dir, ""),
    needless("repmgr_bindir", "pgherd is one program"),
    needless("pg_ctl_options|rsync_options|ssh_options", SHELL),
    absent("pg_basebackup_options", "the options of the copy are pgherd's own"),
    absent("tablespace_mapping", "tablespaces are at the same places on all nodes"),
    several(
        "restore_command|archive_cleanup_command|recovery_min_apply_delay",
        "[postgres.parameters]",
        parameter,
    ),
    needless(
        "promote_check_timeout|promote_check_interval|primary_follow_timeout|standby_follow_timeout|standby_follow_restart|shutdown_check_timeout|standby_reconnect_timeout|wal_receive_check_timeout|node_rejoin_timeout|retry_promote_interval_secs|master_reponse_timeout",
        DEADLINES,
    ),
    absent(
        "barman_server|barman_host|barman_config|pg_backupapi_host|pg_backupapi_port|pg_backupapi_backup_id|pg_backupapi_node_name|pg_backupapi_remote_ssh_command|pg_backupapi_data_directory",
        BARMAN,
    ),
    several("failover", "[tags] nofailover where it is manual", failover),
    several("priority", "[tags] failover_priority", priority),
    needless(
        "connection_check_type|reconnect_attempts|reconnect_interval|primary_notification_timeout|repmgrd_standby_startup_timeout|degraded_monitoring_timeout|async_query_timeout|election_rerun_interval",
        "agents hear each other each heartbeat; [failover] failure_timeout (2s) is how long a primary may be silent",
    ),
    needless("promote_command|follow_command", "pgherd promotes and re-points by itself"),
    absent(
        "failover_validation_command",
        "nothing waits for a program of yours: a takeover needs the promises of the sync set instead",
    ),
    needless(
        "standby_disconnect_on_failover|sibling_nodes_disconnect_timeout|primary_visibility_consensus|always_promote",
        "before a takeover the standbys always end their receivers and promise to take no more from the old primary",
    ),
    absent("repmgrd_exit_on_inactive_node", "a node belongs to the cluster or not: pgherd member list"),
    absent(
        "child_nodes_check_interval|child_nodes_disconnect_min_count|child_nodes_connected_min_count|child_nodes_connected_include_witness|child_nodes_disconnect_timeout|child_nodes_disconnect_command",
        CHILDREN,
    ),
    absent(
        "monitoring_history|monitor_interval_secs",
        "/metrics has lag and positions for a monitor to keep; pgherd keeps none in a table",
    ),
    needless("repmgrd_pid_file", "the node is one process, started by your service manager"),
    needless(
        "service_start_command|service_stop_command|service_restart_command|service_reload_command|service_promote_command",
        SERVICE,
    ),
    needless("repmgrd_service_start_command|repmgrd_service_stop_command", SERVICE),
    absent_always(
        "archive_ready_warning|archive_ready_critical|replication_lag_warning|replication_lag_critical",
        THRESHOLDS,
    ),
    absent("bdr_local_monitoring_only|bdr_recovery_timeout", BDR),
    setting("cluster", "cluster", same, ""),
    absent("upstream_node|upstream_node_id", "[tags] replicatefrom = \"NAME\" of the replica to stream from"),
    absent_always(
        "include|include_if_exists|include_dir",
        "give the included file to pgherd import, too, with --format repmgr",
    ),
];

/// repmgr's own defaults hold where the file says nothing.
pub fn finish(plan: &mut Plan) {
    plan.choose("tags.failover_priority", "100", "repmgr's default for priority; pgherd's own is 1");
    if plan.known("failover").is_none() {
        plan.note(
            "failover is not set, which is manual with repmgr: pgherd takes over by itself. [tags] nofailover = true keeps a node from \
             becoming primary.",
        );
    }
}

fn conninfo(plan: &mut Plan, entry: &Entry) -> Fate {
    let pairs = match entry.value.starts_with("postgres://") || entry.value.starts_with("postgresql://") {
        true => uri(&entry.value),
        false => connection(&entry.value),
    };
    let get = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let Some(host) =
        get("host").or_else(|| get("hostaddr")).filter(|host| !host.is_empty() && !host.starts_with('/'))
    else {
        return Fate::Refused("it names no host under which the others reach this node".to_owned());
    };
    let port = match get("port").map(|port| port.parse()) {
        None => 5432,
        Some(Ok(port)) => port,
        Some(Err(_)) => return Fate::Refused("its port is no number".to_owned()),
    };
    let address = config::join_address(&host, port);
    if let Err(why) = config::check_address(&address) {
        return Fate::Refused(why);
    }
    if plan.own.is_none() {
        plan.own = Some((host, port));
        plan.own_from = entry.place();
    }
    let password = if get("password").is_some() { "; its password is not needed and not shown" } else { "" };
    Fate::Taken(format!("[peers.NAME] postgres = {address:?} of this node{password}"))
}

/// Host and port of `postgresql://user:password@host:port/database`.
fn uri(text: &str) -> Vec<(String, String)> {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = super::convert::host_and_port(address);
    let mut pairs = vec![("host".to_owned(), host)];
    pairs.extend(port.map(|port| ("port".to_owned(), port.to_string())));
    pairs
}

/// Folders end without a slash here.
fn bin_dir(text: &str) -> Result<String, String> {
    let text = text.trim();
    Ok(if text.len() > 1 { text.trim_end_matches('/').to_owned() } else { text.to_owned() })
}

fn replication_type(_: &mut Plan, entry: &Entry) -> Fate {
    match entry.value.as_str() {
        "physical" => Fate::Needless("replication is physical".to_owned()),
        _ => Fate::Absent(BDR.to_owned()),
    }
}

fn location(plan: &mut Plan, entry: &Entry) -> Fate {
    match entry.value.as_str() {
        "default" => Fate::Needless("it is the default, which says nothing".to_owned()),
        zone => plan
            .set("tags.zone", zone.to_owned(), entry)
            .noted("among equal candidates one in the old primary's zone wins; others may, too"),
    }
}

fn parameter(plan: &mut Plan, entry: &Entry) -> Fate {
    match entry.value.is_empty() {
        true => Fate::Needless("it is empty".to_owned()),
        false => plan.parameter(&entry.path[0], &entry.value, entry),
    }
}

fn failover(plan: &mut Plan, entry: &Entry) -> Fate {
    plan.fact("failover", entry);
    match entry.value.as_str() {
        "automatic" => Fate::Needless("takeovers are automatic".to_owned()),
        "manual" => plan
            .set("tags.nofailover", "true".to_owned(), entry)
            .noted("this node does not become primary by itself, nor by a switchover"),
        other => Fate::Refused(format!("expected automatic or manual, found {other:?}")),
    }
}

/// 0 is never promoted, as with pgherd's own.
fn priority(plan: &mut Plan, entry: &Entry) -> Fate {
    plan.set("tags.failover_priority", entry.value.clone(), entry).noted("among those with the same WAL")
}
