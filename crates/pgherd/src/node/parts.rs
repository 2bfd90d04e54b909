//! The configuration as each part of a node wants it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use brain::{MemberRecord, MembersRecord, NodeName, OriginRecord, Settings};

use super::Precondition;
use crate::agent::{self, CredentialsFile, Doors, EventLog, Fencing, FencingConfig, Followed};
use crate::config::{Config, NodeKind, Peer, Watchdog, join_address};
use crate::hooks::HooksConfig;
use crate::peer::{Identity, PeerConfig};
use crate::postgres::{self, Layout, SlotSettings, Tunable};
use crate::vip::{Vip, VipConfig};
use proxy::topology::Topology;
use proxy::{Overrides, OwnServer, ProxyConfig};
use tokio::sync::watch;

/// For the proxy's connections to servers: a local network answers in milliseconds, a dead host never.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A client that has not said who it is by then is not coming.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What this node brings along to follow another cluster. Once the cluster exists the store has the passwords, and a
/// file that is no more is no obstacle.
pub(super) fn followed(config: &Config) -> Result<Followed> {
    let file = config.standby_cluster.as_ref().map(|standby| &standby.credentials);
    let read = file.filter(|file| file.exists() || !config.data_dir().exists());
    let credentials = read.map(|file| CredentialsFile::read(file)).transpose();
    let credentials = credentials.map_err(|error| Precondition(format!("{error:#}")))?;
    Ok(Followed { cluster: config.cluster.clone(), credentials })
}

/// What a reload may change.
pub(super) fn tunable(config: &Config) -> Tunable {
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

/// Before the agent, which must not open a primary that nobody watches; a witness has nothing to fence.
pub(super) fn fencing(config: &Config, events: &Arc<EventLog>) -> Result<Option<Fencing>> {
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
        vip: config.vip.clone(),
    };
    Ok(Some(Fencing::start(fencing, events.clone()).context("make the fencer's memory")?))
}

/// The peers of the configuration as a record: who founds the cluster, or whom a newcomer asks.
pub(super) fn seeds(config: &Config) -> MembersRecord {
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

/// Where people and applications reach this node: what listens everywhere, under the node's own address.
pub(super) fn doors(config: &Config) -> Doors {
    let at = |listen: &str, port: u16| match listen {
        "*" | "" | "0.0.0.0" | "::" => join_address(&config.node.advertise, port),
        host => join_address(host, port),
    };
    let proxy = &config.proxy;
    Doors {
        http: at(&config.http.listen, config.http.port),
        https: config.http.tls.is_some(),
        read_write: at(&proxy.listen, proxy.read_write_port),
        read_only: at(&proxy.listen, proxy.read_only_port),
        auto: at(&proxy.listen, proxy.auto_port),
    }
}

pub(super) fn settings(config: &Config, members: &MembersRecord) -> Settings {
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

/// An agent begins without knowing whether its node is the primary. What another one left without a deadline is known by then.
const IGNORANT_MAX_MS: u64 = 15_000;

/// Keeps the virtual IP, when there is one, and goes on with what an earlier agent left of it.
pub(super) fn vip(
    config: &Config,
    fencing: &Fencing,
    topology: watch::Receiver<Topology>,
    events: &Arc<EventLog>,
) -> Option<Vip> {
    let before = fencing.inherited_vip();
    if let Some(former) =
        before.as_ref().map(|order| &order.vip).filter(|vip| Some(*vip) != config.vip.as_ref())
    {
        crate::vip::remove_former(former.clone(), events.clone());
    }
    let known_ms = || crate::clock::boot_millis() + IGNORANT_MAX_MS;
    let vip = VipConfig {
        vip: config.vip.clone()?,
        node: config.node.name.clone(),
        left_until_ms: before.map_or(0, |order| order.until_ms.unwrap_or_else(known_ms)),
        lease: fencing.lease(),
    };
    Vip::start(vip, topology, events.clone())
}

/// Whom to tell what happens.
pub(super) fn hooks(config: &Config) -> Option<HooksConfig> {
    Some(HooksConfig {
        program: config.hooks.program.clone()?,
        events: config.hooks.events.clone(),
        timeout: config.hooks.timeout,
        cluster: config.cluster.clone(),
        node: config.node.name.clone(),
        has_role: config.node.kind == NodeKind::Full,
    })
}

/// A thread moves some 60,000 transactions a second, for which PostgreSQL needs about four cores.
const CORES_PER_PROXY_THREAD: usize = 4;

pub(super) fn proxy_config(config: &Config) -> Result<ProxyConfig> {
    let layout = Layout::new(&config.node.dir)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match config.proxy.threads {
        0 => (cores / CORES_PER_PROXY_THREAD).max(1),
        threads => threads as usize,
    };
    Ok(ProxyConfig {
        listen: config.proxy.listen.clone(),
        read_write_port: config.proxy.read_write_port,
        read_only_port: config.proxy.read_only_port,
        auto_port: Some(config.proxy.auto_port),
        socket_folder: config.proxy.socket_dir.clone(),
        client_rules: config.proxy.hba.clone(),
        read_consistency: config.proxy.read_consistency,
        replica_lag_max: config.proxy.replica_lag_max,
        functions: Overrides {
            always_primary: config.proxy.primary_functions.clone(),
            always_replica: config.proxy.replica_functions.clone(),
        },
        queue_max: config.proxy.queue_max as usize,
        queue_timeout: config.proxy.queue_timeout,
        sessions_max: config.proxy.sessions_max as usize,
        connect_timeout: CONNECT_TIMEOUT,
        login_timeout: LOGIN_TIMEOUT,
        lowered_commit: config.sync.lowered_commit,
        threads,
        pool_mode: config.proxy.pool_mode,
        leaks: config.proxy.leaks,
        share_unnamed: config.proxy.share_unnamed,
        time_limits: config.proxy.time_limits,
        pool_size: config.proxy.pool_size as usize,
        pool_min: config.proxy.pool_min as usize,
        pool_reserve: config.proxy.pool_reserve as usize,
        pool_reserve_after: config.proxy.pool_reserve_after,
        server_limits: config.proxy.server_limits,
        session_limits: config.proxy.session_limits,
        tls: config.proxy.tls.clone(),
        server_idle_timeout: config.proxy.server_idle_timeout,
        server_lifetime: config.proxy.server_lifetime,
        own_server: config.proxy.local_socket.then(|| OwnServer {
            node: config.node.name.clone(),
            socket: layout.socket(config.postgres.port),
            reserved_for: postgres::SUPERUSER.to_owned(),
        }),
    })
}

pub(super) fn peer_config(config: &Config, members: &MembersRecord) -> Result<PeerConfig> {
    Ok(PeerConfig {
        cluster: config.cluster.clone(),
        name: config.node.name.clone(),
        listen: config.peer_listen_address(),
        peers: agent::peers(members),
        identity: Identity::load(&config.tls.ca, &config.tls.cert, &config.tls.key)?,
    })
}
