//! Tests with real servers. `PGHERD_TEST_BIN` names the bin directory to test; default is PostgreSQL 15, else the newest.
//!
//! As root the servers run as `postgres`; as a normal user they run as that user. A [`Node`] ends its server when dropped.

mod lifecycle;
mod lowered;
mod replication;
mod slots;
mod takeover;
mod waits;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_postgres::NoTls;
use wire::{Lsn, Timeline};

use super::*;

/// Ten times what the slowest step takes alone on this size of machine.
const DEADLINE: Duration = Duration::from_secs(60);

struct Node {
    server: Server,
    _dir: TempDir,
}

impl std::ops::Deref for Node {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}

/// An immediate shutdown gives the children five seconds.
const QUIT_TIMEOUT: Duration = Duration::from_secs(6);

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.server.layout.server_log()).unwrap_or_default();
            eprintln!("--- log of {}\n{log}", self.server.config.node);
        }
        let data = &self.server.layout.data;
        let gone = |within: Duration| {
            let begun = std::time::Instant::now();
            while !process::all_of(data).is_empty() && begun.elapsed() < within {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        // SIGQUIT first: the postmaster takes its children with it, and its shared memory. Some are stopped.
        if let Ok(Some(postmaster)) = process::find(data) {
            process::signal(data, postmaster.pid, rustix::process::Signal::QUIT);
            for pid in process::all_of(data) {
                process::signal(data, pid, rustix::process::Signal::CONT);
            }
            gone(QUIT_TIMEOUT);
        }
        for pid in process::all_of(data) {
            process::signal(data, pid, rustix::process::Signal::KILL);
        }
        gone(DEADLINE);
    }
}

async fn installation() -> Installation {
    let explicit = std::env::var_os("PGHERD_TEST_BIN").map(PathBuf::from);
    let all = binaries::discover(explicit.as_deref()).await.unwrap();
    all.iter().find(|installation| installation.major == 15).unwrap_or(&all[0]).clone()
}

/// A port that stays ours while this process lives, although its server stops and starts: a name of the kernel's, which
/// ends with its holder, keeps other test processes away. The range lies below the ephemeral ports and below those of
/// the tests of whole clusters.
pub(crate) fn free_port() -> u16 {
    static CLAIMS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let mut claims = CLAIMS.lock().unwrap();
    let start = std::process::id() as u16;
    for step in 0..6000 {
        let port = 10_000 + start.wrapping_mul(37).wrapping_add(step) % 6000;
        let name = SocketAddr::from_abstract_name(format!("pgherd-test-port-{port}")).unwrap();
        let Ok(claim) = UnixListener::bind_addr(&name) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            claims.push(claim);
            return port;
        }
    }
    panic!("no port from 10000 to 15999 is free");
}

fn config_in(dir: &TempDir, node: &str) -> ServerConfig {
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    ServerConfig {
        node: node.to_owned(),
        dir: dir.path().join(node),
        os_user: None,
        listen: "127.0.0.1".into(),
        port: free_port(),
        tunable: Tunable {
            parameters: BTreeMap::from([
                ("shared_buffers".into(), "16MB".into()),
                ("max_standby_streaming_delay".into(), "-1".into()),
            ]),
            hba: vec!["host all all 127.0.0.1/32 trust".into()],
            slots: SlotSettings::default(),
        },
        reserve_bytes: 0,
    }
}

async fn node(name: &str) -> Node {
    node_with(name, []).await
}

async fn node_with<const N: usize>(name: &str, parameters: [(&str, &str); N]) -> Node {
    let dir = tempfile::Builder::new().prefix("pgherd-").tempdir_in("/tmp").unwrap();
    let mut config = config_in(&dir, name);
    config.tunable.parameters.extend(parameters.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let server = Server::new(config, installation().await).await.unwrap();
    Node { server, _dir: dir }
}

fn passwords() -> Passwords {
    Passwords { replication: "re:pl\\ication".into(), rewind: "rewi'nd".into() }
}

/// A primary on timeline 2, open, with roles; synchronous replication off.
async fn primary(name: &str) -> Node {
    let node = node(name).await;
    open_primary(&node).await;
    node
}

async fn open_primary(node: &Node) {
    node.initdb().await.unwrap();
    node.start_detached(DEADLINE).await.unwrap();
    await_complete(node).await;
    let promoted = node.promote(Timeline(2), "", &[], DEADLINE).await.unwrap();
    assert_eq!(promoted.timeline, Timeline(2));
    node.ensure_roles(&passwords()).await.unwrap();
    node.admit().await.unwrap();
}

/// For those who do not look at it.
fn progress() -> tokio::sync::watch::Sender<Progress> {
    tokio::sync::watch::channel(Progress::default()).0
}

/// A standby cloned from `from`, following it.
async fn standby(name: &str, from: &Node) -> Node {
    let node = node(name).await;
    follow_as_clone(&node, from).await;
    node
}

async fn follow_as_clone(node: &Node, from: &Node) {
    let (progress, seen) = tokio::sync::watch::channel(Progress::default());
    node.basebackup(&replication_source(from), None, &progress, DEADLINE).await.unwrap();
    assert!(seen.borrow().total_bytes > 0, "progress was reported");
    node.start_detached(DEADLINE).await.unwrap();
    node.follow(&upstream(from, &node.config.node)).await.unwrap();
    await_streaming(node).await;
}

fn replication_source(from: &Node) -> Source {
    Source { host: "127.0.0.1".into(), port: from.config.port, password: passwords().replication }
}

fn rewind_source(from: &Node) -> Source {
    Source { password: passwords().rewind, ..replication_source(from) }
}

fn upstream(from: &Node, application_name: &str) -> Upstream {
    Upstream {
        host: "127.0.0.1".into(),
        port: from.config.port,
        password: passwords().replication,
        application_name: application_name.into(),
        slot_name: None,
        others: Vec::new(),
        primary: true,
    }
}

async fn see_standby(node: &Server) -> Option<Standby> {
    match node.observe().await.unwrap() {
        Observation::Standby(standby) => Some(*standby),
        _ => None,
    }
}

async fn see_primary(node: &Server) -> Option<Primary> {
    match node.observe().await.unwrap() {
        Observation::Primary(primary) => Some(*primary),
        _ => None,
    }
}

async fn await_complete(node: &Server) -> Standby {
    eventually("all of pg_wal has been read", async || see_standby(node).await.filter(|seen| seen.complete))
        .await
}

async fn await_streaming(node: &Server) -> Standby {
    eventually("it streams", async || see_standby(node).await.filter(|seen| seen.streaming.is_some())).await
}

/// Waits until the standby's WAL reaches `lsn`.
async fn await_position(node: &Server, lsn: Lsn) -> Position {
    let reached = async || see_standby(node).await?.position.filter(|position| position.lsn >= lsn);
    eventually("the WAL has arrived", reached).await
}

async fn await_walsender(node: &Server, name: &str, lsn: Lsn) -> Walsender {
    let flushed = async || {
        let walsenders = see_primary(node).await?.walsenders;
        walsenders.into_iter().find(|w| w.application_name == name && w.flush_lsn >= Some(lsn))
    };
    eventually("the standby has flushed it", flushed).await
}

async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A client by TCP; the connection ends with the returned guard.
struct Client(tokio_postgres::Client, tokio::task::JoinHandle<()>);

impl Drop for Client {
    fn drop(&mut self) {
        self.1.abort();
    }
}

async fn client(node: &Server) -> Result<Client, tokio_postgres::Error> {
    let port = node.config.port;
    let address = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres connect_timeout=10");
    let (client, connection) = tokio_postgres::connect(&address, NoTls).await?;
    Ok(Client(client, tokio::spawn(async move { drop(connection.await) })))
}

/// Where the primary inserts WAL now; some of what is before it may be in memory only.
async fn insert_lsn(node: &Node) -> String {
    let client = client(node).await.unwrap();
    let row = client.0.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
    row.get(0)
}

/// Runs statements as a client; returns the primary's flush LSN afterwards.
async fn write(node: &Node, sql: &str) -> Lsn {
    client(node).await.unwrap().0.batch_execute(sql).await.unwrap();
    see_primary(node).await.unwrap().flush_lsn
}
