//! Pgpool-II: `pgpool.conf`, to 4.6, and names of older versions.

use super::convert::{listen, megabytes, milliseconds, same, seconds, truth};
use super::plan::{Entry, Found, Given, Plan};
use super::report::Fate;
use super::table::{Row, absent, absent_always, needless, secret, setting, several};
use crate::config;

pub const TABLES: &[&[Row]] = &[ROWS, WATCHDOG];

const PROCESSES: &str = "sessions live on a few threads ([proxy] threads), not on a process each";
const HEALTH: &str = "agents hear each other each heartbeat, and each watches its PostgreSQL; [failover] failure_timeout is how long a primary may be silent";
const OWN_ROLES: &str = "pgherd makes the roles it needs, with passwords of their own";
const COMMANDS: &str = "pgherd takes over, re-points and rebuilds by itself: no script does it. What only tells somebody goes to [hooks] program";
const RECOVERY: &str = "a node is copied anew by itself where it has to, or by pgherd reinit NODE";
const PCP: &str = "pgherd's commands and its HTTP API take the place of pcp: [http] listen and port, docs/concepts/access.md";
const LOGS: &str =
    "PGHERD_LOG sets the level of the log, on standard error; counts are in the console and /metrics";
const NATIVE: &str =
    "PostgreSQL's own streaming replication alone; statements are not run on several servers";
const CACHE: &str = "results are not cached";
const CATALOG: &str = "the auto port reads PostgreSQL's catalog, temporary and unlogged tables included, and sees when it changes";
const AUTO: &str = "on the auto port hints in a comment or SET pgherd.route choose (docs/concepts/routing.md); the read-write and read-only ports choose for a whole session";
const PASSWORDS: &str = "clients log in with their roles' own passwords in PostgreSQL (SCRAM), whose secrets the proxy reads from the catalog";
const CIPHERS: &str = "TLS 1.2 and 1.3 with the safe ciphers alone; none can be chosen";
const QUORUM: &str =
    "agents agree by Raft, and a takeover needs a majority of them and the promises of the sync set";
const ESCALATION: &str = "[hooks] program, a script that runs it when called as on_role_change primary, and the other one as on_role_change replica (docs/concepts/hooks.md): the node with the address is then the primary";

pub const ROWS: &[Row] = &[
    several("listen_addresses", "[proxy] listen", listen_addresses),
    several("port", "[proxy] auto_port with load balancing, else read_write_port", port),
    several("load_balance_mode", "which port of the proxy has Pgpool-II's number", load_balance_mode),
    absent(
        "socket_dir|unix_socket_directories|unix_socket_group|unix_socket_permissions",
        "the proxy listens on TCP alone",
    ),
    needless("listen_backlog_multiplier|serialize_accept", "waiting connections are accepted as they come"),
    several("num_init_children", "[proxy] sessions_max", num_init_children),
    absent(
        "reserved_connections",
        "[proxy] sessions_max refuses further clients with an error, and [proxy] queue_max bounds who waits",
    ),
    needless(
        "max_pool|child_life_time|child_max_connections|process_management_mode|process_management_strategy|min_spare_children|max_spare_children",
        PROCESSES,
    ),
    several("backend_clustering_mode", "nothing for streaming_replication", clustering_mode),
    several("backend_hostname#", "[peers], the hosts of the nodes", backend_hostname),
    several("backend_port#", "[peers.NAME] postgres", backend_part),
    several("backend_application_name#", "[peers], the names of the nodes", backend_part),
    absent_always(
        "backend_weight#",
        "the least busy replica is chosen; one with [tags] noloadbalance gets no sessions",
    ),
    needless("backend_data_directory#", "each node has its data below its own [node] dir"),
    several("backend_flag#", "nothing for ALLOW_TO_FAILOVER", backend_flag),
    absent(
        "enable_pool_hba",
        "copy the lines of pool_hba.conf to [proxy] hba: methods trust, scram-sha-256, md5, password, cert, reject",
    ),
    secret("pool_passwd", PASSWORDS),
    absent("allow_clear_text_frontend_auth", PASSWORDS),
    needless("authentication_timeout", "a log-in has a deadline of pgherd's own"),
    several("ssl", "[proxy_tls] mode", ssl),
    several("ssl_cert", "[proxy_tls] cert", ssl_cert),
    several("ssl_key", "[proxy_tls] key", ssl_key),
    several("ssl_ca_cert", "[proxy_tls] client_ca", ssl_ca_cert),
    absent(
        "ssl_ca_cert_dir|ssl_crl_file",
        "[proxy_tls] client_ca is one file; lists of revoked certificates are not read",
    ),
    absent_always("ssl_ciphers|ssl_prefer_server_ciphers|ssl_ecdh_curve|ssl_dh_params_file", CIPHERS),
    secret("ssl_passphrase_command", "[proxy_tls] key is read without a password: store it decrypted, 0600"),
    several("connection_cache", "[proxy] pool_mode", connection_cache),
    several("connection_life_time", "[proxy] server_idle_timeout", connection_life_time),
    setting(
        "client_idle_limit",
        "proxy.client_idle_timeout",
        seconds,
        "within a transaction: [proxy] transaction_idle_timeout",
    ),
    needless("client_idle_limit_in_recovery", RECOVERY),
    needless(
        "reset_query_list",
        "a session takes its own settings along from server to server; nothing has to be reset between sessions (docs/concepts/pooling.md)",
    ),
    needless(
        "statement_level_load_balance",
        "the auto port chooses for each transaction, and outside of one for each statement",
    ),
    several("read_only_function_list|white_function_list", "[proxy] replica_functions", read_only_functions),
    several("write_function_list|black_function_list", "[proxy] primary_functions", write_functions),
    absent(
        "primary_routing_query_pattern_list|black_query_pattern_list|database_redirect_preference_list|app_name_redirect_preference_list",
        AUTO,
    ),
    needless(
        "allow_sql_comments|ignore_leading_white_space|check_temp_table|check_unlogged_table|relcache_expire|relcache_size|enable_shared_relcache|relcache_query_target",
        CATALOG,
    ),
    needless(
        "disable_load_balance_on_write|dml_adaptive_object_relationship_list",
        "reads see what their own session has written ([proxy] read_consistency = \"session\"), on any replica that has it; \"eventual\" is what \"off\" was",
    ),
    needless(
        "sr_check_period|sr_check_user|sr_check_database",
        "agents tell each other how far they are with each heartbeat",
    ),
    secret("sr_check_password", OWN_ROLES),
    several("delay_threshold", "[proxy] replica_lag_bytes_max", delay_threshold),
    several("delay_threshold_by_time", "[proxy] replica_lag_max", delay_threshold_by_time),
    needless(
        "prefer_lower_delay_standby",
        "replicas that lag are left out; among the others the least busy one is chosen",
    ),
    needless("log_standby_delay", "pgherd status and /metrics show how far each replica is"),
    needless(
        "health_check_period|health_check_timeout|health_check_user|health_check_database|health_check_max_retries|health_check_retry_delay|connect_timeout|health_check_period#|health_check_timeout#|health_check_user#|health_check_database#|health_check_max_retries#|health_check_retry_delay#|connect_timeout#",
        HEALTH,
    ),
    secret("health_check_password|health_check_password#", OWN_ROLES),
    absent("failover_command|failback_command|follow_primary_command|follow_master_command", COMMANDS),
    needless(
        "failover_on_backend_error|failover_on_backend_shutdown|fail_over_on_backend_error|detach_false_primary|search_primary_node_timeout|search_master_node_timeout",
        HEALTH,
    ),
    needless(
        "auto_failback|auto_failback_interval",
        "a node that comes back follows, rewinds or copies by itself",
    ),
    needless(
        "recovery_user|recovery_timeout|recovery_1st_stage_command|recovery_2nd_stage_command",
        RECOVERY,
    ),
    secret("recovery_password", OWN_ROLES),
    absent("pcp_listen_addresses|pcp_port|pcp_socket_dir", PCP),
    absent_always(
        "log_destination|log_line_prefix|log_connections|log_disconnections|log_hostname|log_statement|log_per_node_statement|notice_per_node_statement|log_client_messages|log_backend_messages|log_pcp_processes|log_error_verbosity|client_min_messages|log_min_messages|debug_level|logging_collector|log_directory|log_filename|log_file_mode|log_rotation_age|log_rotation_size|log_truncate_on_rotation|syslog_facility|syslog_ident",
        LOGS,
    ),
    needless(
        "pid_file_name|logdir|work_dir",
        "the node is one process, started by your service manager, and has its files below [node] dir",
    ),
    absent(
        "replication_mode|replicate_select|insert_lock|lobj_lock_table|replication_stop_on_mismatch|failover_if_affected_tuples_mismatch",
        NATIVE,
    ),
    needless("master_slave_mode|master_slave_sub_mode", NATIVE),
    absent("memory_cache_enabled", CACHE),
    needless(
        "memqcache_method|memqcache_memcached_host|memqcache_memcached_port|memqcache_total_size|memqcache_max_num_cache|memqcache_expire|memqcache_auto_cache_invalidation|memqcache_maxcache|memqcache_cache_block_size|memqcache_oiddir|cache_safe_memqcache_table_list|cache_unsafe_memqcache_table_list|white_memqcache_table_list|black_memqcache_table_list",
        CACHE,
    ),
    absent_always("include", "give the included file to pgherd import, too, with --format pgpool"),
];

pub const WATCHDOG: &[Row] = &[
    needless("use_watchdog", "every node has an agent, and they watch each other"),
    absent(
        "delegate_ip",
        "see [vip] (docs/reference/config.md), an address that follows the primary; clients need none that name the proxies of all nodes",
    ),
    absent(
        "if_cmd_path|if_up_cmd|if_down_cmd|arping_path|arping_cmd",
        "see [vip]: pgherd adds and announces the address itself",
    ),
    absent("wd_escalation_command|wd_de_escalation_command", ESCALATION),
    needless("clear_memqcache_on_escalation", CACHE),
    secret("wd_authkey", "agents know each other by certificates: pgherd config init makes them"),
    needless(
        "hostname#|wd_hostname|wd_port|wd_port#|pgpool_port#|other_pgpool_hostname#|other_pgpool_port#|other_wd_port#",
        "[peers] has the nodes, each with proxy and agent; where Pgpool-II runs on a machine without PostgreSQL that one can be a witness (--witness NAME=HOST)",
    ),
    needless(
        "heartbeat_hostname#|heartbeat_port#|heartbeat_device#|heartbeat_destination#|heartbeat_destination_port#|wd_heartbeat_port|wd_heartbeat_keepalive|wd_heartbeat_deadtime|wd_interval|wd_lifecheck_method|wd_lifecheck_query|wd_lifecheck_dbname|wd_lifecheck_user|wd_life_point|wd_ipc_socket_dir|wd_monitoring_interfaces_list",
        "agents hear each other each heartbeat by TLS",
    ),
    secret("wd_lifecheck_password", OWN_ROLES),
    absent(
        "wd_priority",
        "no node leads the proxies: each leads to the primary. [tags] failover_priority is about who becomes primary",
    ),
    needless("trusted_servers|ping_path|trusted_server_command", QUORUM),
    needless(
        "failover_when_quorum_exists|failover_require_consensus|allow_multiple_failover_requests_from_node|enable_consensus_with_half_votes",
        QUORUM,
    ),
    needless(
        "wd_remove_shutdown_nodes|wd_lost_node_removal_timeout|wd_no_show_node_removal_timeout",
        "who belongs to the cluster is said by pgherd member add and remove",
    ),
];

/// Port, TLS and backends are put together from several lines.
pub fn finish(plan: &mut Plan) {
    let balanced = plan.known("load_balance_mode").is_none_or(|word| truth(word).unwrap_or(true));
    let key = if balanced { "proxy.auto_port" } else { "proxy.read_write_port" };
    if let Some(port) = plan.facts.get("port").cloned() {
        match config::check_setting(key, &port.text) {
            Ok(()) => drop(plan.settings.entry(key.to_owned()).or_insert(port)),
            Err(why) => plan.note(format!("Pgpool-II's port was not taken over: {why}")),
        }
    }
    if plan.known("ssl").is_some_and(|word| truth(word).unwrap_or(false)) {
        for (fact, key) in [
            ("ssl_cert", "proxy_tls.cert"),
            ("ssl_key", "proxy_tls.key"),
            ("ssl_ca_cert", "proxy_tls.client_ca"),
        ] {
            let Some(given) = plan.facts.get(fact).filter(|given| !given.text.is_empty()).cloned() else {
                continue;
            };
            match config::check_setting(key, &given.text) {
                Ok(()) => drop(plan.settings.entry(key.to_owned()).or_insert(given)),
                Err(why) => plan.note(format!("{fact} was not taken over as {key}: {why}")),
            }
        }
    }
    let hosts: Vec<(String, Given)> = plan
        .facts
        .iter()
        .filter_map(|(name, given)| Some((name.strip_prefix("backend_hostname")?.to_owned(), given.clone())))
        .collect();
    for (number, host) in hosts {
        if host.text.is_empty() || host.text.starts_with('/') {
            plan.note(format!("{}: a backend by its Unix socket names no host: --peer NAME=HOST", host.from));
            continue;
        }
        let port = plan.known(&format!("backend_port{number}")).and_then(|port| port.parse().ok());
        let called =
            plan.known(&format!("backend_application_name{number}")).unwrap_or(&host.text).to_owned();
        plan.nodes.push(Found { called, host: host.text, port: port.or(Some(5432)), from: host.from });
    }
}

fn listen_addresses(plan: &mut Plan, entry: &Entry) -> Fate {
    let every = entry.value.split(',').any(|address| matches!(address.trim(), "*" | "0.0.0.0"));
    match listen(if every { "*" } else { &entry.value }) {
        Ok(address) => plan.set("proxy.listen", address, entry),
        Err(why) => Fate::Refused(why),
    }
}

fn port(plan: &mut Plan, entry: &Entry) -> Fate {
    plan.fact("port", entry);
    Fate::Taken("[proxy] auto_port with load_balance_mode on, else read_write_port".to_owned())
}

fn load_balance_mode(plan: &mut Plan, entry: &Entry) -> Fate {
    plan.fact("load_balance_mode", entry);
    Fate::Needless(
        "there are ports for both: auto_port balances by statement, read_write_port does not".to_owned(),
    )
}

/// Pgpool-II lets others wait; pgherd refuses them, so the number is a floor here.
fn num_init_children(plan: &mut Plan, entry: &Entry) -> Fate {
    let note = "Pgpool-II lets further clients wait, pgherd refuses them: thousands cost little here";
    plan.set("proxy.sessions_max", entry.value.clone(), entry).noted(note)
}

fn clustering_mode(_: &mut Plan, entry: &Entry) -> Fate {
    match entry.value.as_str() {
        "streaming_replication" => Fate::Needless("it is what pgherd does".to_owned()),
        _ => Fate::Absent(NATIVE.to_owned()),
    }
}

fn backend_hostname(plan: &mut Plan, entry: &Entry) -> Fate {
    plan.fact(&entry.path[0], entry);
    Fate::Taken("the host of a node of [peers]".to_owned())
}

fn backend_part(plan: &mut Plan, entry: &Entry) -> Fate {
    plan.fact(&entry.path[0], entry);
    let what =
        if entry.path[0].starts_with("backend_port") { "port" } else { "name, where pgherd can have it," };
    Fate::Taken(format!("the {what} of a node of [peers]"))
}

fn backend_flag(_: &mut Plan, entry: &Entry) -> Fate {
    let flags: Vec<&str> = entry.value.split('|').map(str::trim).collect();
    match () {
        () if flags.contains(&"ALWAYS_PRIMARY") => {
            Fate::Absent("who is primary is agreed on, and found out by nobody's setting".to_owned())
        }
        () if flags.contains(&"DISALLOW_TO_FAILOVER") => Fate::Absent(
            "[tags] nofailover = true in that node's own file keeps it from becoming primary".to_owned(),
        ),
        () => Fate::Needless("any node may become primary".to_owned()),
    }
}

fn ssl(plan: &mut Plan, entry: &Entry) -> Fate {
    plan.fact("ssl", entry);
    match truth(&entry.value) {
        Ok(true) => plan
            .set("proxy_tls.mode", "allow".to_owned(), entry)
            .noted("towards servers: [proxy_tls] server_mode"),
        Ok(false) => Fate::Needless("without a certificate the proxy encrypts nothing".to_owned()),
        Err(why) => Fate::Refused(why),
    }
}

fn ssl_cert(plan: &mut Plan, entry: &Entry) -> Fate {
    ssl_file(plan, entry, "[proxy_tls] cert")
}

fn ssl_key(plan: &mut Plan, entry: &Entry) -> Fate {
    ssl_file(plan, entry, "[proxy_tls] key")
}

fn ssl_ca_cert(plan: &mut Plan, entry: &Entry) -> Fate {
    ssl_file(plan, entry, "[proxy_tls] client_ca")
}

fn ssl_file(plan: &mut Plan, entry: &Entry, to: &str) -> Fate {
    plan.fact(&entry.path[0], entry);
    match entry.value.as_str() {
        "" => Fate::Needless("it is empty".to_owned()),
        path if !path.starts_with('/') => Fate::Refused(format!("{to} is an absolute path")),
        _ => Fate::Taken(format!("{to}, where ssl is on")),
    }
}

fn connection_cache(plan: &mut Plan, entry: &Entry) -> Fate {
    match truth(&entry.value) {
        Ok(true) => Fate::Needless(
            "servers are pooled; a session has one for a transaction ([proxy] pool_mode)".to_owned(),
        ),
        Ok(false) => plan.set("proxy.pool_mode", "session".to_owned(), entry),
        Err(why) => Fate::Refused(why),
    }
}

fn connection_life_time(plan: &mut Plan, entry: &Entry) -> Fate {
    match seconds(&entry.value) {
        Ok(text) if text == "0s" => {
            Fate::Absent("[proxy] server_idle_timeout has an end; \"24h\" is the longest".to_owned())
        }
        Ok(text) => plan.set("proxy.server_idle_timeout", text, entry),
        Err(why) => Fate::Refused(why),
    }
}

/// Plain names of functions in a list that may hold patterns, too.
fn functions(entry: &Entry) -> (Vec<String>, Vec<String>) {
    let names = entry.value.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
    names.partition(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.'))
}

fn listed(list: &mut Vec<Given>, entry: &Entry, to: &str) -> Fate {
    let (names, patterns) = functions(entry);
    for name in &names {
        list.push(Given { text: name.clone(), from: entry.place() });
    }
    let rest = match patterns.as_slice() {
        [] => String::new(),
        patterns => format!("; patterns have no counterpart, name the functions: {}", patterns.join(", ")),
    };
    match (names.is_empty(), rest.is_empty()) {
        (true, true) => Fate::Needless("the list is empty".to_owned()),
        (true, false) => Fate::Absent(rest.trim_start_matches("; ").to_owned()),
        (false, _) => Fate::Taken(format!("{to} = {}{rest}", names.join(", "))),
    }
}

/// pgherd's own list stays in front: setting one replaces the default.
fn read_only_functions(plan: &mut Plan, entry: &Entry) -> Fate {
    let fate = listed(&mut plan.replica_functions, entry, "[proxy] replica_functions");
    if matches!(fate, Fate::Taken(_)) && plan.known("replica_functions").is_none() {
        plan.fact("replica_functions", entry);
        let own = config::list_default("proxy.replica_functions");
        let own = own.into_iter().map(|text| Given { text, from: "pgherd's default".to_owned() });
        plan.replica_functions.splice(0..0, own);
    }
    fate.noted("the auto port goes by the catalog: only what that calls VOLATILE and is not has to be named")
}

fn write_functions(plan: &mut Plan, entry: &Entry) -> Fate {
    let note = "the auto port goes by the catalog: only what that calls STABLE or IMMUTABLE and is not has to be named";
    listed(&mut plan.primary_functions, entry, "[proxy] primary_functions").noted(note)
}

fn delay_threshold(plan: &mut Plan, entry: &Entry) -> Fate {
    match megabytes(&entry.value) {
        Ok(text) => plan.set("proxy.replica_lag_bytes_max", text, entry),
        Err(_) if same(&entry.value).is_ok_and(|text| text == "0") => {
            Fate::Needless("it is off; pgherd's default is [proxy] replica_lag_max = \"10s\"".to_owned())
        }
        Err(why) => Fate::Refused(why),
    }
}

fn delay_threshold_by_time(plan: &mut Plan, entry: &Entry) -> Fate {
    match milliseconds(&entry.value) {
        Ok(text) if text == "0s" => {
            Fate::Needless("it is off; pgherd's default is [proxy] replica_lag_max = \"10s\"".to_owned())
        }
        Ok(text) => plan.set("proxy.replica_lag_max", text, entry),
        Err(why) => Fate::Refused(why),
    }
}
