//! The link between real sockets on loopback: what peers get, and what strangers do not.

mod strangers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::accept::HANDSHAKES_MAX;
use super::certificates::{create_authority, issue};
use super::connection::{HANDSHAKE_DEADLINE, PEER_SILENT_MAX, configure};
use super::frame::{self, Hello, VERSION};
use super::{Channel, Identity, Incoming, Link, PAYLOAD_BYTES_MAX, PeerAddress, PeerConfig, dial, tls};

/// Generous: the machine may be running everything else at once.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// A certificate authority and the identities it has issued.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Authority {
        let dir = tempfile::tempdir().unwrap();
        create_authority(dir.path(), "demo").unwrap();
        Authority(dir)
    }

    fn identity(&self, name: &str) -> Identity {
        let dir: PathBuf = self.0.path().join(name);
        if !dir.exists() {
            issue(self.0.path(), name, &dir).unwrap();
        }
        Identity::load(&dir.join("ca.crt"), &dir.join("node.crt"), &dir.join("node.key")).unwrap()
    }
}

struct Node {
    link: Arc<Link>,
    incoming: mpsc::Receiver<Incoming>,
}

impl Node {
    async fn connected_to(&self, names: &[&str]) {
        let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut connected = self.link.watch_connected();
        soon("connections", connected.wait_for(|connected| *connected == names)).await.unwrap();
    }

    async fn next(&mut self) -> (String, Channel, Bytes) {
        let message = soon("a message", self.incoming.recv()).await.unwrap();
        (message.from, message.channel, message.payload)
    }
}

fn start(authority: &Authority, name: &str, listener: TcpListener, peers: &BTreeMap<String, String>) -> Node {
    let config = PeerConfig {
        cluster: "demo".into(),
        name: name.into(),
        listen: String::new(),
        peers: peer_addresses(peers),
        identity: authority.identity(name),
    };
    let (sender, incoming) = mpsc::channel(64);
    Node { link: Link::start_on(listener, config, sender).unwrap(), incoming }
}

fn peer_addresses(peers: &BTreeMap<String, String>) -> BTreeMap<String, PeerAddress> {
    peers.iter().map(|(name, address)| (name.clone(), PeerAddress::of(address))).collect()
}

async fn cluster(names: &[&str]) -> (Authority, Vec<Node>, BTreeMap<String, String>) {
    let authority = Authority::new();
    let (mut listeners, mut peers) = (Vec::new(), BTreeMap::new());
    for name in names {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        peers.insert((*name).to_owned(), listener.local_addr().unwrap().to_string());
        listeners.push((name, listener));
    }
    let nodes =
        listeners.into_iter().map(|(name, listener)| start(&authority, name, listener, &peers)).collect();
    (authority, nodes, peers)
}

/// Node n2 with peers n0 and n1 (which dial it) and n3; nothing runs at the others' addresses.
async fn lone_node() -> (Authority, Node, SocketAddr) {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Port 1 refuses at once.
    let peers = ["n0", "n1", "n2", "n3"].map(|name| (name.to_owned(), "127.0.0.1:1".to_owned())).into();
    let node = start(&authority, "n2", listener, &peers);
    (authority, node, address)
}

fn hello(name: &str) -> Hello {
    Hello { version: VERSION, cluster: "demo".into(), name: name.into() }
}

/// TLS to n2 with `identity`. With TLS 1.3 this succeeds before the other side has looked at our certificate.
async fn dial(identity: &Identity, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    secure(identity, TcpStream::connect(address).await.unwrap()).await
}

async fn secure(identity: &Identity, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let connector = tls::connector(identity).unwrap();
    soon("TLS", connector.connect(ServerName::try_from("n2").unwrap(), stream)).await
}

async fn dial_as(identity: &Identity, address: SocketAddr, hello: &Hello) -> TlsStream<TcpStream> {
    let mut stream = dial(identity, address).await.unwrap();
    stream.write_all(&hello.encode()).await.unwrap();
    stream
}

/// The other side ends the connection, and of its own data not a byte has come.
async fn gets_nothing(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut byte = [0];
    match soon("the end of the connection", stream.read(&mut byte)).await {
        Ok(0) | Err(_) => {}
        Ok(_) => panic!("a stranger was answered"),
    }
}

#[tokio::test]
async fn three_nodes_talk_both_ways_on_both_channels() {
    let (_authority, mut nodes, _) = cluster(&["n1", "n2", "n3"]).await;
    nodes[0].connected_to(&["n2", "n3"]).await;
    nodes[1].connected_to(&["n1", "n3"]).await;
    nodes[2].connected_to(&["n1", "n2"]).await;
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        let (sender, receiver) = (format!("n{}", from + 1), format!("n{}", to + 1));
        for channel in [Channel::Agent, Channel::Raft] {
            assert!(nodes[from].link.send(&receiver, channel, "hello".into()));
            assert_eq!(nodes[to].next().await, (sender.clone(), channel, "hello".into()));
        }
    }
    let large = Bytes::from(vec![7; PAYLOAD_BYTES_MAX]);
    assert!(nodes[2].link.send("n1", Channel::Raft, large.clone()));
    assert_eq!(nodes[0].next().await.2, large);
    assert!(!nodes[2].link.send("n1", Channel::Raft, vec![0; PAYLOAD_BYTES_MAX + 1].into()));
    assert!(!nodes[2].link.send("n3", Channel::Agent, "to itself".into()));
    assert!(!nodes[2].link.send("n9", Channel::Agent, "to nobody".into()));
}

#[tokio::test]
async fn raft_messages_keep_their_order() {
    let (_authority, mut nodes, _) = cluster(&["n1", "n2"]).await;
    nodes[1].connected_to(&["n1"]).await;
    for n in 0..500 {
        assert!(nodes[1].link.send("n1", Channel::Raft, n.to_string().into()));
    }
    for n in 0..500 {
        assert_eq!(nodes[0].next().await.2, Bytes::from(n.to_string()));
    }
}

#[tokio::test]
async fn a_restarted_peer_is_connected_again_and_old_messages_are_gone() {
    for (stays, restarts) in [(0, 1), (1, 0)] {
        let (authority, mut nodes, peers) = cluster(&["n1", "n2"]).await;
        let names = ["n1", "n2"];
        nodes[stays].connected_to(&[names[restarts]]).await;
        nodes[restarts].link.shutdown().await;
        nodes[stays].connected_to(&[]).await;
        assert!(!nodes[stays].link.send(names[restarts], Channel::Agent, "old".into()));
        let listener = TcpListener::bind(&peers[names[restarts]]).await.unwrap();
        nodes[restarts] = start(&authority, names[restarts], listener, &peers);
        nodes[stays].connected_to(&[names[restarts]]).await;
        nodes[restarts].connected_to(&[names[stays]]).await;
        assert!(nodes[stays].link.send(names[restarts], Channel::Agent, "new".into()));
        assert_eq!(nodes[restarts].next().await.2, "new");
    }
}

#[tokio::test]
async fn the_last_words_of_a_node_that_stops_are_heard() {
    let (_authority, mut nodes, _) = cluster(&["n1", "n2"]).await;
    nodes[0].connected_to(&["n2"]).await;
    assert!(nodes[0].link.send("n2", Channel::Agent, "I stop".into()));
    nodes[0].link.shutdown().await;
    assert_eq!(nodes[1].next().await.2, "I stop");
    nodes[1].connected_to(&[]).await;
    assert!(nodes[0].link.connected().is_empty());
}

#[tokio::test]
async fn a_second_connection_of_a_peer_replaces_the_first() {
    let (authority, mut node, address) = lone_node().await;
    let n1 = authority.identity("n1");
    let mut first = dial_as(&n1, address, &hello("n1")).await;
    frame::read(&mut first, 1000).await.unwrap();
    let mut second = dial_as(&n1, address, &hello("n1")).await;
    frame::read(&mut second, 1000).await.unwrap();
    gets_nothing(first).await;
    node.connected_to(&["n1"]).await;
    let mut words = bytes::BytesMut::new();
    frame::put(&mut words, Channel::Agent, b"here");
    second.write_all(&words).await.unwrap();
    assert_eq!(node.next().await, ("n1".into(), Channel::Agent, "here".into()));
}

#[tokio::test]
async fn a_receiver_that_reads_nothing_does_not_stop_the_sender() {
    let (_authority, mut nodes, _) = cluster(&["n1", "n2"]).await;
    nodes[0].connected_to(&["n2"]).await;
    // n2 takes nothing: its 64 places, the sockets' buffers, then the outbox of n1 fill up.
    let payload = Bytes::from(vec![1; 1024 * 1024]);
    let full = async {
        while nodes[0].link.send("n2", Channel::Raft, payload.clone()) {
            tokio::task::yield_now().await;
        }
    };
    soon("a full outbox", full).await;
    nodes[1].next().await;
}

#[tokio::test]
async fn sockets_notice_a_peer_that_vanished() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    configure(&stream).unwrap();
    let socket = socket2::SockRef::from(&stream);
    assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(PEER_SILENT_MAX));
}

/// Peers come and go while the link runs: others' connections do not notice.
#[tokio::test]
async fn peers_are_added_removed_and_moved() {
    let (authority, nodes, mut addresses) = cluster(&["n1", "n2"]).await;
    for (node, other) in [(&nodes[0], "n2"), (&nodes[1], "n1")] {
        node.connected_to(&[other]).await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    addresses.insert("n0".to_owned(), "127.0.0.1:1".to_owned());
    addresses.insert("n3".to_owned(), listener.local_addr().unwrap().to_string());
    let n3 = start(&authority, "n3", listener, &addresses);
    for node in &nodes {
        node.link.set_peers(peer_addresses(&addresses)).await;
    }
    n3.connected_to(&["n1", "n2"]).await;
    nodes[0].connected_to(&["n2", "n3"]).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    addresses.insert("n3".to_owned(), listener.local_addr().unwrap().to_string());
    n3.link.shutdown().await;
    let moved = start(&authority, "n3", listener, &addresses);
    for node in &nodes {
        node.link.set_peers(peer_addresses(&addresses)).await;
    }
    moved.connected_to(&["n1", "n2"]).await;

    addresses.remove("n3");
    for node in &nodes {
        node.link.set_peers(peer_addresses(&addresses)).await;
    }
    moved.connected_to(&[]).await;
    nodes[1].connected_to(&["n1"]).await;
    let refused = dial::establish(&moved.link.shared, "n1", &addresses["n1"]).await;
    assert!(refused.is_err(), "it is no peer any more");
}
