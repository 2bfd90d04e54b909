//! HAProxy in front of PostgreSQL: `haproxy.cfg`.
//!
//! A listener counts by its check: `httpchk /primary` and its kin lead to the primary, `/replica` and its kin to replicas. What is not about
//! PostgreSQL (statistics, HTTP) is left to HAProxy.

use std::collections::BTreeMap;

use super::Format;
use super::convert::{host_and_port, listen, milliseconds};
use super::plan::{Entry, Found, Plan, Role};
use super::report::Fate;
use super::table::{self, Row, absent, absent_always, needless, several};

const CHECKS: &str = "the proxy knows who is primary from its own node's agent, and asks nobody";
const LEAST_BUSY: &str =
    "the least busy replica is chosen; sessions that only read are spread by transaction";
const PROCESS: &str = "the node is one process, started by your service manager";
const LOGS: &str =
    "PGHERD_LOG sets the level of the log, on standard error; counts are in the console and /metrics";
const STATISTICS: &str = "the dashboard, /metrics and the console show what passes";
const OS: &str = "sockets have the operating system's settings";
const TLS: &str = "[proxy_tls] has the certificate and the mode for clients, TLS 1.2 and 1.3";
const HTTP: &str = "it is about HTTP, which PostgreSQL does not speak: leave it to HAProxy";
const RULES: &str = "addresses of clients are judged by [proxy] hba; there is no language of rules";

pub const ROWS: &[Row] = &[
    several("bind", "[proxy] listen, and read_write_port or read_only_port by the listener's check", bind),
    several("server", "[peers], names and hosts of the nodes", server),
    several("server-template", "nothing", template),
    several("maxconn", "[proxy] sessions_max, in global", maxconn),
    several("timeout client", "[proxy] client_idle_timeout", timeout_client),
    several("timeout queue", "[proxy] queue_timeout", timeout_queue),
    needless(
        "timeout server|timeout tunnel",
        "timeout client is the one for idle sessions; a server that works is waited for",
    ),
    needless(
        "timeout connect|timeout check|retries|option redispatch|no option redispatch|option persist|option abortonclose|no option abortonclose",
        "a server that cannot be reached is left out for a while, and a session waits for another within [proxy] queue_timeout",
    ),
    needless(
        "option httpchk|http-check expect|http-check send|http-check connect|option pgsql-check|option tcp-check|tcp-check connect|tcp-check expect|tcp-check send|tcp-check send-binary|option log-health-checks|http-check disable-on-404|http-check send-state|http-check set-var|http-check unset-var|http-check comment|tcp-check comment|tcp-check send-lf|tcp-check send-binary-lf|tcp-check set-var|tcp-check unset-var|external-check command|external-check path|option external-check|option mysql-check|option redis-check|option ldap-check|option smtpchk|option ssl-hello-chk|option spop-check|external-check",
        CHECKS,
    ),
    needless(
        "default-server|balance|hash-type|fullconn|option allbackups|option prefer-last-server|use-server|option transparent|source|force-persist|ignore-persist|load-server-state-from-file|server-state-file-name|server-state-file|dispatch|cookie|persist|stick match|stick on|stick store-request|stick store-response|stick-table|spread-checks",
        LEAST_BUSY,
    ),
    needless(
        "default_backend|use_backend|mode|description|id|enabled",
        "listeners are the proxy's three ports",
    ),
    absent("disabled", "a listener that is disabled is not taken over"),
    absent_always(
        "acl|tcp-request connection|tcp-request content|tcp-request session|tcp-request inspect-delay|tcp-response content|tcp-response inspect-delay|rate-limit sessions|filter|unique-id-format|unique-id-header|declare capture",
        RULES,
    ),
    absent_always(
        "log|log-format|log-format-sd|log-tag|log-send-hostname|option tcplog|option dontlognull|no option dontlognull|option dontlog-normal|option logasap|option log-separate-errors|option httplog|option httpslog|error-log-format|email-alert from|email-alert level|email-alert mailers|email-alert myhostname|email-alert to|option contstats|option socket-stats",
        LOGS,
    ),
    needless(
        "stats socket|stats timeout|stats enable|stats uri|stats refresh|stats auth|stats admin|stats hide-version|stats realm|stats scope|stats show-legends|stats show-node|stats show-desc|stats http-request|stats maxconn|stats bind-process",
        STATISTICS,
    ),
    needless(
        "chroot|user|group|daemon|uid|gid|nbproc|nbthread|cpu-map|pidfile|master-worker|hard-stop-after|node|setenv|presetenv|unsetenv|resetenv|bind-process|ulimit-n|strict-limits|localpeer|set-dumpable|quiet|expose-fd|default-path|insecure-fork-wanted|grace",
        PROCESS,
    ),
    absent_always(
        "ca-base|crt-base|ssl-default-bind-ciphers|ssl-default-bind-ciphersuites|ssl-default-bind-options|ssl-default-server-ciphers|ssl-default-server-ciphersuites|ssl-default-server-options|ssl-default-bind-curves|ssl-dh-param-file|ssl-server-verify|tune.ssl.default-dh-param|ssl-load-extra-files",
        TLS,
    ),
    needless(
        "option tcpka|option clitcpka|option srvtcpka|clitcpka-cnt|clitcpka-idle|clitcpka-intvl|srvtcpka-cnt|srvtcpka-idle|srvtcpka-intvl|option nolinger|option tcp-smart-accept|option tcp-smart-connect|option splice-auto|option splice-request|option splice-response|option independent-streams|option idle-close-on-response|backlog|timeout client-fin|timeout server-fin|maxconnrate|maxsessrate|maxsslconn|maxsslrate|maxpipes",
        OS,
    ),
    needless(
        "errorfile|errorfiles|errorloc|errorloc302|errorloc303|http-request|http-response|http-after-response|http-error|http-reuse|http-send-name-header|redirect|compression|monitor-uri|monitor fail|max-keep-alive-queue|retry-on|capture cookie|capture request|capture response|timeout http-request|timeout http-keep-alive|timeout tarpit|option forwardfor|option originalto|option http-server-close|option http-keep-alive|option httpclose|option http-buffer-request|option http-ignore-probes|option http-no-delay|option http-pretend-keepalive|option http-use-proxy-header|option http-restrict-req-hdr-names|option checkcache|option disable-h2-upgrade|option h1-case-adjust-bogus-client|option h1-case-adjust-bogus-server|option accept-invalid-http-request|option accept-invalid-http-response|use-fcgi-app|transparent",
        HTTP,
    ),
];

/// What later entries hang on: each listener's role, and which port of a server is PgBouncer's.
pub fn prepare(plan: &mut Plan, read: &[(Format, Vec<Entry>)]) {
    for (format, entries) in read {
        match format {
            Format::HaProxy => plan.roles.extend(roles(entries)),
            Format::PgBouncer => {
                let port = entries.iter().rfind(|entry| entry.key() == "pgbouncer.listen_port");
                let port = port.map_or("6432", |entry| entry.value.as_str()).to_owned();
                let given = super::plan::Given { text: port, from: String::new() };
                plan.facts.insert("pgbouncer port".to_owned(), given);
            }
            _ => {}
        }
    }
}

/// A frontend has the role of its backend.
fn roles(entries: &[Entry]) -> BTreeMap<String, Role> {
    let mut roles = BTreeMap::new();
    let default_mode =
        entries.iter().rfind(|entry| entry.section.starts_with("defaults") && entry.key() == "mode");
    let default_mode = default_mode.map_or("tcp", |entry| entry.value.as_str());
    let mut sections: Vec<&str> = entries.iter().map(|entry| entry.section.as_str()).collect();
    sections.dedup();
    let of = |section: &str, key: &str| {
        entries
            .iter()
            .find(|entry| entry.section == section && entry.key() == key)
            .map(|entry| entry.value.as_str())
    };
    for section in sections {
        let kind = section.split(' ').next().unwrap_or_default();
        if !matches!(kind, "listen" | "frontend" | "backend") {
            continue;
        }
        let behind = of(section, "default_backend").or_else(|| of(section, "use_backend"));
        let behind =
            behind.and_then(|value| value.split_whitespace().next()).map(|name| format!("backend {name}"));
        let target = behind.as_deref().unwrap_or(section);
        let mode = of(section, "mode").unwrap_or(default_mode);
        let role = match mode {
            "tcp" => checked(of(target, "option httpchk"), of(target, "http-check send")),
            _ => Role::Foreign,
        };
        roles.insert(section.to_owned(), role);
    }
    roles
}

/// The path of Patroni's interface that is asked; none at all is `/`, which is the primary's.
fn checked(httpchk: Option<&str>, send: Option<&str>) -> Role {
    let Some(check) = httpchk else { return Role::Unclear };
    let words = check.split_whitespace().chain(send.unwrap_or_default().split_whitespace());
    let path = words.rev().find(|word| word.starts_with('/')).unwrap_or("/");
    match path.split('?').next().unwrap_or_default().trim_end_matches('/') {
        "" | "/primary" | "/master" | "/read-write" | "/leader" | "/standby-leader" | "/standby_leader" => {
            Role::ReadWrite
        }
        "/replica"
        | "/read-only"
        | "/async"
        | "/asynchronous"
        | "/sync"
        | "/synchronous"
        | "/quorum"
        | "/read-only-sync"
        | "/read-only-synchronous"
        | "/read-only-quorum" => Role::ReadOnly,
        _ => Role::Unclear,
    }
}

pub fn judge(row: Option<&Row>, plan: &mut Plan, entry: &Entry) -> Fate {
    let kind = entry.section.split(' ').next().unwrap_or_default();
    let foreign = |role: &Role| *role == Role::Foreign;
    match (kind, plan.roles.get(&entry.section)) {
        ("global" | "defaults", _) if plan.roles.values().all(foreign) => {
            Fate::Needless("nothing in this file is about PostgreSQL".to_owned())
        }
        ("global" | "defaults", _) => table::judge(row, plan, entry),
        ("listen" | "frontend" | "backend", Some(Role::Foreign)) => Fate::Needless(
            "this section is not about PostgreSQL: leave it to HAProxy, or do without".to_owned(),
        ),
        ("listen" | "frontend" | "backend", _) => table::judge(row, plan, entry),
        _ => Fate::Needless("this section is HAProxy's own".to_owned()),
    }
}

pub fn finish(plan: &mut Plan) {
    plan.note(
        "HAProxy in front of PostgreSQL is not needed: each node's proxy leads to the primary. It can stay while you move, with \
         [http] port as the port of its checks (docs/concepts/patroni.md).",
    );
}

fn bind(plan: &mut Plan, entry: &Entry) -> Fate {
    let key = match plan.roles.get(&entry.section) {
        Some(Role::ReadWrite) => "proxy.read_write_port",
        Some(Role::ReadOnly) => "proxy.read_only_port",
        _ => {
            return Fate::Absent(
                "its check does not say whether the primary or replicas are behind it: [proxy] read_write_port and read_only_port".to_owned(),
            );
        }
    };
    let word = entry.value.split_whitespace().next().unwrap_or_default();
    let (host, port) = host_and_port(word);
    let Some(port) = port else {
        return Fate::Refused("expected one address and port, such as *:5000".to_owned());
    };
    let note = if entry.value.contains(" ssl") { TLS } else { "" };
    let fate = plan.set(key, port.to_string(), entry);
    let address = match listen(&host) {
        Ok(host) => plan.set("proxy.listen", host, entry),
        Err(why) => Fate::Refused(why),
    };
    match (fate, address) {
        (Fate::Taken(text), Fate::Taken(_)) => Fate::Taken(text).noted(note),
        (Fate::Taken(_), other) => other,
        (fate, _) => fate,
    }
}

fn server(plan: &mut Plan, entry: &Entry) -> Fate {
    let words: Vec<&str> = entry.value.split_whitespace().collect();
    let [name, address, options @ ..] = words.as_slice() else {
        return Fate::Refused("expected a name and an address".to_owned());
    };
    let (host, port) = host_and_port(address);
    let pooler = plan.known("pgbouncer port").and_then(|port| port.parse().ok());
    let port = port.filter(|port| Some(*port) != pooler);
    if host.starts_with('/') || crate::config::check_address(&crate::config::join_address(&host, 1)).is_err()
    {
        return Fate::Refused(format!("{host:?} is no host that the nodes could reach"));
    }
    plan.nodes.push(Found { called: (*name).to_owned(), host, port, from: entry.place() });
    let limit = options.contains(&"maxconn");
    let note = if limit {
        "its maxconn has no counterpart: [proxy] pool_size and servers_max bound the servers' connections"
    } else {
        ""
    };
    Fate::Taken("a node of [peers]".to_owned()).noted(note)
}

fn template(_: &mut Plan, _: &Entry) -> Fate {
    Fate::Absent("a template names no nodes: --peer NAME=HOST for each".to_owned())
}

/// One limit for all clients; HAProxy's others are per listener or per process.
fn maxconn(plan: &mut Plan, entry: &Entry) -> Fate {
    match entry.section.as_str() {
        "global" => plan.set("proxy.sessions_max", entry.value.clone(), entry),
        _ => Fate::Absent(
            "no limit for one port alone: [proxy] sessions_max is for all clients of a node".to_owned(),
        ),
    }
}

fn timeout_client(plan: &mut Plan, entry: &Entry) -> Fate {
    match milliseconds(&entry.value) {
        Ok(text) => plan
            .set("proxy.client_idle_timeout", text, entry)
            .noted("HAProxy wants one; without it no idle session is ended, and a query that works is never cut here"),
        Err(why) => Fate::Refused(why),
    }
}

fn timeout_queue(plan: &mut Plan, entry: &Entry) -> Fate {
    match milliseconds(&entry.value) {
        Ok(text) => plan.set("proxy.queue_timeout", text, entry),
        Err(why) => Fate::Refused(why),
    }
}
