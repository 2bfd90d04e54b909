//! The composition root: what a node is made of, in the order in which it starts and stops.
//!
//! Checks come first and touch nothing: binaries, data directory, ports. Then the store and the peer link, then the
//! agent, then what users reach. Stopping goes the other way round, and PostgreSQL is not part of it.

mod cancels;
mod parts;
mod pid_file;
pub mod relaunch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use brain::NodeName;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use self::cancels::Cancels;
use self::parts::{
    doors, fencing, followed, hooks, peer_config, proxy_config, seeds, settings, tunable, vip,
};
use self::pid_file::PidFile;
use self::relaunch::{Inheritance, Old, Successor, Wishes};
use crate::agent::{
    self, Addresses, Agent, CredentialsFile, EventLog, MembersFile, News, Panel, Parts, SlotPolicy, Words,
    WordsFile, Worker,
};
use crate::api::{self, Door, NodeView};
use crate::cluster_config::{self, Applier};
use crate::config::{Config, NodeKind};
use crate::doctor::{self, Examiner};
use crate::peer::{Channel, Identity, Incoming, Link};
use crate::postgres::{DataState, Layout, Server, ServerConfig, binaries};
use crate::store::{RaftConfig, RaftStore, SeatReport, Standing, Store};
use crate::systemd;
use proxy::{Canceller, Elsewhere, Proxy, topology::Topology};

/// Messages of all peers that wait for the agent: at 4 a second and peer, seconds of them.
const MESSAGES_MAX: usize = 256;

/// Raft messages on their way to the peer link; Raft repeats what is dropped.
const RAFT_MESSAGES_MAX: usize = 1024;

/// How long running sessions may go on when the node stops.
const DRAIN: Duration = Duration::from_secs(1);

/// For work on the server to end before another process takes over.
const WORK_PATIENCE: Duration = Duration::from_secs(5);
const BUSY_POLL: Duration = Duration::from_millis(50);

/// initdb writes some 40 MB and the first WAL segments; less than this cannot hold a cluster.
const NEW_DATA_BYTES_MIN: u64 = 128 << 20;

/// The machine is not as the node needs it; nothing has been touched. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Precondition(String);

/// Runs a node until SIGTERM or SIGINT, or until another process has taken over and no session is left here. `config` was read
/// by [`crate::config::load_node`] from `file`, which a reload reads again, under the cluster's configuration of this `number`.
pub async fn run(
    config: Config,
    number: u64,
    file: PathBuf,
    mut inheritance: Option<Inheritance>,
) -> Result<()> {
    let result = start_and_serve(config, number, file, &mut inheritance).await;
    if let (Err(error), Some(inheritance)) = (&result, inheritance) {
        inheritance.fail(error).await;
    }
    result
}

/// What can be known of a configuration while the process before this one has these ports `open`.
pub async fn check(config: &Config, open: &[SocketAddr]) -> Result<()> {
    let proxy = proxy_config(config)?;
    check_proxy(config)?;
    Identity::load(&config.tls.ca, &config.tls.cert, &config.tls.key)?;
    Door::open(&config.http)?;
    let ports = [
        (&config.http.listen, config.http.port, "[http] port"),
        (&config.peer.listen, config.peer.port, "[peer] port"),
        (&proxy.listen, proxy.read_write_port, "[proxy] read_write_port"),
        (&proxy.listen, proxy.read_only_port, "[proxy] read_only_port"),
        (&proxy.listen, config.proxy.auto_port, "[proxy] auto_port"),
    ];
    for (host, port, setting) in ports {
        let addresses = tokio::net::lookup_host((host.as_str(), port)).await;
        let address = addresses.with_context(|| format!("look {host} up"))?.next();
        if address.is_none_or(|address| !open.contains(&address)) {
            // Also one that is open at another address: it would have to be closed first, which a relaunch does not.
            listen(host, port, setting).await?;
        }
    }
    Ok(())
}

/// What can be known of the proxy's part of a configuration.
fn check_proxy(config: &Config) -> Result<()> {
    Ok(Proxy::check(&proxy_config(config)?)?)
}

async fn start_and_serve(
    config: Config,
    number: u64,
    file: PathBuf,
    inheritance: &mut Option<Inheritance>,
) -> Result<()> {
    // Before anybody can know of this process: unheard signals would end it.
    let mut asked = signal(SignalKind::user_defined2())?;
    let mut stops = Stops::new()?;
    let pid_file = PidFile::take(&config.node.dir).await?;
    let words = WordsFile::open(&config.node.dir, &config.cluster, &config.node.name)?;
    let members_file = MembersFile::in_dir(&config.node.dir);
    let seeds = seeds(&config);
    let known = members_file.read()?;
    let first_start = known.is_none() && words.words().system_id.is_none();
    let members = known.unwrap_or_else(|| seeds.clone());
    let addresses = Arc::new(Addresses::from_pointee(agent::addresses(&members)));
    let worker = match config.node.kind {
        NodeKind::Full => {
            let server = server(&config, words.words()).await?;
            Some(Arc::new(Worker::new(server, addresses.clone(), followed(&config)?)))
        }
        NodeKind::Witness => None,
    };
    let door = Door::open(&config.http)?;
    let http = listen(&config.http.listen, config.http.port, "[http] port").await?;
    let (stop, stopped) = watch::channel(false);

    let (topology, seen_topology) = watch::channel(Topology::default());
    let topology = Arc::new(topology);
    let cancels = Arc::new(Cancels::default());
    let mut questions = agent::questions(worker.as_ref());
    questions.elsewhere = Some(Arc::clone(&cancels) as Arc<dyn Elsewhere>);
    let (relaunches, mut wishes) = mpsc::channel(1);
    let relaunch: Arc<dyn proxy::Relaunch> = Arc::new(Wishes(relaunches));
    questions.relaunch = Some(relaunch.clone());
    let ports = inheritance.as_mut().map(|inheritance| std::mem::take(&mut inheritance.ports));
    let ports = ports.unwrap_or_default();
    let proxy = Proxy::start_on(proxy_config(&config)?, ports, seen_topology, questions).await?;

    let (raft_out, raft_outgoing) = mpsc::channel(RAFT_MESSAGES_MAX);
    let founding = serde_json::to_value(&seeds).context("write the first record of members")?;
    let mut raft = RaftConfig::new(&config.cluster, &config.node.name, config.store_dir(), founding);
    raft.first_start = first_start;
    let store = RaftStore::start(raft, raft_out)?;
    let (arrived, arriving) = mpsc::channel(MESSAGES_MAX);
    let news = Arc::new(News::new(doors(&config)));
    let link = Link::start(peer_config(&config, &members)?, arrived).await?;
    let (to_agent, incoming) = mpsc::channel(MESSAGES_MAX);
    tokio::spawn(carry_out(raft_outgoing, link.clone()));
    cancels.to_peers(link.clone());
    let carrier = Carrier {
        store: store.clone(),
        agent: to_agent,
        canceller: proxy.canceller(),
        cancels: cancels.clone(),
        news: news.clone(),
    };
    tokio::spawn(carrier.carry_in(arriving));

    let events = Arc::new(EventLog::open(&config.node.dir, &config.node.name).context("open the event log")?);
    let panel = Arc::new(Panel::new(events.clone()));
    let telling = tokio::spawn(tell_store(store.clone(), events.clone()));
    let (watched, seats) = (store.watch(), store.seats());
    let following =
        agent::follow_members(members.clone(), members_file, watched, seats, link.clone(), addresses.clone());
    let telling_news = tokio::spawn(agent::tell_news(news.clone(), events.clone(), link.clone()));
    let mut helpers =
        vec![telling.abort_handle(), telling_news.abort_handle(), tokio::spawn(following).abort_handle()];
    if let Some(hooks) = hooks(&config) {
        helpers.push(
            tokio::spawn(crate::hooks::run(hooks, topology.subscribe(), events.clone())).abort_handle(),
        );
    }
    let started = (config.clone(), number);
    let (worker_of, store_of) = (worker.clone(), store.clone());
    let applier = Applier::new(started, file, tunable, check_proxy, worker_of, store_of, relaunch);
    let applier = Arc::new(applier);
    helpers.push(tokio::spawn(cluster_config::follow(applier.clone(), events.clone())).abort_handle());
    let fencing = fencing(&config, &events)?;
    let vip = fencing.as_ref().and_then(|fencing| vip(&config, fencing, topology.subscribe(), &events));
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
        worker: worker.clone(),
        reload: applier.clone(),
        fencing,
        events: events.clone(),
        panel: panel.clone(),
        topology: topology.clone(),
        slots: SlotPolicy { slots: config.slots.clone(), file: config.node.dir.join("slots.json") },
        addresses: addresses.clone(),
        seats: store.seats(),
        counts: proxy.metrics(),
        news: news.clone(),
    };
    let busy = panel.clone();
    let examiner = Examiner::new(doctor::Parts {
        config: config.clone(),
        worker: worker.clone(),
        applier: applier.clone(),
        panel: panel.clone(),
        link: link.clone(),
        news: news.clone(),
        seats: store.seats(),
    });
    let view = Arc::new(NodeView {
        cluster: config.cluster.clone(),
        name: config.node.name.clone(),
        panel,
        store: store.clone() as Arc<dyn Store>,
        addresses,
        metrics: proxy.metrics(),
        seats: store.seats(),
        started_ms: crate::clock::boot_millis(),
        news,
        applier,
        examiner: Arc::new(examiner),
    });
    let open = [&[http.local_addr()?, link.local_address()], &proxy.addresses().all()[..]].concat();
    let api = tokio::spawn(api::serve(http, door, view, until(stopped.clone())));
    // What is published from the first moment on is passed on.
    let seen = topology.subscribe();
    let mut agent = tokio::spawn(Agent::new(parts)?.run(stopped));
    let mut proxy = proxy;
    proxy.settle();
    let predecessor = inheritance.take().map(|inheritance| inheritance.take_charge(seen));
    match &predecessor {
        Some(predecessor) => cancels.to_predecessor(predecessor.cancels.clone()),
        // Of a relaunch the process before tells, which is the main one until then.
        None => systemd::runs(&config.cluster, &config.node.name),
    }
    tracing::info!(node = config.node.name, cluster = config.cluster, "pgherd runs");

    let end = loop {
        tokio::select! {
            () = stops.next() => break End::Stopped(Ok(())),
            ended = &mut agent => {
                break End::Stopped(ended.context("the agent ended").and_then(|ended| ended.context("the agent failed")));
            }
            wish = relaunch::wish(&mut asked, &mut wishes) => {
                let ready = async {
                    until_idle(&busy).await?;
                    Successor::start(&relaunch::program()?, &open).await
                };
                let ready = tokio::select! {
                    () = stops.next() => break End::Stopped(Ok(())),
                    ready = ready => ready,
                };
                match ready {
                    Ok(successor) => {
                        wish.granted();
                        break End::Succeeded(Box::new(successor));
                    }
                    Err(error) => {
                        let why = format!("{error:#}");
                        events.note(0, "relaunch", "this process goes on", vec![why.clone()]);
                        wish.failed(why, &config.node.dir);
                    }
                }
            }
        }
    };
    // Whoever receives this is already stopping, and a missing receiver needs no telling.
    let _ = stop.send(true);
    drop(wishes);
    match end {
        End::Stopped(result) => {
            systemd::stops();
            let before = async {
                if let Some(mut predecessor) = predecessor {
                    predecessor.stop().await;
                }
            };
            tokio::join!(before, proxy.shutdown(DRAIN));
            // After the sessions have heard that they end.
            if let Some(vip) = vip {
                vip.remove().await;
            }
            link.shutdown().await;
            store.stop().await;
            api.abort();
            result
        }
        End::Succeeded(successor) => {
            // All that only one process may have is let go before the next one begins.
            let agent = if agent.is_finished() { Ok(()) } else { agent.await.map(drop) };
            if let Some(worker) = &worker {
                worker.end(WORK_PATIENCE).await;
            }
            helpers.iter().for_each(AbortHandle::abort);
            if let Some(vip) = vip {
                vip.leave().await;
            }
            link.shutdown().await;
            store.stop().await;
            api.abort();
            let _ = (agent, api.await);
            drop(pid_file);
            let old = Old { proxy, topology, cancels, predecessor, timeout: config.proxy.relaunch_timeout };
            old.hand_over(*successor, &config.node.dir, &open, &mut stops).await
        }
    }
}

/// Nothing that changes the server may be broken off for a new process: it ends first, or the new one comes later.
async fn until_idle(panel: &Panel) -> Result<()> {
    let busy = || panel.seen().and_then(|seen| seen.view.busy);
    let idle = async {
        while busy().is_some() {
            tokio::time::sleep(BUSY_POLL).await;
        }
    };
    match (tokio::time::timeout(WORK_PATIENCE, idle).await, busy()) {
        (Err(_), Some(operation)) => {
            bail!(
                "this node is busy with its PostgreSQL ({operation:?}); see pgherd status, and try again when that is done"
            )
        }
        _ => Ok(()),
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// SIGTERM and SIGINT; one that comes while nobody waits is heard later.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    fn new() -> Result<Stops> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Stops { terminate, interrupt })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        tracing::info!("stopping; PostgreSQL goes on");
    }
}

/// Raft's messages to the peers.
async fn carry_out(mut outgoing: mpsc::Receiver<(String, Vec<u8>)>, link: Arc<Link>) {
    while let Some((to, payload)) = outgoing.recv().await {
        link.send(&to, Channel::Raft, payload.into());
    }
}

/// For whom the peers' messages are.
struct Carrier {
    store: Arc<RaftStore>,
    agent: mpsc::Sender<(String, bytes::Bytes)>,
    canceller: Canceller,
    cancels: Arc<Cancels>,
    news: Arc<News>,
}

impl Carrier {
    /// The agent's messages are dropped when it does not keep up: each replaces the one before.
    async fn carry_in(self, mut arriving: mpsc::Receiver<Incoming>) {
        while let Some(Incoming { from, channel, payload }) = arriving.recv().await {
            match channel {
                Channel::Raft => self.store.receive(&from, &payload),
                Channel::Agent => {
                    if self.agent.try_send((from, payload)).is_err() {
                        tracing::warn!("the agent does not keep up; a message was dropped");
                    }
                }
                Channel::Cancel => self.cancels.deal_with(&self.canceller, payload),
                Channel::News => self.news.hear(&from, &payload),
            }
        }
    }
}

/// Why the node's loop has ended.
enum End {
    Stopped(Result<()>),
    Succeeded(Box<Successor>),
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
