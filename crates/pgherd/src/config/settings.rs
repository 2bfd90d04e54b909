//! The table of settings: the only place where one is described.

use std::time::Duration;

use super::value::Kind;

mod proxy;

/// One setting. Adding one: a row here, a field in `model.rs`.
#[derive(Clone, Copy)]
pub struct Setting {
    /// `section.name`; `peers.*.name` stands for one of each peer, `slots.*.name` for one of each slot.
    pub key: &'static str,
    pub kind: Kind,
    pub default: Default,
    /// Sentences for the reference page and the commented file.
    pub doc: &'static str,
    /// As one would write it in TOML.
    pub example: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Default {
    /// Must be set.
    Required,
    /// As it would be written in an environment variable.
    Value(&'static str),
    List(&'static [&'static str]),
    /// Found out by other means when not set; the text says which.
    Derived(&'static str),
}

/// A TOML table and what it is about, in the order of the reference page.
pub struct Section {
    pub name: &'static str,
    pub doc: &'static str,
}

pub const SECTIONS: &[Section] = &[
    Section { name: "", doc: "" },
    Section { name: "node", doc: "Who this node is and where its files are." },
    Section { name: "postgres", doc: "The PostgreSQL server of this node." },
    Section { name: "proxy", doc: "What applications connect to." },
    Section {
        name: "proxy_tls",
        doc: "TLS between the proxy and its clients, and between the proxy and the servers; see docs/concepts/tls.md. The files \
              are read anew when they change.",
    },
    Section { name: "http", doc: "Health endpoints, API and dashboard." },
    Section { name: "peer", doc: "Where this node listens for the other agents." },
    Section { name: "tls", doc: "Certificates of the peer link." },
    Section {
        name: "peers",
        doc: "All nodes of the cluster that vote, this one included, one table each: 1 to 5, and the same on \
              every node. An odd number is best: of two nodes none may go on alone.",
    },
    Section { name: "failover", doc: "When a primary counts as lost. The same on every node." },
    Section {
        name: "sync",
        doc: "What must be flushed where before a commit is acknowledged. The same on every node.",
    },
    Section {
        name: "slots",
        doc: "Replication slots: which ones a takeover keeps, and how much WAL one may hold. The same on every node.",
    },
    Section {
        name: "fencing",
        doc: "What ends a primary whose agent has died. The fencer itself needs no setting; see \
              docs/concepts/fencing.md.",
    },
    Section {
        name: "standby_cluster",
        doc: "Makes this a standby cluster: a copy of another cluster that follows it. It is read when the cluster is \
              made; later `pgherd promote` and `pgherd demote` say whom it follows. See docs/concepts/standby_cluster.md. \
              The same on every node.",
    },
    Section {
        name: "hooks",
        doc: "A program of yours that is told what happens on this node; see docs/concepts/hooks.md.",
    },
    Section {
        name: "vip",
        doc: "A virtual IP: an address that is always on the node of the open primary; see docs/concepts/vip.md.",
    },
    Section { name: "tags", doc: "What this node is fit for; its peers learn it with its heartbeats." },
];

const PORT: Kind = Kind::Port;
const LOCALHOST: Default = Default::Value("127.0.0.1");
const MILLISECOND: Duration = Duration::from_millis(1);

const fn setting(
    key: &'static str,
    kind: Kind,
    default: Default,
    example: &'static str,
    doc: &'static str,
) -> Setting {
    Setting { key, kind, default, doc, example }
}

/// All of them.
pub const SETTINGS: &[Setting] = &joined::<{ NODE.len() + proxy::PROXY.len() }>();

const fn joined<const N: usize>() -> [Setting; N] {
    let mut all = [NODE[0]; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < NODE.len() { NODE[at] } else { proxy::PROXY[at - NODE.len()] };
        at += 1;
    }
    all
}

/// All but the proxy's.
const NODE: &[Setting] = &[
    setting(
        "cluster",
        Kind::Name,
        Default::Required,
        "\"demo\"",
        "Name of the cluster. Nodes of another cluster are refused.",
    ),
    setting(
        "node.name",
        Kind::Name,
        Default::Required,
        "\"n1\"",
        "Name of this node: one of those in [peers], and the one in its certificate.",
    ),
    setting(
        "node.dir",
        Kind::Directory,
        Default::Required,
        "\"/var/lib/pgherd/n1\"",
        "Everything of this node lives below it: data/ (PostgreSQL's), conf/, run/, store/, tls/, member.json, events.jsonl.",
    ),
    setting(
        "node.kind",
        Kind::Choice(&["full", "witness"]),
        Default::Derived("as in this node's table in [peers]"),
        "\"full\"",
        "A full node runs PostgreSQL and votes; a witness only votes.",
    ),
    setting(
        "node.advertise",
        Kind::Host,
        Default::Derived("the host of `postgres`, else of `peer`, in this node's table in [peers]"),
        "\"10.0.0.1\"",
        "Host under which other nodes and proxies reach PostgreSQL here.",
    ),
    setting(
        "node.reserve",
        Kind::Integer { min: 0, max: 65_536, unit: "MB" },
        Default::Value("64"),
        "64",
        "Space that is kept allocated on the disk of PostgreSQL's WAL and given up when that disk is full, so that \
         PostgreSQL can recover. 0 keeps none.",
    ),
    setting("postgres.port", PORT, Default::Value("5432"), "5432", "Port of PostgreSQL."),
    setting(
        "postgres.listen",
        Kind::Listen,
        LOCALHOST,
        "\"0.0.0.0\"",
        "Addresses PostgreSQL listens on, with commas between; the other nodes must reach it. `*` means all.",
    ),
    setting(
        "postgres.bin_dir",
        Kind::Directory,
        Default::Derived("looked for where distributions put it"),
        "\"/usr/lib/postgresql/17/bin\"",
        "Folder of PostgreSQL's programs (initdb, postgres, pg_rewind …).",
    ),
    setting(
        "postgres.user",
        Kind::Text,
        Default::Value("postgres"),
        "\"postgres\"",
        "Operating system user that PostgreSQL runs as when pgherd runs as root (PostgreSQL refuses root).",
    ),
    setting(
        "postgres.version",
        Kind::Integer { min: 15, max: 18, unit: "" },
        Default::Derived("that of the data directory, else the newest installed"),
        "17",
        "Major version to use when several are installed.",
    ),
    setting(
        "postgres.hba",
        Kind::Lines,
        Default::List(&[
            "local all all scram-sha-256",
            "host all all 127.0.0.1/32 scram-sha-256",
            "host all all ::1/128 scram-sha-256",
        ]),
        "[\"host all all 10.0.0.0/8 scram-sha-256\"]",
        "Lines of pg_hba.conf, in this order, below those that pgherd needs itself. Connections come from the \
         proxies, on any node.",
    ),
    setting("http.listen", Kind::Host, LOCALHOST, "\"0.0.0.0\"", "Address the HTTP server listens on."),
    setting("http.port", PORT, Default::Value("8432"), "8432", "Port of the HTTP server."),
    setting(
        "http.cert",
        Kind::File,
        Default::Derived("none: HTTP is spoken in clear"),
        "\"/etc/pgherd/http.crt\"",
        "Certificate of the HTTP server (PEM), followed by those that lead to its authority. Read anew when it changes.",
    ),
    setting(
        "http.key",
        Kind::File,
        Default::Derived("none"),
        "\"/etc/pgherd/http.key\"",
        "Its key (PEM). Refused when others may read the file.",
    ),
    setting(
        "http.users",
        Kind::File,
        Default::Derived("none: changes are taken from this machine only"),
        "\"/etc/pgherd/users\"",
        "Who may change something over HTTP, with a role and a password each; `pgherd user add` writes it. Read anew when it changes.",
    ),
    setting(
        "http.loopback",
        Kind::Choice(&["trust", "users"]),
        Default::Value("trust"),
        "\"users\"",
        "Whether a program on this machine may change something without a user (`trust`), or needs one of `users` too.",
    ),
    setting("peer.listen", Kind::Host, LOCALHOST, "\"0.0.0.0\"", "Address to listen on."),
    setting(
        "peer.port",
        PORT,
        Default::Value("7432"),
        "7432",
        "Port to listen on; the one in this node's table in [peers].",
    ),
    setting(
        "tls.ca",
        Kind::File,
        Default::Derived("`tls/ca.crt` below `node.dir`"),
        "\"/etc/pgherd/ca.crt\"",
        "Certificate of the cluster's authority (PEM).",
    ),
    setting(
        "tls.cert",
        Kind::File,
        Default::Derived("`tls/node.crt` below `node.dir`"),
        "\"/etc/pgherd/node.crt\"",
        "Certificate of this node (PEM). It names this node and no other.",
    ),
    setting(
        "tls.key",
        Kind::File,
        Default::Derived("`tls/node.key` below `node.dir`"),
        "\"/etc/pgherd/node.key\"",
        "Its key (PEM). Refused when others may read the file.",
    ),
    setting(
        "peers.*.peer",
        Kind::Address,
        Default::Required,
        "\"10.0.0.1:7432\"",
        "Where the other agents reach this node's agent.",
    ),
    setting(
        "peers.*.postgres",
        Kind::Address,
        Default::Derived("required for a full node, not allowed for a witness"),
        "\"10.0.0.1:5432\"",
        "Where other nodes and proxies reach its PostgreSQL.",
    ),
    setting(
        "peers.*.kind",
        Kind::Choice(&["full", "witness"]),
        Default::Value("full"),
        "\"full\"",
        "A full node runs PostgreSQL and votes; a witness only votes.",
    ),
    setting(
        "failover.heartbeat",
        // Below 20 ms heartbeats only make noise on a loaded machine.
        Kind::Duration { min: Duration::from_millis(20), max: Duration::from_secs(10) },
        Default::Value("250ms"),
        "\"250ms\"",
        "How often nodes tell each other how they are.",
    ),
    setting(
        "failover.failure_timeout",
        Kind::Duration { min: Duration::from_millis(500), max: Duration::from_secs(60) },
        Default::Value("2s"),
        "\"2s\"",
        "A primary that nobody has heard to be fine for this long is replaced. At least twice the heartbeat.",
    ),
    setting(
        "failover.drift_percent",
        Kind::Integer { min: 1, max: 25, unit: "%" },
        Default::Value("5"),
        "5",
        "How much faster than another node's the clock of a node may run. The primary's right to serve reads ends \
         earlier by this much.",
    ),
    setting(
        "failover.drain_timeout",
        Kind::Duration { min: Duration::from_millis(100), max: Duration::from_secs(600) },
        Default::Value("5s"),
        "\"5s\"",
        "How long a planned switchover holds new transactions while running ones end. After it the switchover is \
         given up, or with --force they are cut.",
    ),
    setting(
        "sync.standbys",
        Kind::Integer { min: 0, max: 4, unit: "standbys" },
        Default::Value("1"),
        "1",
        "How many standbys must have flushed a commit before it is acknowledged; never more than the cluster has, so that \
         a node that is alone acknowledges alone. 0 with several full nodes is asynchronous replication: a takeover may \
         lose the last commits (maximum_lag_on_failover).",
    ),
    setting(
        "sync.on_last_standby_lost",
        Kind::Choice(&["block", "degrade"]),
        Default::Value("block"),
        "\"block\"",
        "What happens when too few standbys are left: `block` lets commits wait until enough are back. `degrade` \
         lets the primary acknowledge alone meanwhile; if it is lost then, nobody takes over by himself, because \
         nobody has what it acknowledged.",
    ),
    setting(
        "sync.method",
        Kind::Choice(&["quorum", "priority"]),
        Default::Value("quorum"),
        "\"quorum\"",
        "`quorum`: any `standbys` of the sync set confirm a commit (ANY k). `priority`: the first of those that are \
         there do (FIRST k), by failover_priority and name.",
    ),
    setting(
        "sync.maximum_lag_on_failover",
        Kind::Integer { min: 0, max: 1 << 40, unit: "bytes" },
        Default::Value("1048576"),
        "1048576",
        "With asynchronous replication: a replica that lacks more of what the primary was last known to have does \
         not take over by itself.",
    ),
    setting(
        "standby_cluster.hosts",
        Kind::Text,
        Default::Derived("none: this cluster follows no other"),
        "\"10.0.0.1:5432,10.0.0.2:5432\"",
        "PostgreSQL of each node of the cluster to be followed, as host:port with commas between. Whichever is its primary is \
         followed.",
    ),
    setting(
        "standby_cluster.credentials",
        Kind::File,
        Default::Derived("none"),
        "\"/etc/pgherd/origin.json\"",
        "The file credentials.json from the directory of a node of the cluster to be followed.",
    ),
    setting(
        "standby_cluster.slot",
        Kind::Text,
        Default::Derived("none: WAL is kept there by wal_keep_size alone"),
        "\"east\"",
        "A permanent physical slot of the cluster to be followed: one that is declared in its [slots].",
    ),
    setting(
        "hooks.program",
        Kind::File,
        Default::Derived("none"),
        "\"/etc/pgherd/hook\"",
        "Called as `PROGRAM on_role_change ROLE CLUSTER` when this node becomes the open primary (`primary`) or is it no more (`replica`), and as \
         `PROGRAM on_event RULE CLUSTER`, with a JSON document on standard input.",
    ),
    setting(
        "hooks.events",
        Kind::Rules,
        Default::List(&[]),
        "[\"takeover.*\", \"fencer\"]",
        "Rules of the events that the program is told, as `pgherd events` shows them in brackets; one that ends in * stands for all that begin so.",
    ),
    setting(
        "hooks.timeout",
        Kind::Duration { min: MILLISECOND, max: Duration::from_secs(3600) },
        Default::Value("30s"),
        "\"1min\"",
        "After this a call is ended.",
    ),
    setting(
        "vip.address",
        Kind::AddressInNetwork,
        Default::Derived("none: there is no virtual IP"),
        "\"10.0.0.100/24\"",
        "The address, IPv4 or IPv6, with its prefix. It belongs to no node. The same on every node.",
    ),
    setting(
        "vip.interface",
        Kind::Interface,
        Default::Derived("none"),
        "\"eth0\"",
        "The interface of this node that has the address while this node is the open primary.",
    ),
    setting(
        "tags.nofailover",
        Kind::Flag,
        Default::Value("false"),
        "true",
        "This node never becomes primary.",
    ),
    setting(
        "tags.noloadbalance",
        Kind::Flag,
        Default::Value("false"),
        "true",
        "This node gets no sessions of the read-only port.",
    ),
    setting(
        "tags.clonefrom",
        Kind::Flag,
        Default::Value("false"),
        "true",
        "Others copy their data directory from this node by preference, while it is a replica that is not far behind.",
    ),
    setting(
        "tags.nosync",
        Kind::Flag,
        Default::Value("false"),
        "true",
        "This node never confirms commits: it is no member of the sync set, and no candidate for a takeover.",
    ),
    setting(
        "tags.replicatefrom",
        Kind::Name,
        Default::Derived("the primary"),
        "\"n2\"",
        "The replica that this node streams its WAL from, instead of from the primary. While that replica is not fit the \
         primary is followed. A node that streams from a replica is no member of the sync set.",
    ),
    setting(
        "tags.failover_priority",
        Kind::Integer { min: 0, max: 1_000, unit: "" },
        Default::Value("1"),
        "10",
        "Among candidates that have the same WAL the highest wins. 0 is nofailover.",
    ),
    setting(
        "tags.zone",
        Kind::Name,
        Default::Derived("no zone"),
        "\"a\"",
        "Where this node is. Among candidates of the same priority one in the old primary's zone wins.",
    ),
    setting(
        "sync.lowered_commit",
        Kind::Choice(&["allow", "warn", "forbid"]),
        Default::Value("allow"),
        "\"warn\"",
        "What happens when a client sets `synchronous_commit` below `on` through the proxy, whose commits a takeover \
         may then lose: `allow` it, `warn` the client, or `forbid` it with an error.",
    ),
    setting(
        "slots.gate",
        Kind::Choice(&["off", "warn", "wait"]),
        Default::Value("warn"),
        "\"wait\"",
        "Whether slots that are not ready on the next primary may delay a takeover: `warn` waits half a second for an \
         equal candidate whose slots are ready, `wait` five seconds, `off` not at all. WAL always comes first.",
    ),
    setting(
        "slots.restart_replicas",
        Kind::Choice(&["never", "one_at_a_time"]),
        Default::Value("one_at_a_time"),
        "\"never\"",
        "PostgreSQL 15 and 16 take in a logical slot only when they start: whether a replica may be restarted for it, \
         one at a time and never the last sync standby.",
    ),
    setting(
        "slots.over_budget",
        Kind::Choice(&["warn", "drop"]),
        Default::Value("warn"),
        "\"drop\"",
        "What happens to a slot over its budget that nobody has declared and nobody reads: `warn` tells it, `drop` drops \
         it. Declared slots are only ever told.",
    ),
    setting(
        "slots.wal_budget",
        Kind::Bytes,
        Default::Derived("half of `max_slot_wal_keep_size`"),
        "\"5GB\"",
        "How much WAL a slot without a budget of its own may hold. From 80 % on it is warned about.",
    ),
    setting(
        "slots.*.type",
        Kind::Choice(&["physical", "logical"]),
        Default::Required,
        "\"logical\"",
        "Physical for receivers of WAL, logical for consumers of changes.",
    ),
    setting(
        "slots.*.owner",
        Kind::Text,
        Default::Required,
        "\"billing: change feed to the warehouse\"",
        "Team or purpose: whom to ask when the slot holds WAL.",
    ),
    setting(
        "slots.*.database",
        Kind::Text,
        Default::Derived("required for a logical slot, not allowed for a physical one"),
        "\"app\"",
        "Database whose changes it reads.",
    ),
    setting(
        "slots.*.plugin",
        Kind::Text,
        Default::Derived("`pgoutput` for a logical slot, not allowed for a physical one"),
        "\"test_decoding\"",
        "Output plugin.",
    ),
    setting(
        "slots.*.wal_budget",
        Kind::Bytes,
        Default::Derived("`wal_budget` of `[slots]`"),
        "\"10GB\"",
        "How much WAL it may hold.",
    ),
    setting(
        "fencing.watchdog",
        Kind::Choice(&["off", "automatic", "required"]),
        Default::Value("off"),
        "\"automatic\"",
        "Whether a watchdog resets this machine when neither agent nor fencer can take its PostgreSQL out of service. \
         `automatic` uses the device when it is there; `required` admits no clients to a primary here without it.",
    ),
    setting(
        "fencing.device",
        Kind::File,
        Default::Value("/dev/watchdog"),
        "\"/dev/watchdog1\"",
        "The watchdog's device. How long it waits before it resets the machine is its driver's setting.",
    ),
];

impl Setting {
    /// `failover` of `failover.heartbeat`; empty for a setting outside any table.
    pub fn section(&self) -> &'static str {
        self.key.split_once('.').map_or("", |(section, _)| section)
    }

    /// `heartbeat` of `failover.heartbeat`.
    pub fn name(&self) -> &'static str {
        self.key.rsplit_once('.').map_or(self.key, |(_, name)| name)
    }

    /// The environment variable that sets it; lists and peers have none.
    pub fn variable(&self) -> Option<String> {
        let plain = !self.key.contains('*') && !matches!(self.kind, Kind::Lines | Kind::Functions);
        plain.then(|| format!("PGHERD_{}", self.key.replace('.', "_").to_uppercase()))
    }
}

/// The setting that `key` names; `peers.n1.kind` is `peers.*.kind`.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    let key = match key.split_once('.').and_then(|(table, rest)| Some((table, rest.split_once('.')?.1))) {
        Some((table @ ("peers" | "slots"), name)) => format!("{table}.*.{name}"),
        _ => key.to_owned(),
    };
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The known key that somebody who wrote `key` most likely meant.
pub(super) fn suggest(key: &str) -> Option<String> {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    // In the same table: a few letters wrong.
    let near = |candidate: &str| {
        let distance = strsim::damerau_levenshtein(candidate, name);
        (distance <= name.len().max(candidate.len()) / 3).then_some(distance)
    };
    let table = section.split_once('.').map(|(table, _)| table);
    let here = SETTINGS.iter().filter(|setting| match table {
        Some(table) => setting.section() == table && setting.key.contains('*'),
        None => setting.section() == section && !setting.key.contains('*'),
    });
    let mut names: Vec<&str> = here.map(Setting::name).collect();
    match section {
        "" => names.extend(SECTIONS.iter().map(|section| section.name).filter(|name| !name.is_empty())),
        "postgres" => names.push("parameters"),
        _ => {}
    }
    if let Some(best) = names.iter().filter_map(|name| Some((near(name)?, *name))).min() {
        return Some(if section.is_empty() { best.1.to_owned() } else { format!("{section}.{}", best.1) });
    }
    // In another table: the name as it is.
    let elsewhere = SETTINGS.iter().find(|setting| setting.name() == name && !setting.key.contains('*'));
    elsewhere.map(|setting| setting.key.to_owned())
}
