//! The link as the rest of the node sees it, and the state that dialling and accepting share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::{debug, warn};

use super::frame::{Hello, PAYLOAD_BYTES_MAX, VERSION};
use super::outbox::Outbox;
use super::{Channel, Incoming, PeerAddress, PeerConfig, accept, dial, tls};

/// For writing what is queued when the node stops, so that its last announcement gets out. Peers on a network that
/// works take a few milliseconds; the others are not waited for.
const SHUTDOWN_DEADLINE: Duration = Duration::from_millis(500);

/// The connections to all peers. Dropping it ends them at once.
pub struct Link {
    pub(super) shared: Arc<Shared>,
    tasks: tokio::sync::Mutex<Tasks>,
    local_address: SocketAddr,
}

#[derive(Default)]
struct Tasks {
    running: JoinSet<()>,
    /// Who is dialled, where, and the task that does it.
    dialling: BTreeMap<String, (PeerAddress, AbortHandle)>,
}

impl Link {
    /// Listens, and dials the peers whose names are greater than this node's. Messages from peers go to `incoming`;
    /// while it is full nothing is read, so a slow receiver slows the senders down and makes them drop.
    pub async fn start(config: PeerConfig, incoming: mpsc::Sender<Incoming>) -> anyhow::Result<Arc<Link>> {
        let listener = TcpListener::bind(&config.listen).await.with_context(|| {
            format!(
                "listen for peers on {} (peer.listen and peer.port; is another pgherd running there?)",
                config.listen
            )
        })?;
        Link::start_on(listener, config, incoming)
    }

    pub(super) fn start_on(
        listener: TcpListener,
        config: PeerConfig,
        incoming: mpsc::Sender<Incoming>,
    ) -> anyhow::Result<Arc<Link>> {
        let PeerConfig { cluster, name, peers, identity, .. } = config;
        ensure!(
            identity.name() == name,
            "the certificate of this node names {:?}, but the node is {name:?}; issue one for {name:?} or correct node.name",
            identity.name()
        );
        let local_address = listener.local_addr().context("read the address listened on")?;
        let shared = Arc::new(Shared {
            connector: tls::connector(&identity)?,
            acceptor: tls::acceptor(&identity)?,
            cluster,
            name,
            peers: Mutex::default(),
            incoming,
            connections: Mutex::default(),
            connected: watch::Sender::default(),
            stopping: watch::Sender::new(false),
        });
        let mut tasks = Tasks::default();
        tasks.running.spawn(accept::run(shared.clone(), listener));
        tasks.dial(&shared, peers);
        Ok(Arc::new(Link { shared, tasks: tokio::sync::Mutex::new(tasks), local_address }))
    }

    /// From now on exactly these are peers. The connection to one that is no peer any more, or has another address, is
    /// closed; those of the others are left alone.
    pub async fn set_peers(&self, peers: BTreeMap<String, PeerAddress>) {
        let mut tasks = self.tasks.lock().await;
        while tasks.running.try_join_next().is_some() {}
        tasks.dial(&self.shared, peers);
    }

    /// Hands a message over to be sent to peer `to`. Never waits. False when it was dropped at once: `to` is no
    /// peer or not connected, the payload is over [`PAYLOAD_BYTES_MAX`], or too many Raft messages wait.
    /// True is no promise: the connection may break, and newer status messages may push this one out.
    pub fn send(&self, to: &str, channel: Channel, payload: Bytes) -> bool {
        if payload.len() > PAYLOAD_BYTES_MAX {
            warn!(peer = to, bytes = payload.len(), "a message to a peer is over the limit and was dropped");
            return false;
        }
        let outbox = self.shared.connections().get(to).map(|connection| connection.outbox.clone());
        outbox.is_some_and(|outbox| outbox.push(channel, payload))
    }

    /// The peers that a connection stands to. No proof of life: a frozen peer stays connected for a while.
    pub fn connected(&self) -> BTreeSet<String> {
        self.shared.connected.borrow().clone()
    }

    pub fn watch_connected(&self) -> watch::Receiver<BTreeSet<String>> {
        self.shared.connected.subscribe()
    }

    /// The address listened on; tells the port when the configured one was 0.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Stops listening and dialling, writes what is queued (for at most [`SHUTDOWN_DEADLINE`]), closes everything.
    pub async fn shutdown(&self) {
        self.shared.stopping.send_replace(true);
        for connection in self.shared.connections().values() {
            connection.outbox.drain();
        }
        let mut tasks = self.tasks.lock().await;
        let ended = async { while tasks.running.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_DEADLINE, ended).await.is_err() {
            debug!("not everything queued for the peers could be written in time");
            tasks.running.shutdown().await;
        }
    }
}

impl Tasks {
    /// Makes `peers` those that connections are taken from and kept to.
    fn dial(&mut self, shared: &Arc<Shared>, mut peers: BTreeMap<String, PeerAddress>) {
        peers.remove(&shared.name);
        let before = shared.replace_peers(peers.clone());
        for (peer, address) in &before {
            if peers.get(peer) == Some(address) {
                continue;
            }
            if let Some((_, task)) = self.dialling.remove(peer) {
                task.abort();
            }
            shared.disconnect(peer);
        }
        for (peer, address) in peers.range(shared.name.clone()..) {
            if !self.dialling.contains_key(peer) {
                let task = self.running.spawn(dial::run(shared.clone(), peer.clone(), address.clone()));
                self.dialling.insert(peer.clone(), (address.clone(), task));
            }
        }
    }
}

/// What the accepting and the dialling side share.
pub(super) struct Shared {
    pub cluster: String,
    pub name: String,
    /// The others.
    peers: Mutex<BTreeMap<String, PeerAddress>>,
    pub connector: TlsConnector,
    pub acceptor: TlsAcceptor,
    pub incoming: mpsc::Sender<Incoming>,
    connections: Mutex<BTreeMap<String, Connection>>,
    /// The keys of `connections`.
    connected: watch::Sender<BTreeSet<String>>,
    stopping: watch::Sender<bool>,
}

/// The connection in use with a peer.
struct Connection {
    outbox: Arc<Outbox>,
    address: SocketAddr,
}

impl Shared {
    pub fn hello(&self) -> Hello {
        Hello { version: VERSION, cluster: self.cluster.clone(), name: self.name.clone() }
    }

    /// Is `hello` one to talk to, from a node whose certificate names `certified`?
    pub fn check_hello(&self, hello: &Hello, certified: &str) -> anyhow::Result<()> {
        if hello.version != VERSION {
            bail!("it speaks version {} of the peer link, this node {VERSION}", hello.version);
        }
        if hello.cluster != self.cluster {
            bail!("it belongs to cluster {:?}, this node to {:?}", hello.cluster, self.cluster);
        }
        if hello.name != certified {
            bail!("it claims to be {:?}, its certificate names {certified:?}", hello.name);
        }
        Ok(())
    }

    pub fn is_peer(&self, name: &str) -> bool {
        self.peers().contains_key(name)
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<String, PeerAddress>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace_peers(&self, peers: BTreeMap<String, PeerAddress>) -> BTreeMap<String, PeerAddress> {
        std::mem::replace(&mut *self.peers(), peers)
    }

    /// What is queued for it is still written; its task ends by itself.
    fn disconnect(&self, peer: &str) {
        if let Some(connection) = self.connections().get(peer) {
            connection.outbox.drain();
        }
    }

    /// Makes a new connection the one in use and closes the one it replaces.
    pub fn register(self: &Arc<Self>, peer: &str, address: SocketAddr) -> Registration {
        let outbox = Arc::new(Outbox::new());
        let mut connections = self.connections();
        // Under the lock, so that `shutdown` sees this connection or this sees the shutdown.
        if *self.stopping.borrow() {
            outbox.drain();
        }
        let replaced = connections.insert(peer.to_owned(), Connection { outbox: outbox.clone(), address });
        if let Some(replaced) = replaced {
            debug!(peer, old = %replaced.address, new = %address, "a new connection replaces the old one");
            replaced.outbox.close();
        }
        self.publish(&connections);
        drop(connections);
        Registration { shared: self.clone(), peer: peer.to_owned(), outbox }
    }

    /// Runs `work` until it ends or the link stops; `None` in the latter case.
    pub async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            biased;
            // The sender lives in `self`, so this ends only when the value has become true.
            _ = stopping.wait_for(|stopping| *stopping) => None,
            result = work => Some(result),
        }
    }

    fn publish(&self, connections: &BTreeMap<String, Connection>) {
        self.connected.send_if_modified(|connected| {
            let changed = !connected.iter().eq(connections.keys());
            if changed {
                *connected = connections.keys().cloned().collect();
            }
            changed
        });
    }

    fn connections(&self) -> MutexGuard<'_, BTreeMap<String, Connection>> {
        // No code under this lock can panic half-way through a change.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those in use; given up when dropped, however its task ends.
pub(super) struct Registration {
    shared: Arc<Shared>,
    pub peer: String,
    pub outbox: Arc<Outbox>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.outbox.close();
        let mut connections = self.shared.connections();
        let is_ours = |connection: &Connection| Arc::ptr_eq(&connection.outbox, &self.outbox);
        if connections.get(&self.peer).is_some_and(is_ours) {
            connections.remove(&self.peer);
            self.shared.publish(&connections);
        }
    }
}
