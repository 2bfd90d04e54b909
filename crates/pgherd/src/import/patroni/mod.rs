//! Patroni: `patroni.yml`, and the dynamic configuration that `patronictl show-config` prints.
//!
//! Where both say something about PostgreSQL the local file goes first, as with Patroni, except for the parameters that Patroni takes from the
//! dynamic configuration alone.

mod rows;

use super::convert::{host_and_port, listen, same, truth};
use super::plan::{Entry, Found, Given, Plan};
use super::report::Fate;
use super::table::Row;
use crate::config;

pub const TABLES: &[&[Row]] = &[rows::LOCAL, rows::POSTGRESQL, rows::DYNAMIC, rows::STORES];

/// Where the dynamic configuration stands in a local file.
pub const DYNAMIC: &[&str] = &["bootstrap", "dcs"];

/// Parameters that have to be the same everywhere: Patroni passes them on the command line, and knows no local ones.
const DYNAMIC_ONLY: [&str; 13] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_worker_processes",
    "max_prepared_transactions",
    "wal_level",
    "track_commit_timestamp",
    "max_wal_senders",
    "max_replication_slots",
    "hot_standby",
    "wal_log_hints",
    "cluster_name",
    "listen_addresses",
    "port",
];

/// Local settings first, then dynamic ones, then what was for the first start only.
pub fn order(local: Vec<Entry>, dynamic: Option<Vec<Entry>>) -> Vec<Entry> {
    let mut entries = local;
    entries.extend(dynamic.unwrap_or_default());
    let rank = |entry: &Entry| match entry.path.first().map(String::as_str) {
        Some("bootstrap") if is_dynamic(entry) => 1,
        Some("bootstrap") => 2,
        _ => 0,
    };
    entries.sort_by_key(rank);
    entries
}

fn is_dynamic(entry: &Entry) -> bool {
    entry.path.len() > 2 && entry.path[0] == "bootstrap" && entry.path[1] == "dcs"
}

/// What Patroni itself does not look at.
pub fn passed_over(entry: &Entry, dynamic: Option<&str>) -> Option<Fate> {
    if let Some(file) = dynamic.filter(|file| is_dynamic(entry) && *file != entry.file) {
        return Some(Fate::Overridden(format!("{file} is the dynamic configuration as it is now")));
    }
    let local = entry.path.len() == 3 && entry.path[0] == "postgresql" && entry.path[1] == "parameters";
    let name = entry.path.last().map(String::as_str).unwrap_or_default();
    (local && DYNAMIC_ONLY.contains(&name))
        .then(|| Fate::Overridden(format!("Patroni takes {name} from the dynamic configuration alone")))
}

pub fn finish(plan: &mut Plan, has_dynamic: bool) {
    if !has_dynamic {
        plan.note(
            "bootstrap.dcs is what Patroni's cluster began with; what it has now may differ: patronictl show-config > dynamic.yml, and give \
             this command --dynamic dynamic.yml.",
        );
    }
    synchronous(plan);
    if let (Some(cert), None) = (plan.settings.get("http.cert"), plan.settings.get("http.key")) {
        let cert = cert.text.clone();
        plan.choose(
            "http.key",
            &cert,
            "Patroni reads the key from the certificate's file where no keyfile is named",
        );
    }
    if plan.settings.contains_key("http.cert") {
        plan.note(
            "The HTTP port speaks HTTPS alone, with the key closed to others (0600, or 0640 with a group).",
        );
    }
    let hooks: Vec<(String, String)> = plan
        .facts
        .iter()
        .filter_map(|(name, given)| Some((name.strip_prefix("callback ")?.to_owned(), given.text.clone())))
        .collect();
    if let Some((_, program)) = hooks.iter().find(|(name, _)| name == "on_role_change") {
        let others = hooks.iter().any(|(name, other)| name != "on_role_change" && other == program);
        if others {
            plan.note(format!(
                "{program} was also called for on_start, on_stop, on_restart or on_reload; here it is called for on_role_change, and for the \
                 events that [hooks] events names (docs/concepts/hooks.md)."
            ));
        }
    }
}

/// Mode, strictness and number together are `[sync]`.
fn synchronous(plan: &mut Plan) {
    let mode = plan.facts.get("synchronous_mode").cloned();
    let word = mode.as_ref().map(|given| given.text.to_ascii_lowercase()).unwrap_or_default();
    let put = |plan: &mut Plan, key: &str, text: &str, from: &Option<Given>| {
        let from = from.as_ref().map(|given| given.from.clone()).unwrap_or_default();
        plan.settings.entry(key.to_owned()).or_insert(Given { text: text.to_owned(), from });
    };
    let quorum = word == "quorum";
    if !quorum && !truth(&word).unwrap_or(false) {
        plan.choose("sync.standbys", "0", "Patroni replicates asynchronously here (synchronous_mode is off)");
        plan.note(
            "A takeover may lose the last commits, as with Patroni's synchronous_mode off. With [sync] standbys = 1, which is pgherd's \
             default, none that was acknowledged is lost.",
        );
        return;
    }
    let count = plan.facts.get("synchronous_node_count").cloned();
    let number = count.as_ref().map_or("1", |given| given.text.as_str()).to_owned();
    match config::check_setting("sync.standbys", &number) {
        Ok(()) => put(plan, "sync.standbys", &number, &count.or_else(|| mode.clone())),
        Err(why) => plan.note(format!("synchronous_node_count was not taken over: {why}")),
    }
    put(plan, "sync.method", if quorum { "quorum" } else { "priority" }, &mode);
    let strict = plan.facts.get("synchronous_mode_strict").cloned();
    let is_strict = strict.as_ref().is_some_and(|given| truth(&given.text).unwrap_or(false));
    let word = if is_strict { "block" } else { "degrade" };
    put(plan, "sync.on_last_standby_lost", word, &strict.or(mode));
    if !is_strict {
        plan.note(
            "Without synchronous_mode_strict the primary goes on alone when its last standby is lost, here by [sync] on_last_standby_lost = \
             \"degrade\"; pgherd's default is \"block\".",
        );
    }
}

fn scope(plan: &mut Plan, entry: &Entry) -> Fate {
    plan.set("cluster", entry.value.clone(), entry)
}

fn name(plan: &mut Plan, entry: &Entry) -> Fate {
    plan.set("node.name", entry.value.clone(), entry)
}

/// `host:port`, several hosts with commas between.
fn postgresql_listen(plan: &mut Plan, entry: &Entry) -> Fate {
    let (hosts, port) = match entry.value.rsplit_once(':') {
        Some((hosts, port)) if port.parse::<u16>().is_ok() => (hosts, Some(port)),
        _ => (entry.value.as_str(), None),
    };
    let every = |host: &str| matches!(host.trim(), "*" | "0.0.0.0" | "");
    let hosts = match hosts.split(',').any(every) {
        true => "*".to_owned(),
        false => {
            hosts.split(',').map(|host| host.trim().trim_matches(['[', ']'])).collect::<Vec<_>>().join(",")
        }
    };
    let fate = plan.set("postgres.listen", hosts, entry);
    let port = port.map(|port| plan.set("postgres.port", port.to_owned(), entry));
    both(fate, port)
}

fn connect_address(plan: &mut Plan, entry: &Entry) -> Fate {
    let (host, port) = host_and_port(&entry.value);
    let port = port.unwrap_or(5432);
    if let Err(why) = config::check_address(&config::join_address(&host, port)) {
        return Fate::Refused(why);
    }
    let told = format!("[peers.NAME] postgres = {:?} of this node", config::join_address(&host, port));
    plan.own = Some((host, port));
    plan.own_from = entry.place();
    Fate::Taken(told)
}

fn restapi_listen(plan: &mut Plan, entry: &Entry) -> Fate {
    let (host, port) = host_and_port(&entry.value);
    let fate = match listen(&host) {
        Ok(host) => plan.set("http.listen", host, entry),
        Err(why) => Fate::Refused(why),
    };
    let port = port.map(|port| plan.set("http.port", port.to_string(), entry));
    both(fate, port)
}

/// One line that gives two settings.
fn both(first: Fate, second: Option<Fate>) -> Fate {
    match (first, second) {
        (Fate::Taken(first), Some(Fate::Taken(second))) => {
            let second = second.split_once("] ").map_or(second.clone(), |(_, rest)| rest.to_owned());
            Fate::Taken(format!("{first}, {second}"))
        }
        (Fate::Taken(_), Some(second)) => second,
        (first, _) => first,
    }
}

/// The file must be an absolute path: pgherd does not know the folder that Patroni was started in.
fn restapi_file(key: &'static str, plan: &mut Plan, entry: &Entry) -> Fate {
    match same(&entry.value) {
        Ok(text) => plan.set(key, text, entry),
        Err(why) => Fate::Refused(why),
    }
}

fn certfile(plan: &mut Plan, entry: &Entry) -> Fate {
    restapi_file("http.cert", plan, entry)
}

fn keyfile(plan: &mut Plan, entry: &Entry) -> Fate {
    restapi_file("http.key", plan, entry)
}

/// A true value of YAML is `on` for PostgreSQL.
fn parameter(plan: &mut Plan, entry: &Entry) -> Fate {
    let name = entry.path.last().cloned().unwrap_or_default();
    if entry.value.is_empty() {
        return Fate::Needless("it has no value".to_owned());
    }
    if name == "wal_keep_segments" {
        return Fate::Absent(
            "PostgreSQL has no such parameter since 13: set wal_keep_size in [postgres.parameters]"
                .to_owned(),
        );
    }
    let value = match entry.value.as_str() {
        "true" | "True" | "TRUE" | "yes" | "Yes" => "on",
        "false" | "False" | "FALSE" | "no" | "No" => "off",
        value => value,
    };
    plan.parameter(&name, value, entry)
}

/// Lists replace each other as wholes: the first place that has one.
fn pg_hba(plan: &mut Plan, entry: &Entry) -> Fate {
    let place = entry.key();
    match plan.facts.get("pg_hba").cloned() {
        Some(first) if first.text != place => {
            return Fate::Overridden(format!("the list from {} on replaces it as a whole", first.from));
        }
        Some(_) => {}
        None => {
            let given = Given { text: place, from: entry.place() };
            plan.facts.insert("pg_hba".to_owned(), given);
        }
    }
    let words: Vec<&str> = entry.value.split_whitespace().collect();
    if words.get(1) == Some(&"replication")
        && matches!(words.first(), Some(&"host" | &"hostssl" | &"local" | &"hostnossl"))
    {
        plan.note(
            "Lines of pg_hba for replication are taken over: other consumers may need them. pgherd has lines of its own for its replicas; \
             those for Patroni's replication user can go.",
        );
    }
    if words.last() == Some(&"md5") || words.contains(&"md5") {
        plan.note(
            "Lines with md5: for roles whose password is stored as SCRAM-SHA-256 they work as scram-sha-256; a session of a role with an md5 \
             password cannot be moved at a switchover, so set such passwords anew and write scram-sha-256.",
        );
    }
    match config::check_hba_line(&entry.value) {
        Ok(()) => {
            plan.hba.push(Given { text: entry.value.trim().to_owned(), from: entry.place() });
            Fate::Taken("a line of [postgres] hba".to_owned())
        }
        Err(why) => Fate::Refused(why),
    }
}

fn callback(plan: &mut Plan, entry: &Entry) -> Fate {
    let name = entry.path.last().cloned().unwrap_or_default();
    plan.fact(&format!("callback {name}"), entry);
    if name == "on_role_change" {
        if !entry.value.starts_with('/') || entry.value.contains(char::is_whitespace) {
            let why = "hooks.program is one program by its absolute path, without arguments: put the command into a script";
            return Fate::Refused(why.to_owned());
        }
        let note = "called as PROGRAM on_role_change primary|replica CLUSTER; pgherd does not wait for it";
        return plan.set("hooks.program", entry.value.clone(), entry).noted(note);
    }
    Fate::Absent(format!(
        "there is no {name}: [hooks] program is called for on_role_change, and for the events of PostgreSQL's start and stop that [hooks] events names"
    ))
}

fn watchdog_mode(plan: &mut Plan, entry: &Entry) -> Fate {
    let word =
        if entry.value.eq_ignore_ascii_case("false") { "off".to_owned() } else { entry.value.to_lowercase() };
    plan.set("fencing.watchdog", word, entry)
}

fn remembered(plan: &mut Plan, entry: &Entry) -> Fate {
    let name = entry.path.last().cloned().unwrap_or_default();
    plan.fact(&name, entry);
    let to = match name.as_str() {
        "synchronous_mode" => "[sync] standbys and method",
        "synchronous_mode_strict" => "[sync] on_last_standby_lost",
        _ => "[sync] standbys",
    };
    let is_off = !truth(plan.known("synchronous_mode").unwrap_or("off")).unwrap_or(true);
    match name.as_str() {
        "synchronous_mode" => Fate::Taken(to.to_owned()),
        _ if is_off && plan.known("synchronous_mode").is_some() => {
            Fate::Needless("synchronous_mode is off".to_owned())
        }
        _ => Fate::Taken(to.to_owned()),
    }
}

fn slot_type(plan: &mut Plan, entry: &Entry) -> Fate {
    slot(plan, entry, "type")
}

fn slot_database(plan: &mut Plan, entry: &Entry) -> Fate {
    slot(plan, entry, "database")
}

fn slot_plugin(plan: &mut Plan, entry: &Entry) -> Fate {
    slot(plan, entry, "plugin")
}

fn slot(plan: &mut Plan, entry: &Entry, setting: &str) -> Fate {
    let name = entry.path.get(entry.path.len().saturating_sub(2)).cloned().unwrap_or_default();
    if let Err(why) = config::check_slot_name(&name) {
        return Fate::Refused(why);
    }
    if !plan.slots.contains(&name) {
        plan.slots.push(name.clone());
    }
    plan.set(&format!("slots.{name}.{setting}"), entry.value.clone(), entry)
}

/// Host and port together; the host may be a list.
fn standby_host(plan: &mut Plan, entry: &Entry) -> Fate {
    if entry.value.is_empty() {
        return Fate::Needless("it is empty".to_owned());
    }
    plan.fact(entry.path.last().map_or("host", String::as_str), entry);
    let port = plan.known("port").unwrap_or("5432").to_owned();
    let Some(hosts) = plan.facts.get("host").cloned() else {
        return Fate::Taken("[standby_cluster] hosts".to_owned());
    };
    let hosts: Vec<String> = hosts
        .text
        .split(',')
        .map(|host| config::join_address(host.trim().trim_matches(['[', ']']), port.parse().unwrap_or(5432)))
        .collect();
    plan.settings.remove("standby_cluster.hosts");
    let note = "the addresses of all nodes of the origin are better than a balancer's";
    plan.set("standby_cluster.hosts", hosts.join(","), entry).noted(note)
}

fn raft_partner(plan: &mut Plan, entry: &Entry) -> Fate {
    for part in entry.value.split(',') {
        let (host, _) = host_and_port(part.trim().trim_matches(['\'', '"']));
        if !host.is_empty() {
            let found = Found { called: String::new(), host, port: None, from: entry.place() };
            plan.nodes.push(found);
        }
    }
    Fate::Taken("the host of a node of [peers]".to_owned())
}
