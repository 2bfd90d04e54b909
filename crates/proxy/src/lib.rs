//! The proxy: clients connect here and reach the right server.
//!
//! ```text
//! listener ─► session ─► hello        what does the client want? (tls, if it wishes)
//!                    ├─► doors        was its like let in a moment ago? Then it needs no server to log in
//!                    ├─► admission    wait for a server (queue), choose (backend), connect (servers)
//!                    ├─► relay        move bytes, keep the books (ledger, ties, answers, shares), mind cancels
//!                    ├─► relocation   a new server for a session whose old one is gone
//!                    └─► refusal      what the client is told
//! ```
//!
//! What it is: a session relay with pools. Start-up packet and authentication pass through, so every method of pg_hba works
//! as without a proxy, and what was let in is let in again (`doors`); between transactions a session has no server (`worker::pools`), or keeps the one that it needs
//! (`ties`) until that is gone or is no primary any more, and is then moved to another when nothing of it is lost by that.
//! During a hold it is parked at its next transaction boundary. On the auto port each request goes where it may (`routes`).
//!
//! Invariants: the topology is learnt from one watch and from nowhere else. A server connection to a primary ends the
//! moment the topology names another primaryship, another primary or none; one to a replica, when that replica is not
//! listed. A message that a server was sent is never sent to another, but for a read that a replica has failed
//! (`relay::repeat`). A commit whose wait for standbys was cancelled
//! is never told as success (`answers`). No client can make the proxy hold unbounded memory, or a slot for ever before
//! it is authenticated.

pub mod auth;
pub mod tls;
pub mod topology;

mod admission;
mod answers;
mod backend;
mod books;
mod cancel;
mod ceilings;
mod clients;
mod console;
mod doors;
mod doorways;
mod hello;
mod lane;
mod ledger;
mod listener;
mod login;
mod metrics;
mod nearby;
mod passage;
mod policy;
mod refusal;
mod relay;
mod relocation;
mod routes;
mod servers;
mod session;
mod shares;
mod tally;
#[cfg(test)]
mod tests;
mod ties;
mod time_limits;
mod worker;

pub use cancel::{Elsewhere, SyncWaits};
pub use ceilings::CeilingLimits;
pub use metrics::{Metrics, families as metric_families};
pub use nearby::OwnServer;
pub use policy::{Leaks, LoweredCommit};
pub use routes::{CatalogNews, Catalogs, Consistency, LagMax, Position, Positions};
pub use routing::{HARMLESS_FUNCTIONS, Overrides, Query as CatalogQuery, Rows as CatalogRows};
pub use time_limits::TimeLimits;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use auth::roles::Role;
use cancel::{CancelMap, Cancelled};
use ceilings::Ceilings;
use clients::ClientRules;
use console::Desk;
use doors::Doors;
use doorways::Doorways;
use nearby::Nearby;
use routes::{Databases, Freshness};
use servers::Servers;
use shares::Registry;
use tls::{Tls, TlsConfig, TlsError};
use topology::Topology;
use wire::startup::CancelKey;
use worker::Workers;

/// What the proxy is told by the node's configuration.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Host name or address to listen on, `0.0.0.0` and `::` for all.
    pub listen: String,
    pub read_write_port: u16,
    pub read_only_port: u16,
    /// In transaction mode its sessions read from replicas; in session mode it behaves as the read-write port.
    pub auto_port: Option<u16>,
    /// The ports' Unix sockets are made there.
    pub socket_folder: Option<PathBuf>,
    /// Lines of pg_hba.conf about the clients' own addresses; without any everybody may try.
    pub client_rules: Vec<String>,
    /// What a read on a replica must see.
    pub read_consistency: Consistency,
    /// A replica that is further behind serves nobody while there is a primary.
    pub replica_lag_max: LagMax,
    /// Functions that the auto port sends to the primary, or lets replicas run, whatever the catalog says.
    pub functions: Overrides,
    /// Connections that may wait for a server at the same time.
    pub queue_max: usize,
    /// How long one waits at most. Zero: one attempt within `connect_timeout`.
    pub queue_timeout: Duration,
    pub sessions_max: usize,
    /// For TCP to a server.
    pub connect_timeout: Duration,
    /// Within this a client must have sent its start-up packet.
    pub login_timeout: Duration,
    /// For users who lower `synchronous_commit`.
    pub lowered_commit: LoweredCommit,
    /// Threads that move the sessions' bytes.
    pub threads: usize,
    pub pool_mode: PoolMode,
    /// For statements that leave what cannot be carried to another server. In transaction mode only.
    pub leaks: Leaks,
    /// Texts that are prepared without a name again and again are prepared once on each server.
    pub share_unnamed: bool,
    pub time_limits: TimeLimits,
    /// Servers for all sessions with one and the same start-up packet.
    pub pool_size: usize,
    /// So many of them stay, though nobody uses them.
    pub pool_min: usize,
    /// So many more there may be once somebody has waited for `pool_reserve_after`.
    pub pool_reserve: usize,
    pub pool_reserve_after: Duration,
    /// Connections to servers, those of log-ins included.
    pub server_limits: CeilingLimits,
    /// Clients that have been let in; `sessions_max` is the total.
    pub session_limits: CeilingLimits,
    /// A server that nobody uses for so long is closed.
    pub server_idle_timeout: Duration,
    /// One that is older is closed when it is given back.
    pub server_lifetime: Duration,
    pub tls: TlsConfig,
    /// Whose servers for clients that are in are reached by its socket.
    pub own_server: Option<OwnServer>,
}

/// For how long a session has a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PoolMode {
    /// For a transaction; as long as it keeps something there that cannot be carried to another one, until its end.
    #[default]
    Transaction,
    /// For a statement: transaction blocks are refused.
    Statement,
    /// Until its end.
    Session,
}

impl PoolMode {
    pub fn as_str(self) -> &'static str {
        match self {
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
            PoolMode::Session => "session",
        }
    }

    /// Of one of the words above, which the table of settings has checked.
    pub fn of(text: &str) -> PoolMode {
        match text {
            "session" => PoolMode::Session,
            "statement" => PoolMode::Statement,
            _ => PoolMode::Transaction,
        }
    }

    /// Whether sessions give their server back before their end.
    fn lends(self) -> bool {
        self != PoolMode::Session
    }
}

/// Tells what the catalog knows of roles. The agent implements it.
pub trait Secrets: Send + Sync {
    /// The role, of its memberships that in `pg_monitor` alone; `None` when there is none, or when it cannot be told.
    fn role<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Option<Role>> + Send + 'a>>;
}

/// Starts the node's process anew, which reads its configuration (PgBouncer's RELOAD). The node implements it.
pub trait Relaunch: Send + Sync {
    /// Ready when the new process is, and is about to take over; an error says why it is not, and then nothing has changed.
    fn relaunch(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
}

/// What the proxy may ask of its node, besides the topology that it is told.
#[derive(Clone, Default)]
pub struct Questions {
    /// Without it a statement that commits by standing alone is cancelled without a question.
    pub sync_waits: Option<Arc<dyn SyncWaits>>,
    /// Without it each password is for the server alone, and a session that has one cannot be moved to another.
    pub secrets: Option<Arc<dyn Secrets>>,
    /// Without it the auto port sends all that names a table or a function to the primary.
    pub catalogs: Option<Arc<dyn Catalogs>>,
    /// Without it no replica is known to have what somebody wrote.
    pub positions: Option<Arc<dyn Positions>>,
    /// Without it a cancel for a session that is not here is for nobody.
    pub elsewhere: Option<Arc<dyn Elsewhere>>,
    /// Without it the console's RELOAD fails.
    pub relaunch: Option<Arc<dyn Relaunch>>,
}

/// A port of the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    ReadWrite,
    ReadOnly,
    Auto,
}

impl Port {
    pub fn name(self) -> &'static str {
        match self {
            Port::ReadWrite => "read_write",
            Port::ReadOnly => "read_only",
            Port::Auto => "auto",
        }
    }

    /// What a client of this port waits for in vain.
    fn lack(self) -> &'static str {
        match self {
            Port::ReadWrite | Port::Auto => "no primary accepts connections",
            Port::ReadOnly => "no replica and no primary accepts connections",
        }
    }
}

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error(
        "port {port} of {host} is in use by another program (setting \"{setting}\"); choose another port there, \
         or find that program with \"ss -ltnp 'sport = :{port}'\""
    )]
    PortInUse { host: String, port: u16, setting: &'static str },
    #[error(
        "another server listens on {}; choose another folder (setting \"socket_dir\") or another port, or stop it",
        path.display()
    )]
    SocketInUse { path: PathBuf },
    #[error(
        "cannot make Unix sockets in {}: {why} (setting \"socket_dir\"); name a folder in which this user may write",
        folder.display()
    )]
    SocketFolder { folder: PathBuf, why: String },
    #[error("setting [proxy] hba: {0}")]
    ClientRules(#[from] auth::hba::HbaError),
    #[error("TLS of the proxy: {0}")]
    Tls(#[from] TlsError),
    #[error("cannot start the proxy's threads: {0}")]
    Workers(#[source] io::Error),
    #[error(
        "cannot listen on port {port} of {host}: {source} (settings \"listen\" and \"{setting}\"); name an \
         address of this machine, or 0.0.0.0 for all, and a port that this user may open"
    )]
    Listen { host: String, port: u16, setting: &'static str, source: io::Error },
}

impl ProxyError {
    fn bind(host: &str, port: u16, setting: &'static str, source: io::Error) -> ProxyError {
        let host = host.to_owned();
        match source.kind() {
            io::ErrorKind::AddrInUse => ProxyError::PortInUse { host, port, setting },
            _ => ProxyError::Listen { host, port, setting, source },
        }
    }
}

/// For sessions that were cut to say good-bye; their own farewell takes a second at most.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Where the proxy is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
enum Stage {
    Running,
    /// Another process takes the new sessions; those that are here go on.
    HandedOver,
    /// No new session; idle ones are closed, the others may finish their transaction.
    Draining,
    Stopped,
}

impl Stage {
    /// Waits until the proxy is at least this far; a proxy that was dropped is.
    async fn reached(self, stage: &mut watch::Receiver<Stage>) {
        drop(stage.wait_for(|stage| *stage >= self).await);
    }
}

/// What all sessions of a proxy share.
struct Shared {
    config: ProxyConfig,
    topology: watch::Receiver<Topology>,
    stage: watch::Sender<Stage>,
    servers: Servers,
    doors: Doors,
    desk: Desk,
    sessions: Arc<Semaphore>,
    server_ceilings: Ceilings,
    session_ceilings: Ceilings,
    dead_ends: Arc<Semaphore>,
    queued: Arc<AtomicUsize>,
    cancels: Arc<CancelMap>,
    counters: Arc<Counters>,
    questions: Questions,
    workers: Workers,
    tls: Tls,
    statements: Arc<Registry>,
    databases: Databases,
    freshness: Freshness,
    client_rules: ClientRules,
    nearby: Nearby,
}

impl Shared {
    fn counts(&self) -> Counts {
        let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            sessions: self.config.sessions_max.saturating_sub(self.sessions.available_permits()),
            queued: self.queued.load(Ordering::Relaxed),
            refused: total(&self.counters.refused),
            queue_timeouts: total(&self.counters.queue_timeouts),
            cuts: total(&self.counters.cuts),
            cancels: total(&self.counters.cancels),
            withheld_cancels: total(&self.counters.withheld_cancels),
            parked: self.counters.parked.load(Ordering::Relaxed),
            seeking: self.counters.seeking.load(Ordering::Relaxed),
            moved: total(&self.counters.moved),
            unacknowledged: total(&self.counters.unacknowledged),
            lowered_commits: total(&self.counters.lowered_commits),
            reads_by_replicas: total(&self.counters.reads_by_replicas),
            reads_by_primary: total(&self.counters.reads_by_primary),
            repeated: total(&self.counters.repeated),
            overdue: total(&self.counters.overdue),
        }
    }
}

/// Events since the start, and the sessions that are parked now.
#[derive(Default, Debug)]
struct Counters {
    parked: AtomicUsize,
    seeking: AtomicUsize,
    moved: AtomicU64,
    withheld_cancels: AtomicU64,
    unacknowledged: AtomicU64,
    lowered_commits: AtomicU64,
    reads_by_replicas: AtomicU64,
    reads_by_primary: AtomicU64,
    repeated: AtomicU64,
    overdue: AtomicU64,
    refused: AtomicU64,
    queue_timeouts: AtomicU64,
    cuts: AtomicU64,
    cancels: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The proxy in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Connections now, those included that wait or have not said what they want.
    pub sessions: usize,
    /// Of these, waiting for a server.
    pub queued: usize,
    /// Turned away since the start: queue full or timed out, too many sessions, shutdown.
    pub refused: u64,
    /// Of these, by the queue's deadline.
    pub queue_timeouts: u64,
    /// Sessions ended because their server was not to be used any more.
    pub cuts: u64,
    /// Cancel requests that reached a server.
    pub cancels: u64,
    /// Cancel requests dropped because they could have ended a commit's wait for standbys.
    pub withheld_cancels: u64,
    /// Sessions that wait at a transaction boundary for a switchover to end, now.
    pub parked: usize,
    /// Sessions that are in already and for which a server is looked for, now.
    pub seeking: usize,
    /// Sessions that went on with another server.
    pub moved: u64,
    /// Commits whose wait for standbys was cancelled, told as 08007.
    pub unacknowledged: u64,
    /// Times that a user lowered `synchronous_commit` and was warned.
    pub lowered_commits: u64,
    /// Reads of the auto port that a replica ran.
    pub reads_by_replicas: u64,
    /// Such that the primary ran, because no replica was known to have what they must see.
    pub reads_by_primary: u64,
    /// Such that were asked again of another server.
    pub repeated: u64,
    /// Sessions ended by a limit in time.
    pub overdue: u64,
}

/// Where it listens; tells the ports when the configuration left them to the kernel (port 0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    pub read_write: SocketAddr,
    pub read_only: SocketAddr,
    pub auto: Option<SocketAddr>,
}

impl Addresses {
    pub fn all(&self) -> Vec<SocketAddr> {
        [Some(self.read_write), Some(self.read_only), self.auto].into_iter().flatten().collect()
    }
}

/// Passes on cancel requests that come another way than by a port of the proxy.
#[derive(Clone)]
pub struct Canceller {
    shared: Arc<Shared>,
}

impl Canceller {
    /// `false` when no session of this proxy has the key.
    pub async fn cancel(&self, key: CancelKey<'_>) -> bool {
        session::cancel(&self.shared, key).await != Cancelled::Unknown
    }
}

/// A running proxy. Dropping it ends all its sessions at once; `shutdown` is the kind way.
pub struct Proxy {
    shared: Arc<Shared>,
    addresses: Addresses,
    doorways: Doorways,
    listeners: JoinSet<()>,
    /// Tells the workers of changes, and looks at certificates; ends with the proxy.
    _lookout: JoinSet<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.workers.quit();
    }
}

impl Proxy {
    /// Listens on all ports or, when one cannot be had, on none.
    pub async fn start(
        config: ProxyConfig,
        topology: watch::Receiver<Topology>,
        questions: Questions,
    ) -> Result<Proxy, ProxyError> {
        let mut proxy = Proxy::start_on(config, Vec::new(), topology, questions).await?;
        proxy.settle();
        Ok(proxy)
    }

    /// Whether its rules and certificates can be used; nothing is opened.
    pub fn check(config: &ProxyConfig) -> Result<(), ProxyError> {
        ClientRules::parse(&config.client_rules)?;
        config.socket_folder.as_deref().map_or(Ok(()), doorways::check_folder)?;
        Ok(Tls::start(&config.tls).map(drop)?)
    }

    /// As `start`, and to be settled; with doorways that a proxy before this one has opened and handed over; those that the configuration does not
    /// name any more are closed.
    pub async fn start_on(
        config: ProxyConfig,
        mut open: Vec<OwnedFd>,
        topology: watch::Receiver<Topology>,
        questions: Questions,
    ) -> Result<Proxy, ProxyError> {
        let mut entrances = Vec::new();
        let mut addresses = Vec::new();
        let (host, read_write, read_only) = (&config.listen, config.read_write_port, config.read_only_port);
        let ports = [
            (Port::ReadWrite, Some(read_write), "read_write_port"),
            (Port::ReadOnly, Some(read_only), "read_only_port"),
            (Port::Auto, config.auto_port, "auto_port"),
        ];
        for (port, number, setting) in ports {
            let Some(number) = number else { continue };
            let doorway = doorways::port(host, number, setting, &mut open).await?;
            let gone = || ProxyError::bind(host, number, setting, ErrorKind::AddrNotAvailable.into());
            let address = doorway.address().ok_or_else(gone)?;
            addresses.push(address);
            entrances.push((port, doorway));
            if let Some(folder) = &config.socket_folder {
                entrances.push((port, doorways::socket(folder, address.port(), &mut open).await?));
            }
        }
        let mut doorways = Doorways::new(open);
        for (_, doorway) in &entrances {
            doorways.add(doorway).map_err(ProxyError::Workers)?;
        }
        let addresses =
            Addresses { read_write: addresses[0], read_only: addresses[1], auto: addresses.get(2).copied() };
        let shared = Arc::new(Shared {
            topology,
            stage: watch::Sender::new(Stage::Running),
            servers: Servers::default(),
            doors: Doors::default(),
            desk: Desk::default(),
            sessions: Arc::new(Semaphore::new(config.sessions_max)),
            server_ceilings: Ceilings::new(config.server_limits),
            session_ceilings: Ceilings::new(config.session_limits),
            dead_ends: listener::dead_ends(),
            queued: Arc::default(),
            cancels: Arc::default(),
            counters: Arc::default(),
            questions,
            workers: Workers::new(config.threads).map_err(ProxyError::Workers)?,
            tls: Tls::start(&config.tls)?,
            statements: Arc::new(Registry::new(config.share_unnamed)),
            databases: Databases::default(),
            freshness: Freshness::new(config.replica_lag_max),
            client_rules: ClientRules::parse(&config.client_rules)?,
            nearby: Nearby::new(config.own_server.clone()),
            config,
        });
        shared.workers.start(&shared).map_err(ProxyError::Workers)?;
        let mut lookout = JoinSet::new();
        lookout.spawn(watch_for_workers(Arc::clone(&shared)));
        lookout.spawn(console::keep_averages(Arc::clone(&shared)));
        let watching = Arc::clone(&shared);
        lookout.spawn(async move { watching.tls.watch().await });
        if let Some(catalogs) = shared.questions.catalogs.clone() {
            let watching = Arc::clone(&shared);
            lookout.spawn(async move {
                watching.databases.watch(&*catalogs, &watching.config.functions).await;
            });
        }
        if let Some(positions) = shared.questions.positions.clone() {
            let watching = Arc::clone(&shared);
            lookout.spawn(async move { watching.freshness.watch(&watching, &positions).await });
        }
        let mut listeners = JoinSet::new();
        for (port, doorway) in entrances {
            listeners.spawn(listener::accept_loop(Arc::clone(&shared), port, doorway));
        }
        Ok(Proxy { shared, addresses, doorways, listeners, _lookout: lookout })
    }

    /// The process that has started it runs: what a process before it has left is its own from now on.
    pub fn settle(&mut self) {
        self.doorways.settle();
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    pub fn canceller(&self) -> Canceller {
        Canceller { shared: Arc::clone(&self.shared) }
    }

    pub fn metrics(&self) -> Metrics {
        Metrics { shared: Arc::clone(&self.shared) }
    }

    /// Accepts nobody any more, and gives the ports to whoever does: clients that connect meanwhile wait in them. The sessions
    /// that are here go on.
    pub fn hand_over(&mut self) -> Vec<OwnedFd> {
        self.shared.stage.send_replace(Stage::HandedOver);
        self.doorways.hand_over()
    }

    /// Waits until no session is left; to be called when no new one comes.
    pub async fn ended(&mut self) {
        while self.listeners.join_next().await.is_some() {}
        self.shared.workers.idle().await;
    }

    /// Takes no new session, gives open transactions up to `drain` to end, then cuts what is left.
    pub async fn shutdown(mut self, drain: Duration) {
        self.doorways.close();
        self.shared.stage.send_replace(Stage::Draining);
        let shared = Arc::clone(&self.shared);
        let all_ended = async {
            while self.listeners.join_next().await.is_some() {}
            shared.workers.idle().await;
        };
        if tokio::time::timeout(drain, all_ended).await.is_err() {
            self.shared.stage.send_replace(Stage::Stopped);
            // Each listener gives those who have no server yet a bounded time to say good-bye.
            while self.listeners.join_next().await.is_some() {}
            let _ = tokio::time::timeout(STOP_TIMEOUT, self.shared.workers.idle()).await;
        }
    }
}

/// Has the workers look whenever there is something new to see.
async fn watch_for_workers(shared: Arc<Shared>) {
    let (mut topology, mut stage) = (shared.topology.clone(), shared.stage.subscribe());
    loop {
        let published = tokio::select! {
            changed = topology.changed() => changed.is_ok(),
            changed = stage.changed() => changed.is_ok(),
        };
        shared.workers.look();
        if !published {
            break;
        }
    }
    // The agent is gone; the proxy may yet stop.
    while stage.changed().await.is_ok() {
        shared.workers.look();
    }
}
