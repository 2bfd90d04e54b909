//! The composition root: what a node is made of, in the order in which it starts and stops.
//!
//! Checks come first and touch nothing: binaries, data directory, ports. Then the store and the peer link, then the
//! agent, then what users reach. Stopping goes the other way round, and PostgreSQL is not part of it.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use brain::{MemberRecord, MembersRecord, NodeName, OriginRecord, Settings};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::agent::{
    self, Addresses, Agent, CredentialsFile, EventLog, Fencing, FencingConfig, Followed, MembersFile, Panel,
    Parts, ServerWaits, SlotPolicy, Words, WordsFile, Worker,
};
use crate::api::{self, NodeView};
use crate::config::{Config, NodeKind, Peer, Watchdog};
use crate::peer::{Channel, Identity, Incoming, Link, PeerConfig};
use crate::postgres::{DataState, Layout, Server, ServerConfig, SlotSettings, Tunable, binaries};
use crate::proxy::{Proxy, ProxyConfig, SyncWaits, topology::Topology};
use crate::store::{RaftConfig, RaftStore, SeatReport, Standing, Store};

/// Messages of all peers that wait for the agent: at 4 a second and peer, seconds of them.
const MESSAGES_MAX: usize = 256;

/// Raft messages on their way to the peer link; Raft repeats what is dropped.
const RAFT_MESSAGES_MAX: usize = 1024;

/// How long running sessions may go on when the node stops.
const DRAIN: Duration = Duration::from_secs(1);

/// For the proxy's connections to servers: a local network answers in milliseconds, a dead host never.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A client that has not said who it is by then is not coming.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// initdb writes some 40 MB and the first WAL segments; less than this cannot hold a cluster.
const NEW_DATA_BYTES_MIN: u64 = 128 << 20;

/// A killed process is gone within milliseconds, on a busy machine within a second.
const PID_FILE_WAIT: Duration = Duration::from_secs(2);
const PID_FILE_POLL: Duration = Duration::from_millis(20);

/// The machine is not as the node needs it; nothing has been touched. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Precondition(String);

/// Runs a node until SIGTERM or SIGINT. `config` was read from `file`, which a reload reads again.
pub async fn run(config: Config, file: PathBuf) -> Result<()> {
    let _pid_file = PidFile::take(&config.node.dir).await?;
    let words = WordsFile::open(&config.node.dir, &config.cluster, &config.node.name)?;
    let members_file = MembersFile::in_dir(&config.node.dir);
    let seeds = seeds(&config);
    let known = members_file.read()?;
    let first_start = known.is_none() && words.words().system_id.is_none();
    let members = known.unwrap_or_else(|| seeds.clone());
    let addresses = Arc::new(Addresses::from_pointee(agent::addresses(&members)));
    let worker = match config.node.kind {
        NodeKind::Full => {
            let (cluster, node) = (config.cluster.clone(), config.node.name.clone());
            let tunable = Box::new(move || reread(&file, &cluster, &node));
            let server = server(&config, words.words()).await?;
            Some(Arc::new(Worker::new(server, addresses.clone(), followed(&config)?, tunable)))
        }
        NodeKind::Witness => None,
    };
    let http = listen(&config.http.listen, config.http.port, "[http] port").await?;
    let (stop, stopped) = watch::channel(false);

    let (topology, seen_topology) = watch::channel(Topology::default());
    let proxy = Proxy::start(proxy_config(&config), seen_topology, sync_waits(worker.as_ref())).await?;

    let (raft_out, raft_outgoing) = mpsc::channel(RAFT_MESSAGES_MAX);
    let founding = serde_json::to_value(&seeds).context("write the first record of members")?;
    let mut raft = RaftConfig::new(&config.cluster, &config.node.name, config.store_dir(), founding);
    raft.first_start = first_start;
    let store = RaftStore::start(raft, raft_out)?;
    let (arrived, arriving) = mpsc::channel(MESSAGES_MAX);
    let link = Link::start(peer_config(&config, &members)?, arrived).await?;
    let (to_agent, incoming) = mpsc::channel(MESSAGES_MAX);
    tokio::spawn(carry_out(raft_outgoing, link.clone()));
    tokio::spawn(carry_in(arriving, store.clone(), to_agent));

    let events = Arc::new(EventLog::open(&config.node.dir, &config.node.name).context("open the event log")?);
    let panel = Arc::new(Panel::new(events.clone()));
    tokio::spawn(tell_store(store.clone(), events.clone()));
    let (watched, seats) = (store.watch(), store.seats());
    let following =
        agent::follow_members(members.clone(), members_file, watched, seats, link.clone(), addresses.clone());
    tokio::spawn(following);
    let fencing = fencing(&config, &events)?;
    let parts = Parts {
        settings: settings(&config, &members),
        tags: config.tags.clone(),
        method: config.sync.method,
        me: NodeName(config.node.name.clone()),
        words,
        credentials: CredentialsFile::in_dir(&config.node.dir),
        store: store.clone() as Arc<dyn Store>,
        link: link.clone(),
        incoming,
        worker,
        fencing,
        events,
        panel: panel.clone(),
        topology: Arc::new(topology),
        slots: SlotPolicy { slots: config.slots.clone(), file: config.node.dir.join("slots.json") },
        addresses: addresses.clone(),
        seats: store.seats(),
    };
    let view = Arc::new(NodeView {
        cluster: config.cluster.clone(),
        name: config.node.name.clone(),
        panel,
        store: store.clone() as Arc<dyn Store>,
        addresses,
        seats: store.seats(),
    });
    let api = tokio::spawn(api::serve(http, view, until(stopped.clone())));
    let agent = tokio::spawn(Agent::new(parts)?.run(stopped));
    tracing::info!(node = config.node.name, cluster = config.cluster, "pgherd runs");

    let result = tokio::select! {
        signal = stop_signal() => signal,
        ended = agent => ended.context("the agent ended")?.context("the agent failed"),
    };
    // Whoever receives this is already stopping, and a missing receiver needs no telling.
    let _ = stop.send(true);
    proxy.shutdown(DRAIN).await;
    link.shutdown().await;
    store.stop().await;
    api.abort();
    result
}

async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn stop_signal() -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; PostgreSQL goes on");
    Ok(())
}

/// Raft's messages to the peers.
async fn carry_out(mut outgoing: mpsc::Receiver<(String, Vec<u8>)>, link: Arc<Link>) {
    while let Some((to, payload)) = outgoing.recv().await {
        link.send(&to, Channel::Raft, payload.into());
    }
}

/// The peers' messages to Raft and the agent. The agent's are dropped when it does not keep up: each replaces the
/// one before.
async fn carry_in(
    mut arriving: mpsc::Receiver<Incoming>,
    store: Arc<RaftStore>,
    agent: mpsc::Sender<(String, bytes::Bytes)>,
) {
    while let Some(Incoming { from, channel, payload }) = arriving.recv().await {
        match channel {
            Channel::Raft => store.receive(&from, &payload),
            Channel::Agent => {
                if agent.try_send((from, payload)).is_err() {
                    tracing::warn!("the agent does not keep up; a message was dropped");
                }
            }
        }
    }
}

/// What befalls this node's part of the store is an event. The other nodes' stores and this node's PostgreSQL go on.
async fn tell_store(store: Arc<RaftStore>, events: Arc<EventLog>) {
    let mut seats = store.seats();
    let mut before = SeatReport::default();
    loop {
        let now = seats.borrow_and_update().clone();
        match (&before.trouble, &now.trouble) {
            (old, Some(reason)) if old.as_ref() != Some(reason) => {
                events.note(0, "store", "the store of this node takes no part", vec![reason.clone()]);
            }
            (Some(_), None) => events.note(0, "store", "the store of this node takes part again", Vec::new()),
            _ => {}
        }
        if before.standing != now.standing {
            let what = match now.standing {
                Standing::Newcomer => "the store of this node has no seat",
                Standing::Learner => "the store of this node learns",
                Standing::Voter => "the store of this node votes",
                Standing::Removed => {
                    "this node was removed from the cluster; its data stays, its pgherd can be stopped"
                }
            };
            events.note(0, "store", what, Vec::new());
        }
        before = (*now).clone();
        if seats.changed().await.is_err() {
            return;
        }
    }
}

/// Finds the binaries and looks at the data directory before anything is started.
async fn server(config: &Config, words: &Words) -> Result<Server> {
    let postgres = &config.postgres;
    let installations = binaries::discover(postgres.bin_dir.as_deref()).await?;
    let present = std::fs::read_to_string(config.data_dir().join("PG_VERSION")).ok();
    let present = present.and_then(|version| version.trim().parse::<u32>().ok());
    let installation = match postgres.version.or(present) {
        Some(major) => binaries::choose(&installations, major)?,
        None => installations.iter().max_by_key(|found| found.major).context("no PostgreSQL was found")?,
    };
    let server_config = ServerConfig {
        node: config.node.name.clone(),
        dir: config.node.dir.clone(),
        os_user: rustix::process::geteuid().is_root().then(|| postgres.user.clone()),
        listen: postgres.listen.clone(),
        port: postgres.port,
        tunable: tunable(config),
        reserve_bytes: u64::from(config.node.reserve_mb) << 20,
    };
    let server = Server::new(server_config, installation.clone()).await?;
    check_data(&server, words).map_err(Precondition)?;
    if server.adopt()?.is_none() {
        // Free now is all that can be said; PostgreSQL itself reports what happens later.
        listen(first_host(&postgres.listen), postgres.port, "[postgres] port").await?;
    }
    Ok(server)
}

/// What this node brings along to follow another cluster. Once the cluster exists the store has the passwords, and a
/// file that is no more is no obstacle.
fn followed(config: &Config) -> Result<Followed> {
    let file = config.standby_cluster.as_ref().map(|standby| &standby.credentials);
    let read = file.filter(|file| file.exists() || !config.data_dir().exists());
    let credentials = read.map(|file| CredentialsFile::read(file)).transpose();
    let credentials = credentials.map_err(|error| Precondition(format!("{error:#}")))?;
    Ok(Followed { cluster: config.cluster.clone(), credentials })
}

/// What a reload may change.
fn tunable(config: &Config) -> Tunable {
    let declared = &config.slots.declared;
    Tunable {
        parameters: config.postgres.parameters.clone(),
        hba: config.postgres.hba.clone(),
        slots: SlotSettings {
            declared: declared.len(),
            logical: declared.values().any(|slot| slot.logical.is_some()),
            budget_bytes_max: declared.values().filter_map(|slot| slot.wal_budget).max().unwrap_or(0),
        },
    }
}

/// Reads the configuration file again, for a reload; a file of another node is refused.
fn reread(path: &Path, cluster: &str, node: &str) -> Result<Tunable> {
    let config = crate::config::load(path)?;
    if config.cluster != cluster || config.node.name != node {
        bail!("{} is of another node now; nothing was applied", path.display());
    }
    Ok(tunable(&config))
}

/// The data directory is this node's own, or there is none and room for one.
fn check_data(server: &Server, words: &Words) -> Result<(), String> {
    let data = server.layout.data.display();
    if let Some(closed) = Layout::closed_on_the_way(&server.layout.dir, server.account.uid) {
        let (closed, user) = (closed.display(), &server.account.name);
        return Err(format!(
            "{closed} is closed to the user {user} (permission denied), as whom PostgreSQL runs; type: chmod o+x {closed}"
        ));
    }
    match server.data_state() {
        DataState::Unusable { reason } => Err(format!("the data directory {data} cannot be used: {reason}")),
        DataState::Ours(_) if words.durable.member.is_none() => Err(format!(
            "the data directory {data} holds a PostgreSQL of a cluster that pgherd did not make; move it away, or give this node another [node] dir"
        )),
        DataState::Ours(control) => match words.system_id {
            Some(own) if own != control.system_id => Err(format!(
                "the data directory {data} has system identifier {}, this cluster has {own}: it belongs to another cluster; move it away and this node copies its own anew",
                control.system_id
            )),
            _ => Ok(()),
        },
        DataState::RewindUnfinished => Ok(()),
        DataState::Absent | DataState::Empty => {
            let free = rustix::fs::statvfs(&server.layout.dir)
                .map(|fs| fs.f_bavail * fs.f_frsize)
                .unwrap_or(u64::MAX);
            if free >= NEW_DATA_BYTES_MIN {
                return Ok(());
            }
            Err(format!(
                "no space left for a data directory in {}: {} MB are free, at least {} MB are needed; make room, or give this node another [node] dir",
                server.layout.dir.display(),
                free >> 20,
                NEW_DATA_BYTES_MIN >> 20
            ))
        }
    }
}

/// The first of `listen_addresses`, for a check of the port.
fn first_host(listen: &str) -> &str {
    match listen.split(',').next().unwrap_or_default().trim() {
        "*" | "" => "0.0.0.0",
        host => host,
    }
}

async fn listen(host: &str, port: u16, setting: &str) -> Result<TcpListener> {
    TcpListener::bind((host, port)).await.with_context(|| {
        format!(
            "cannot listen on {host}:{port}; see who uses it (ss -ltnp 'sport = :{port}') or change {setting}"
        )
    })
}

/// Before the agent, which must not open a primary that nobody watches; a witness has nothing to fence.
fn fencing(config: &Config, events: &Arc<EventLog>) -> Result<Option<Fencing>> {
    if config.node.kind != NodeKind::Full {
        return Ok(None);
    }
    let required = config.fencing.watchdog == Watchdog::Required;
    let device = &config.fencing.device;
    if required && let Err(error) = rustix::fs::access(device.as_str(), rustix::fs::Access::WRITE_OK) {
        let text = format!(
            "[fencing] watchdog is \"required\", but {device} cannot be used: {error}; load its driver (modprobe softdog \
             has one for every machine), let pgherd's user write to it, or set watchdog = \"automatic\""
        );
        return Err(Precondition(text).into());
    }
    let fencing = FencingConfig {
        dir: std::path::absolute(&config.node.dir)?,
        watchdog: (config.fencing.watchdog != Watchdog::Off).then(|| device.clone()),
        required,
        failure_timeout_ms: config.failover.failure_timeout.as_millis() as u64,
    };
    Ok(Some(Fencing::start(fencing, events.clone()).context("make the fencer's memory")?))
}

/// The peers of the configuration as a record: who founds the cluster, or whom a newcomer asks.
fn seeds(config: &Config) -> MembersRecord {
    let member = |(name, peer): (&String, &Peer)| {
        let kind = match peer.kind {
            NodeKind::Full => brain::NodeKind::Full,
            NodeKind::Witness => brain::NodeKind::Witness,
        };
        let record =
            MemberRecord { kind, peer: peer.peer.clone(), postgres: peer.postgres.clone(), leaving: false };
        (NodeName(name.clone()), record)
    };
    MembersRecord { nodes: config.peers.iter().map(member).collect(), ..MembersRecord::default() }
}

fn settings(config: &Config, members: &MembersRecord) -> Settings {
    let mut settings = Settings {
        cluster: config.cluster.clone(),
        full: BTreeSet::new(),
        voters: BTreeSet::new(),
        heartbeat_ms: config.failover.heartbeat.as_millis() as u64,
        failure_timeout_ms: config.failover.failure_timeout.as_millis() as u64,
        drift_percent: config.failover.drift_percent.into(),
        standbys: config.sync.standbys as usize,
        slot_gate: config.slots.gate,
        on_last_standby_lost: config.sync.on_last_standby_lost,
        maximum_lag_bytes: config.sync.maximum_lag_on_failover,
        drain_timeout_ms: config.failover.drain_timeout.as_millis() as u64,
        origin: config.standby_cluster.as_ref().map(|standby| OriginRecord {
            hosts: standby.hosts.clone(),
            slot: standby.slot.clone(),
            left: None,
        }),
    };
    settings.follow(members);
    settings
}

fn proxy_config(config: &Config) -> ProxyConfig {
    ProxyConfig {
        listen: config.proxy.listen.clone(),
        read_write_port: config.proxy.read_write_port,
        read_only_port: config.proxy.read_only_port,
        auto_port: Some(config.proxy.auto_port),
        queue_max: config.proxy.queue_max as usize,
        queue_timeout: config.proxy.queue_timeout,
        sessions_max: config.proxy.sessions_max as usize,
        connect_timeout: CONNECT_TIMEOUT,
        login_timeout: LOGIN_TIMEOUT,
        lowered_commit: config.sync.lowered_commit,
    }
}

/// A witness has no password of the cluster's own roles, and so cannot ask.
fn sync_waits(worker: Option<&Arc<Worker>>) -> Option<Arc<dyn SyncWaits>> {
    worker.map(|worker| Arc::new(ServerWaits::new(Arc::clone(worker))) as Arc<dyn SyncWaits>)
}

fn peer_config(config: &Config, members: &MembersRecord) -> Result<PeerConfig> {
    Ok(PeerConfig {
        cluster: config.cluster.clone(),
        name: config.node.name.clone(),
        listen: config.peer_listen_address(),
        peers: agent::peers(members),
        identity: Identity::load(&config.tls.ca, &config.tls.cert, &config.tls.key)?,
    })
}

/// `DIR/pgherd.pid`, locked while the node runs: two agents on one directory would both be right.
struct PidFile {
    _file: File,
}

impl PidFile {
    async fn take(dir: &Path) -> Result<PidFile> {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let path = dir.join("pgherd.pid");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("write {}", path.display()))?;
        // A process that was killed a moment ago holds the lock until the last of its threads has ended.
        let begun = Instant::now();
        while file.try_lock().is_err() {
            if begun.elapsed() > PID_FILE_WAIT {
                bail!("another pgherd runs on {}; see {}", dir.display(), path.display());
            }
            tokio::time::sleep(PID_FILE_POLL).await;
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(PidFile { _file: file })
    }
}
