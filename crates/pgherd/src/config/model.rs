//! The configuration as the rest of pgherd sees it: typed, checked, complete.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brain::OnLastStandbyLost;

use super::draft::Draft;
use super::http::{self, Http};
use super::proxy_tls;
use super::slots::Slots;
use super::value::{Value, split_address};
use super::vip;
use crate::postgres::Method;
use crate::vip::VirtualIp;
use proxy::tls::TlsConfig;
use proxy::{CeilingLimits, Consistency, LagMax, Leaks, LoweredCommit, PoolMode, TimeLimits};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub cluster: String,
    pub node: Node,
    pub postgres: Postgres,
    pub proxy: Proxy,
    pub http: Http,
    pub peer: PeerListen,
    pub tls: Tls,
    /// All voters by name, this node included.
    pub peers: BTreeMap<String, Peer>,
    pub failover: Failover,
    pub sync: Sync,
    pub slots: Slots,
    pub fencing: Fencing,
    pub hooks: Hooks,
    /// `None`: there is none.
    pub vip: Option<VirtualIp>,
    pub tags: brain::Tags,
    /// `None`: a cluster of its own.
    pub standby_cluster: Option<StandbyCluster>,
}

/// Whom a cluster follows that is made with this configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyCluster {
    /// `host:port` of PostgreSQL, at least one.
    pub hosts: Vec<String>,
    pub credentials: PathBuf,
    pub slot: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub name: String,
    pub dir: PathBuf,
    pub kind: NodeKind,
    /// Host under which others reach PostgreSQL here; without brackets.
    pub advertise: String,
    /// Megabytes kept allocated for a recovery on a full disk.
    pub reserve_mb: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeKind {
    Full,
    Witness,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Postgres {
    pub port: u16,
    /// For `listen_addresses`.
    pub listen: String,
    /// `None`: to be discovered.
    pub bin_dir: Option<PathBuf>,
    /// Operating system user, when pgherd is root.
    pub user: String,
    /// Major version.
    pub version: Option<u32>,
    /// Names in lower case, none that pgherd owns; values without control characters, not quoted.
    pub parameters: BTreeMap<String, String>,
    /// Lines of pg_hba.conf.
    pub hba: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proxy {
    pub listen: String,
    pub read_write_port: u16,
    pub read_only_port: u16,
    pub auto_port: u16,
    pub socket_dir: Option<PathBuf>,
    /// Lines of pg_hba.conf.
    pub hba: Vec<String>,
    pub local_socket: bool,
    pub read_consistency: Consistency,
    pub replica_lag_max: LagMax,
    pub primary_functions: Vec<String>,
    pub replica_functions: Vec<String>,
    pub sessions_max: u32,
    /// 0: as many as the machine asks for.
    pub threads: u32,
    pub queue_max: u32,
    pub queue_timeout: Duration,
    pub pool_mode: PoolMode,
    pub leaks: Leaks,
    pub share_unnamed: bool,
    pub time_limits: TimeLimits,
    pub pool_size: u32,
    pub pool_min: u32,
    pub pool_reserve: u32,
    pub pool_reserve_after: Duration,
    pub server_limits: CeilingLimits,
    /// Without a total.
    pub session_limits: CeilingLimits,
    pub server_idle_timeout: Duration,
    pub server_lifetime: Duration,
    pub relaunch_timeout: Duration,
    pub tls: TlsConfig,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hooks {
    /// `None`: nobody is told.
    pub program: Option<PathBuf>,
    /// Rules of events; one that ends in `*` stands for all that begin so.
    pub events: Vec<String>,
    pub timeout: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerListen {
    pub listen: String,
    pub port: u16,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// `host:port` of its agent.
    pub peer: String,
    /// `host:port` of its PostgreSQL; a witness has none.
    pub postgres: Option<String>,
    pub kind: NodeKind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failover {
    pub heartbeat: Duration,
    pub failure_timeout: Duration,
    pub drift_percent: u32,
    pub drain_timeout: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sync {
    /// k: how many standbys must flush a commit.
    pub standbys: u32,
    pub on_last_standby_lost: OnLastStandbyLost,
    pub method: Method,
    pub maximum_lag_on_failover: u64,
    pub lowered_commit: LoweredCommit,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fencing {
    pub watchdog: Watchdog,
    /// Path of the watchdog's device.
    pub device: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watchdog {
    Off,
    Automatic,
    Required,
}

impl Watchdog {
    pub fn as_str(self) -> &'static str {
        match self {
            Watchdog::Off => "off",
            Watchdog::Automatic => "automatic",
            Watchdog::Required => "required",
        }
    }

    fn of(text: &str) -> Watchdog {
        let all = [Watchdog::Off, Watchdog::Automatic, Watchdog::Required];
        all.into_iter().find(|watchdog| watchdog.as_str() == text).unwrap_or(Watchdog::Off)
    }
}

impl NodeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            NodeKind::Full => "full",
            NodeKind::Witness => "witness",
        }
    }

    fn of(text: &str) -> NodeKind {
        if text == "witness" { NodeKind::Witness } else { NodeKind::Full }
    }
}

impl Tls {
    /// Where [`crate::peer::certificates::issue`] puts a node's files, for a node whose folder is `dir`.
    pub fn below(dir: &Path) -> Tls {
        let dir = dir.join("tls");
        Tls { ca: dir.join("ca.crt"), cert: dir.join("node.crt"), key: dir.join("node.key") }
    }
}

/// The layout below `node.dir`; nobody else puts these paths together.
impl Config {
    pub fn data_dir(&self) -> PathBuf {
        self.node.dir.join("data")
    }
    pub fn conf_dir(&self) -> PathBuf {
        self.node.dir.join("conf")
    }
    pub fn run_dir(&self) -> PathBuf {
        self.node.dir.join("run")
    }
    pub fn store_dir(&self) -> PathBuf {
        self.node.dir.join("store")
    }
    pub fn tls_dir(&self) -> PathBuf {
        self.node.dir.join("tls")
    }
    pub fn member_file(&self) -> PathBuf {
        self.node.dir.join("member.json")
    }
    pub fn events_file(&self) -> PathBuf {
        self.node.dir.join("events.jsonl")
    }

    /// `host:port` to listen on for peers.
    pub fn peer_listen_address(&self) -> String {
        join_address(&self.peer.listen, self.peer.port)
    }

    /// The peer addresses of all nodes, as the peer link wants them.
    pub fn peer_addresses(&self) -> BTreeMap<String, String> {
        self.peers.iter().map(|(name, peer)| (name.clone(), peer.peer.clone())).collect()
    }

    /// A configuration with every default, for a full node that is alone in its cluster at `127.0.0.1`. The demo
    /// begins with it and changes ports and peers.
    pub fn alone(cluster: &str, name: &str, dir: &Path) -> Config {
        let mut draft = Draft::default();
        let given = [("cluster", cluster), ("node.name", name), ("node.dir", &dir.to_string_lossy())]
            .map(|(key, text)| (key.to_owned(), text.to_owned()));
        let peer = [("peer", "127.0.0.1:7432"), ("postgres", "127.0.0.1:5432")]
            .map(|(key, text)| (format!("peers.{name}.{key}"), text.to_owned()));
        draft.peers.insert(name.to_owned(), super::error::Place::File);
        for (key, text) in given.into_iter().chain(peer) {
            draft.put(&key, Ok(Value::Text(text)), super::error::Place::File);
        }
        draft.apply_defaults();
        draft.values.insert("sync.standbys".to_owned(), (Value::Integer(0), super::error::Place::File));
        match Config::from_draft(&draft) {
            Ok(config) => config,
            // By construction: everything without a default was put in above, which a test shows for all of the table.
            Err(key) => unreachable!("{key} has neither a value nor a default"),
        }
    }

    /// `Err` is a key without a value.
    pub(super) fn from_draft(draft: &Draft) -> Result<Config, String> {
        let take = Take(draft);
        let (name, dir) = (take.text("node.name")?, PathBuf::from(take.text("node.dir")?));
        let mut peers = BTreeMap::new();
        for peer in draft.peers.keys() {
            let key = |setting: &str| format!("peers.{peer}.{setting}");
            let entry = Peer {
                peer: take.text(&key("peer"))?,
                postgres: draft.text(&key("postgres")).map(str::to_owned),
                kind: NodeKind::of(&take.text(&key("kind"))?),
            };
            peers.insert(peer.clone(), entry);
        }
        let own = peers.get(&name).ok_or_else(|| format!("peers.{name}"))?;
        let advertise = match draft.text("node.advertise") {
            Some(host) => host.to_owned(),
            None => {
                let address = own.postgres.as_ref().unwrap_or(&own.peer);
                split_address(address).map_err(|_| "node.advertise".to_owned())?.0
            }
        };
        let tls = Tls::below(&dir);
        let path = |key, default| draft.text(key).map_or(default, PathBuf::from);
        Ok(Config {
            cluster: take.text("cluster")?,
            postgres: Postgres {
                port: take.number("postgres.port")?,
                listen: take.text("postgres.listen")?,
                bin_dir: draft.text("postgres.bin_dir").map(PathBuf::from),
                user: take.text("postgres.user")?,
                version: take.number("postgres.version").ok(),
                parameters: draft
                    .parameters
                    .iter()
                    .map(|(name, (text, _))| (name.clone(), text.clone()))
                    .collect(),
                hba: take.list("postgres.hba")?,
            },
            proxy: Proxy {
                listen: take.text("proxy.listen")?,
                read_write_port: take.number("proxy.read_write_port")?,
                read_only_port: take.number("proxy.read_only_port")?,
                auto_port: take.number("proxy.auto_port")?,
                socket_dir: draft.text("proxy.socket_dir").map(PathBuf::from),
                hba: take.list("proxy.hba")?,
                local_socket: take.flag("proxy.local_socket")?,
                read_consistency: Consistency::of(&take.text("proxy.read_consistency")?),
                replica_lag_max: LagMax {
                    time: take.duration("proxy.replica_lag_max")?,
                    bytes: draft.bytes("proxy.replica_lag_bytes_max"),
                },
                primary_functions: take.list("proxy.primary_functions")?,
                replica_functions: take.list("proxy.replica_functions")?,
                sessions_max: take.number("proxy.sessions_max")?,
                threads: take.number("proxy.threads")?,
                queue_max: take.number("proxy.queue_max")?,
                queue_timeout: take.duration("proxy.queue_timeout")?,
                pool_mode: PoolMode::of(&take.text("proxy.pool_mode")?),
                leaks: Leaks::of(&take.text("proxy.leaks")?),
                share_unnamed: take.flag("proxy.share_unnamed")?,
                time_limits: TimeLimits {
                    client_idle: take.duration("proxy.client_idle_timeout")?,
                    transaction_idle: take.duration("proxy.transaction_idle_timeout")?,
                    transaction: take.duration("proxy.transaction_timeout")?,
                    query: take.duration("proxy.query_timeout")?,
                },
                pool_size: take.number("proxy.pool_size")?,
                pool_min: take.number("proxy.pool_min")?,
                pool_reserve: take.number("proxy.pool_reserve")?,
                pool_reserve_after: take.duration("proxy.pool_reserve_after")?,
                server_limits: CeilingLimits {
                    user: take.number("proxy.user_servers_max")?,
                    database: take.number("proxy.database_servers_max")?,
                    total: take.number("proxy.servers_max")?,
                },
                session_limits: CeilingLimits {
                    user: take.number("proxy.user_sessions_max")?,
                    database: take.number("proxy.database_sessions_max")?,
                    total: 0,
                },
                server_idle_timeout: take.duration("proxy.server_idle_timeout")?,
                server_lifetime: take.duration("proxy.server_lifetime")?,
                relaunch_timeout: take.duration("proxy.relaunch_timeout")?,
                tls: proxy_tls::from_draft(draft),
            },
            http: http::from_draft(draft, take.text("http.listen")?, take.number("http.port")?),
            peer: PeerListen { listen: take.text("peer.listen")?, port: take.number("peer.port")? },
            tls: Tls {
                ca: path("tls.ca", tls.ca),
                cert: path("tls.cert", tls.cert),
                key: path("tls.key", tls.key),
            },
            failover: Failover {
                heartbeat: take.duration("failover.heartbeat")?,
                failure_timeout: take.duration("failover.failure_timeout")?,
                drift_percent: take.number("failover.drift_percent")?,
                drain_timeout: take.duration("failover.drain_timeout")?,
            },
            sync: Sync {
                standbys: take.number("sync.standbys")?,
                lowered_commit: LoweredCommit::of(&take.text("sync.lowered_commit")?),
                on_last_standby_lost: match draft.text("sync.on_last_standby_lost") {
                    Some("degrade") => OnLastStandbyLost::Degrade,
                    _ => OnLastStandbyLost::Block,
                },
                method: match draft.text("sync.method") {
                    Some("priority") => Method::Priority,
                    _ => Method::Quorum,
                },
                maximum_lag_on_failover: take.number("sync.maximum_lag_on_failover")?,
            },
            tags: brain::Tags {
                nofailover: take.flag("tags.nofailover")?,
                noloadbalance: take.flag("tags.noloadbalance")?,
                clonefrom: take.flag("tags.clonefrom")?,
                nosync: take.flag("tags.nosync")?,
                replicatefrom: draft
                    .text("tags.replicatefrom")
                    .filter(|name| !name.is_empty())
                    .map(brain::NodeName::from),
                failover_priority: take.number("tags.failover_priority")?,
                zone: draft.text("tags.zone").unwrap_or_default().to_owned(),
            },
            hooks: Hooks {
                program: draft.text("hooks.program").map(PathBuf::from),
                events: take.list("hooks.events")?,
                timeout: take.duration("hooks.timeout")?,
            },
            vip: vip::from_draft(draft),
            slots: Slots::from_draft(draft)?,
            standby_cluster: standby_cluster(draft)?,
            fencing: Fencing {
                watchdog: Watchdog::of(&take.text("fencing.watchdog")?),
                device: take.text("fencing.device")?,
            },
            node: Node { name, dir, kind: own.kind, advertise, reserve_mb: take.number("node.reserve")? },
            peers,
        })
    }

    /// The value of a setting as it would be written in TOML; `None` when a derived one is not set. For the rows of
    /// `peers.*` ask [`Config::peers`].
    pub(super) fn written(&self, key: &str) -> Option<String> {
        let text = |text: &str| Some(quote(text));
        let path = |path: &Path, default: &Path| (path != default).then(|| quote(&path.to_string_lossy()));
        let duration = |duration| text(&super::value::format_duration(duration));
        let derived = Tls::below(&self.node.dir);
        match key {
            "cluster" => text(&self.cluster),
            "node.name" => text(&self.node.name),
            "node.dir" => text(&self.node.dir.to_string_lossy()),
            "node.kind" => text(self.node.kind.as_str()),
            "node.advertise" => text(&self.node.advertise),
            "node.reserve" => Some(self.node.reserve_mb.to_string()),
            "postgres.port" => Some(self.postgres.port.to_string()),
            "postgres.listen" => text(&self.postgres.listen),
            "postgres.bin_dir" => self.postgres.bin_dir.as_ref().map(|dir| quote(&dir.to_string_lossy())),
            "postgres.user" => text(&self.postgres.user),
            "postgres.version" => self.postgres.version.map(|version| version.to_string()),
            "postgres.hba" => Some(quote_list(self.postgres.hba.iter().map(String::as_str))),
            "proxy.listen" => text(&self.proxy.listen),
            "proxy.read_write_port" => Some(self.proxy.read_write_port.to_string()),
            "proxy.read_only_port" => Some(self.proxy.read_only_port.to_string()),
            "proxy.auto_port" => Some(self.proxy.auto_port.to_string()),
            "proxy.socket_dir" => self.proxy.socket_dir.as_ref().map(|dir| quote(&dir.to_string_lossy())),
            "proxy.hba" => Some(quote_list(self.proxy.hba.iter().map(String::as_str))),
            "proxy.share_unnamed" => Some(self.proxy.share_unnamed.to_string()),
            "proxy.local_socket" => Some(self.proxy.local_socket.to_string()),
            "proxy.read_consistency" => text(self.proxy.read_consistency.as_str()),
            "proxy.replica_lag_max" => duration(self.proxy.replica_lag_max.time),
            "proxy.replica_lag_bytes_max" => {
                self.proxy.replica_lag_max.bytes.map(|bytes| quote(&super::value::format_bytes(bytes)))
            }
            "proxy.primary_functions" => {
                Some(quote_list(self.proxy.primary_functions.iter().map(String::as_str)))
            }
            "proxy.replica_functions" => {
                Some(quote_list(self.proxy.replica_functions.iter().map(String::as_str)))
            }
            "proxy.sessions_max" => Some(self.proxy.sessions_max.to_string()),
            "proxy.threads" => Some(self.proxy.threads.to_string()),
            "proxy.queue_max" => Some(self.proxy.queue_max.to_string()),
            "proxy.queue_timeout" => duration(self.proxy.queue_timeout),
            "proxy.pool_mode" => text(self.proxy.pool_mode.as_str()),
            "proxy.leaks" => text(self.proxy.leaks.as_str()),
            "proxy.client_idle_timeout" => duration(self.proxy.time_limits.client_idle),
            "proxy.transaction_idle_timeout" => duration(self.proxy.time_limits.transaction_idle),
            "proxy.transaction_timeout" => duration(self.proxy.time_limits.transaction),
            "proxy.query_timeout" => duration(self.proxy.time_limits.query),
            "proxy.pool_size" => Some(self.proxy.pool_size.to_string()),
            "proxy.pool_min" => Some(self.proxy.pool_min.to_string()),
            "proxy.pool_reserve" => Some(self.proxy.pool_reserve.to_string()),
            "proxy.pool_reserve_after" => duration(self.proxy.pool_reserve_after),
            "proxy.user_servers_max" => Some(self.proxy.server_limits.user.to_string()),
            "proxy.database_servers_max" => Some(self.proxy.server_limits.database.to_string()),
            "proxy.servers_max" => Some(self.proxy.server_limits.total.to_string()),
            "proxy.user_sessions_max" => Some(self.proxy.session_limits.user.to_string()),
            "proxy.database_sessions_max" => Some(self.proxy.session_limits.database.to_string()),
            "proxy.server_idle_timeout" => duration(self.proxy.server_idle_timeout),
            "proxy.server_lifetime" => duration(self.proxy.server_lifetime),
            "proxy.relaunch_timeout" => duration(self.proxy.relaunch_timeout),
            "hooks.program" => self.hooks.program.as_ref().map(|path| quote(&path.to_string_lossy())),
            "hooks.events" => Some(quote_list(self.hooks.events.iter().map(String::as_str))),
            "hooks.timeout" => duration(self.hooks.timeout),
            key if key.starts_with("vip.") => vip::written(self.vip.as_ref()?, key),
            key if key.starts_with("http.") => http::written(&self.http, key),
            key if key.starts_with("proxy_tls.") => proxy_tls::written(&self.proxy.tls, key),
            "peer.listen" => text(&self.peer.listen),
            "peer.port" => Some(self.peer.port.to_string()),
            "tls.ca" => path(&self.tls.ca, &derived.ca),
            "tls.cert" => path(&self.tls.cert, &derived.cert),
            "tls.key" => path(&self.tls.key, &derived.key),
            "failover.heartbeat" => duration(self.failover.heartbeat),
            "failover.failure_timeout" => duration(self.failover.failure_timeout),
            "failover.drift_percent" => Some(self.failover.drift_percent.to_string()),
            "sync.standbys" => Some(self.sync.standbys.to_string()),
            "sync.lowered_commit" => text(self.sync.lowered_commit.as_str()),
            "fencing.watchdog" => text(self.fencing.watchdog.as_str()),
            "fencing.device" => text(&self.fencing.device),
            "failover.drain_timeout" => duration(self.failover.drain_timeout),
            "sync.on_last_standby_lost" => match self.sync.on_last_standby_lost {
                OnLastStandbyLost::Block => text("block"),
                OnLastStandbyLost::Degrade => text("degrade"),
            },
            "sync.method" => match self.sync.method {
                Method::Quorum => text("quorum"),
                Method::Priority => text("priority"),
            },
            "sync.maximum_lag_on_failover" => Some(self.sync.maximum_lag_on_failover.to_string()),
            "tags.nofailover" => Some(self.tags.nofailover.to_string()),
            "tags.noloadbalance" => Some(self.tags.noloadbalance.to_string()),
            "tags.clonefrom" => Some(self.tags.clonefrom.to_string()),
            "tags.nosync" => Some(self.tags.nosync.to_string()),
            "tags.replicatefrom" => self.tags.replicatefrom.as_ref().map(|node| quote(&node.0)),
            "tags.failover_priority" => Some(self.tags.failover_priority.to_string()),
            "tags.zone" => (!self.tags.zone.is_empty()).then(|| quote(&self.tags.zone)),
            "standby_cluster.hosts" => text(&self.standby_cluster.as_ref()?.hosts.join(",")),
            "standby_cluster.credentials" => {
                text(&self.standby_cluster.as_ref()?.credentials.to_string_lossy())
            }
            "standby_cluster.slot" => text(self.standby_cluster.as_ref()?.slot.as_ref()?),
            key => self.slots.written(key),
        }
    }
}

fn standby_cluster(draft: &Draft) -> Result<Option<StandbyCluster>, String> {
    let Some(hosts) = draft.text("standby_cluster.hosts") else { return Ok(None) };
    let credentials = "standby_cluster.credentials";
    Ok(Some(StandbyCluster {
        hosts: hosts.split(',').map(|host| host.trim().to_owned()).collect(),
        credentials: draft.text(credentials).map(PathBuf::from).ok_or(credentials)?,
        slot: draft.text("standby_cluster.slot").map(str::to_owned),
    }))
}

/// `host:port`, an IPv6 address in brackets.
/// `host:port`, an IPv6 address in brackets.
pub fn join_address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A TOML basic string.
pub(super) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

pub(super) fn quote_list<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let lines: Vec<String> = lines.map(|line| format!("\n  {},", quote(line))).collect();
    if lines.is_empty() { "[]".to_owned() } else { format!("[{}\n]", lines.concat()) }
}

/// Values of a draft that must be there; `Err` is the key that is not.
struct Take<'a>(&'a Draft);

impl Take<'_> {
    fn text(&self, key: &str) -> Result<String, String> {
        self.0.text(key).map(str::to_owned).ok_or_else(|| key.to_owned())
    }

    fn flag(&self, key: &str) -> Result<bool, String> {
        self.0.flag(key).ok_or_else(|| key.to_owned())
    }

    fn duration(&self, key: &str) -> Result<Duration, String> {
        self.0.duration(key).ok_or_else(|| key.to_owned())
    }

    /// The bounds of each kind fit its field.
    fn number<T: TryFrom<i64>>(&self, key: &str) -> Result<T, String> {
        self.0.integer(key).and_then(|number| T::try_from(number).ok()).ok_or_else(|| key.to_owned())
    }

    fn list(&self, key: &str) -> Result<Vec<String>, String> {
        match self.0.values.get(key) {
            Some((Value::List(lines), _)) => Ok(lines.clone()),
            _ => Err(key.to_owned()),
        }
    }
}
