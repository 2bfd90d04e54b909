//! PgBouncer: `pgbouncer.ini`, to 1.25.

use super::convert::{listen, same, seconds, truth};
use super::plan::{Entry, Plan};
use super::report::Fate;
use super::table::{Row, absent, absent_always, needless, secret, setting, several};

const OS: &str = "sockets have the operating system's settings; keepalive can be set by sysctl";
const DNS: &str = "the servers are the nodes in [peers]; names are looked up by the system";
const LOGS: &str =
    "PGHERD_LOG sets the level of the log, on standard error; counts are in SHOW STATS and /metrics";
const PASSWORDS: &str = "clients log in with their roles' own passwords in PostgreSQL (SCRAM), whose secrets the proxy reads from the catalog; every name in that file has to be a role, with that password (docs/concepts/pooling.md)";
const CIPHERS: &str = "TLS 1.2 and 1.3 with the safe ciphers alone; none can be chosen";
const ONE_POOL: &str = "limits of a pool are the same for all users and databases: [proxy] pool_size, user_servers_max, database_servers_max, user_sessions_max, database_sessions_max";
const BY_ROLE: &str = "ALTER ROLE or ALTER DATABASE … SET gives it to whoever connects there";
const RESET: &str = "a session takes its own settings along from server to server; nothing has to be reset between sessions (docs/concepts/pooling.md)";

pub const ROWS: &[Row] = &[
    several("pgbouncer.listen_addr", "[proxy] listen", listen_addr),
    several("pgbouncer.listen_port", "[proxy] read_write_port", listen_port),
    absent(
        "pgbouncer.unix_socket_dir|pgbouncer.unix_socket_mode|pgbouncer.unix_socket_group",
        "the proxy listens on TCP alone",
    ),
    setting("pgbouncer.pool_mode", "proxy.pool_mode", same, ""),
    setting("pgbouncer.max_client_conn", "proxy.sessions_max", same, ""),
    setting(
        "pgbouncer.default_pool_size",
        "proxy.pool_size",
        same,
        "for sessions of one user, database and start-up packet, application_name included",
    ),
    setting("pgbouncer.min_pool_size", "proxy.pool_min", same, ""),
    setting("pgbouncer.reserve_pool_size", "proxy.pool_reserve", same, ""),
    several("pgbouncer.reserve_pool_timeout", "[proxy] pool_reserve_after", reserve_pool_timeout),
    setting("pgbouncer.max_db_connections", "proxy.database_servers_max", same, ""),
    setting("pgbouncer.max_db_client_connections", "proxy.database_sessions_max", same, ""),
    setting("pgbouncer.max_user_connections", "proxy.user_servers_max", same, ""),
    setting("pgbouncer.max_user_client_connections", "proxy.user_sessions_max", same, ""),
    several("pgbouncer.server_lifetime", "[proxy] server_lifetime", server_lifetime),
    several("pgbouncer.server_idle_timeout", "[proxy] server_idle_timeout", server_idle_timeout),
    several("pgbouncer.query_wait_timeout", "[proxy] queue_timeout", query_wait_timeout),
    setting(
        "pgbouncer.query_timeout",
        "proxy.query_timeout",
        seconds,
        "the query is cancelled first; its session goes on where it can",
    ),
    setting("pgbouncer.client_idle_timeout", "proxy.client_idle_timeout", seconds, ""),
    setting("pgbouncer.idle_transaction_timeout", "proxy.transaction_idle_timeout", seconds, ""),
    setting("pgbouncer.transaction_timeout", "proxy.transaction_timeout", seconds, ""),
    setting(
        "pgbouncer.client_tls_sslmode",
        "proxy_tls.mode",
        client_mode,
        "verify-full and verify-ca are both verify-ca; a user's own certificate is asked for by cert in [proxy] hba",
    ),
    setting("pgbouncer.client_tls_cert_file", "proxy_tls.cert", same, ""),
    setting("pgbouncer.client_tls_key_file", "proxy_tls.key", same, ""),
    setting("pgbouncer.client_tls_ca_file", "proxy_tls.client_ca", same, ""),
    several("pgbouncer.client_tls_protocols", "[proxy_tls] min_version", protocols),
    absent_always(
        "pgbouncer.client_tls_ciphers|pgbouncer.client_tls13_ciphers|pgbouncer.client_tls_dheparams|pgbouncer.client_tls_ecdhcurve|pgbouncer.server_tls_ciphers|pgbouncer.server_tls13_ciphers|pgbouncer.server_tls_protocols",
        CIPHERS,
    ),
    setting("pgbouncer.server_tls_sslmode", "proxy_tls.server_mode", server_mode, ""),
    setting("pgbouncer.server_tls_ca_file", "proxy_tls.server_ca", same, ""),
    absent(
        "pgbouncer.server_tls_cert_file|pgbouncer.server_tls_key_file",
        "the proxy shows no certificate to servers; it proves passwords by SCRAM",
    ),
    several("pgbouncer.auth_type", "nothing; some values have no counterpart", auth_type),
    secret("pgbouncer.auth_file", PASSWORDS),
    absent(
        "pgbouncer.auth_hba_file",
        "copy its lines to [proxy] hba: methods trust, scram-sha-256, md5, password, cert, reject",
    ),
    absent(
        "pgbouncer.auth_ident_file",
        "there are no maps of names: the role is the user that the client names",
    ),
    secret(
        "pgbouncer.auth_ldap_options",
        "LDAP is PostgreSQL's matter: lines with ldap in [postgres] hba, and such sessions keep their server",
    ),
    absent(
        "pgbouncer.auth_pam_confdir",
        "PAM is PostgreSQL's matter: lines with pam in [postgres] hba, and such sessions keep their server",
    ),
    needless(
        "pgbouncer.auth_user|pgbouncer.auth_query|pgbouncer.auth_dbname",
        "the proxy reads the secrets of roles from the catalog of its own node's server",
    ),
    absent(
        "pgbouncer.scram_iterations",
        "the proxy makes no secrets; PostgreSQL has scram_iterations in [postgres.parameters], from 16 on",
    ),
    absent("pgbouncer.admin_users", "superusers may do everything in the console; there is no list"),
    absent("pgbouncer.stats_users", "GRANT pg_monitor TO those users: members may look at the console"),
    needless(
        "pgbouncer.max_prepared_statements",
        "statements are prepared where they are used, up to 1000 on a server",
    ),
    needless(
        "pgbouncer.track_extra_parameters",
        "every setting of a session is taken along, also those that PostgreSQL does not report",
    ),
    needless(
        "pgbouncer.ignore_startup_parameters",
        "what a client asks for at its start is given to PostgreSQL",
    ),
    needless("pgbouncer.server_reset_query|pgbouncer.server_reset_query_always", RESET),
    needless(
        "pgbouncer.server_check_query|pgbouncer.server_check_delay",
        "a server that has ended is noticed at once, and a read is asked again of another one",
    ),
    needless(
        "pgbouncer.server_fast_close",
        "servers of a former primary are closed at once, others after their transaction",
    ),
    absent(
        "pgbouncer.server_round_robin",
        "the server that was given back last is used next; on replicas the least busy one",
    ),
    absent("pgbouncer.application_name_add_host", "SHOW CLIENTS has the client's address"),
    absent(
        "pgbouncer.query_wait_notify|pgbouncer.login_notify_message",
        "clients are sent no notices; SHOW POOLS and /metrics show who waits",
    ),
    absent_always(
        "pgbouncer.server_connect_timeout|pgbouncer.server_login_retry|pgbouncer.client_login_timeout|pgbouncer.cancel_wait_timeout|pgbouncer.suspend_timeout|pgbouncer.autodb_idle_timeout|pgbouncer.pool_idle_timeout",
        "these deadlines are pgherd's own",
    ),
    absent("pgbouncer.disable_pqexec", "several statements in one query are allowed, as by PostgreSQL"),
    absent_always(
        "pgbouncer.logfile|pgbouncer.syslog|pgbouncer.syslog_facility|pgbouncer.syslog_ident|pgbouncer.log_connections|pgbouncer.log_disconnections|pgbouncer.log_pooler_errors|pgbouncer.log_stats|pgbouncer.stats_period|pgbouncer.verbose",
        LOGS,
    ),
    needless(
        "pgbouncer.pidfile|pgbouncer.user|pgbouncer.service_name|pgbouncer.job_name|pgbouncer.conffile",
        "the node is one process, started by your service manager",
    ),
    needless(
        "pgbouncer.pkt_buf|pgbouncer.sbuf_loopcnt|pgbouncer.max_packet_size|pgbouncer.listen_backlog",
        "buffers and limits of messages are pgherd's own",
    ),
    needless(
        "pgbouncer.so_reuseport|pgbouncer.peer_id",
        "one process has a thread for every four cores ([proxy] threads), and cancels find their session by any node",
    ),
    absent("pgbouncer.tcp_defer_accept|pgbouncer.tcp_socket_buffer|pgbouncer.tcp_user_timeout", OS),
    absent_always(
        "pgbouncer.tcp_keepalive|pgbouncer.tcp_keepcnt|pgbouncer.tcp_keepidle|pgbouncer.tcp_keepintvl",
        OS,
    ),
    absent_always(
        "pgbouncer.dns_max_ttl|pgbouncer.dns_zone_check_period|pgbouncer.dns_nxdomain_ttl|pgbouncer.resolv_conf",
        DNS,
    ),
    needless("databases.*", "every database of the cluster can be connected to by its own name"),
    needless("databases.*.host|databases.*.port", "the read-write port leads to the primary, wherever it is"),
    several("databases.*.dbname", "nothing where it is the name itself", dbname),
    secret("databases.*.password", PASSWORDS),
    absent("databases.*.user", "a client logs in as the role that it names; none is put in its place"),
    needless(
        "databases.*.auth_user|databases.*.auth_query|databases.*.auth_dbname",
        "the proxy reads the secrets of roles from the catalog of its own node's server",
    ),
    absent_always(
        "databases.*.pool_size|databases.*.min_pool_size|databases.*.reserve_pool|databases.*.reserve_pool_size|databases.*.reserve_pool_timeout|databases.*.pool_mode|databases.*.max_db_connections|databases.*.max_db_client_connections|databases.*.server_lifetime|databases.*.server_idle_timeout|databases.*.client_idle_timeout|databases.*.query_wait_timeout",
        ONE_POOL,
    ),
    needless(
        "databases.*.load_balance_hosts",
        "the read-only port spreads over replicas, the least busy first",
    ),
    absent(
        "databases.*.connect_query|databases.*.client_encoding|databases.*.datestyle|databases.*.timezone|databases.*.application_name",
        BY_ROLE,
    ),
    needless("users.*", "roles are PostgreSQL's"),
    absent_always(
        "users.*.pool_mode|users.*.pool_size|users.*.min_pool_size|users.*.reserve_pool_size|users.*.max_user_connections|users.*.max_user_client_connections|users.*.query_timeout|users.*.client_idle_timeout|users.*.idle_transaction_timeout|users.*.transaction_timeout",
        ONE_POOL,
    ),
    needless(
        "peers.*|peers.*.host|peers.*.port|peers.*.pool_size",
        "a cancel request reaches its session through the proxy of any node",
    ),
];

/// PgBouncer's own default holds where the file says nothing.
pub fn finish(plan: &mut Plan) {
    plan.choose("proxy.pool_mode", "session", "PgBouncer's default; pgherd's own is \"transaction\"");
}

fn listen_addr(plan: &mut Plan, entry: &Entry) -> Fate {
    if entry.value.is_empty() {
        return Fate::Absent("the proxy listens on TCP alone, and always".to_owned());
    }
    let every = entry.value.split(',').any(|address| matches!(address.trim(), "*" | "0.0.0.0"));
    match listen(if every { "*" } else { &entry.value }) {
        Ok(address) => plan.set("proxy.listen", address, entry),
        Err(why) => Fate::Refused(why),
    }
}

fn listen_port(plan: &mut Plan, entry: &Entry) -> Fate {
    plan.set("proxy.read_write_port", entry.value.clone(), entry)
}

/// 0 has a meaning of its own in PgBouncer.
fn positive(plan: &mut Plan, entry: &Entry, key: &str, zero: &str) -> Fate {
    match seconds(&entry.value) {
        Ok(text) if text == "0s" => Fate::Refused(zero.to_owned()),
        Ok(text) => plan.set(key, text, entry),
        Err(why) => Fate::Refused(why),
    }
}

fn reserve_pool_timeout(plan: &mut Plan, entry: &Entry) -> Fate {
    positive(
        plan,
        entry,
        "proxy.pool_reserve_after",
        "0 means that there is no reserve: leave [proxy] pool_reserve at 0",
    )
}

fn server_lifetime(plan: &mut Plan, entry: &Entry) -> Fate {
    positive(
        plan,
        entry,
        "proxy.server_lifetime",
        "0 closes each server after its use; pgherd has no such mode",
    )
}

fn server_idle_timeout(plan: &mut Plan, entry: &Entry) -> Fate {
    positive(
        plan,
        entry,
        "proxy.server_idle_timeout",
        "0 never closes an idle server; \"24h\" is the longest here",
    )
}

fn query_wait_timeout(plan: &mut Plan, entry: &Entry) -> Fate {
    positive(plan, entry, "proxy.queue_timeout", "0 waits without end; a wait here has one, \"1h\" at most")
}

fn client_mode(text: &str) -> Result<String, String> {
    let word = match text.trim() {
        "prefer" | "allow" => "allow",
        "verify-ca" | "verify-full" => "verify-ca",
        other => other,
    };
    Ok(word.to_owned())
}

fn server_mode(text: &str) -> Result<String, String> {
    Ok(if text.trim() == "allow" { "prefer".to_owned() } else { text.trim().to_owned() })
}

fn protocols(plan: &mut Plan, entry: &Entry) -> Fate {
    let words: Vec<&str> =
        entry.value.split([',', ':', ' ']).map(str::trim).filter(|word| !word.is_empty()).collect();
    match words.as_slice() {
        ["tlsv1.3"] => plan.set("proxy_tls.min_version", "TLSv1.3".to_owned(), entry),
        ["secure" | "default"] => Fate::Needless("TLS 1.2 and 1.3 are spoken by default".to_owned()),
        words if words.iter().all(|word| matches!(*word, "tlsv1.2" | "tlsv1.3")) => {
            plan.set("proxy_tls.min_version", "TLSv1.2".to_owned(), entry)
        }
        _ => Fate::Absent("TLS 1.0 and 1.1 are not spoken; 1.2 is the lowest".to_owned()),
    }
}

fn auth_type(_: &mut Plan, entry: &Entry) -> Fate {
    match entry.value.as_str() {
        "scram-sha-256" => Fate::Needless("PostgreSQL's own passwords are asked for, by SCRAM".to_owned()),
        "md5" | "plain" => Fate::Absent(
            "the proxy asks by SCRAM: roles whose password is stored as md5 log in at PostgreSQL itself and keep their server until they have a new password (password_encryption = scram-sha-256)".to_owned(),
        ),
        "hba" => Fate::Absent("copy the lines of auth_hba_file to [proxy] hba".to_owned()),
        "cert" => Fate::Absent("[proxy] hba with lines hostssl … cert, and [proxy_tls] client_ca".to_owned()),
        "trust" | "any" => Fate::Absent("nobody is let in without a proof unless PostgreSQL does so: lines with trust in [postgres] hba; a user is never put in another's place".to_owned()),
        _ => Fate::Absent("PostgreSQL judges such log-ins itself, by [postgres] hba, and their sessions keep their server".to_owned()),
    }
}

fn dbname(_: &mut Plan, entry: &Entry) -> Fate {
    match entry.path.get(1) == Some(&entry.value) || truth(&entry.value).is_ok_and(|_| entry.value.is_empty()) {
        true => Fate::Needless("it is the database's own name".to_owned()),
        false => Fate::Absent("a database has no second name in the proxy: clients name the database itself, or ALTER DATABASE … RENAME".to_owned()),
    }
}
