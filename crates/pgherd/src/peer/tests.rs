//! The link between real sockets on loopback: what peers get, and what strangers do not.

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
async fn strangers_by_certificate_get_nothing() {
    let (authority, node, address) = lone_node().await;
    // Another authority, with the very name of a peer: our side refuses theirs, and theirs ours.
    let other = Authority::new();
    assert!(dial(&other.identity("n1"), address).await.is_err());
    gets_nothing(dial_trusting_anyone(Some(&other.identity("n1")), address).await).await;
    gets_nothing(dial_trusting_anyone(None, address).await).await;
    // Our authority, but a name that is no peer, this node's own name, or a peer that does not dial n2.
    for name in ["n9", "n2", "n3", "a1"] {
        gets_nothing(dial_as(&authority.identity(name), address, &hello(name)).await).await;
    }
    // A peer's certificate under another peer's name, another cluster, another version.
    let n1 = authority.identity("n1");
    gets_nothing(dial_as(&authority.identity("n0"), address, &hello("n1")).await).await;
    gets_nothing(dial_as(&n1, address, &Hello { cluster: "other".into(), ..hello("n1") }).await).await;
    gets_nothing(dial_as(&n1, address, &Hello { version: VERSION + 1, ..hello("n1") }).await).await;
    assert!(node.link.connected().is_empty());
    // The same way in, with everything right.
    let mut stream = dial_as(&n1, address, &hello("n1")).await;
    let (kind, payload) = soon("hello", frame::read(&mut stream, 1000)).await.unwrap();
    assert_eq!(Hello::decode(kind, &payload).unwrap(), hello("n2"));
    node.connected_to(&["n1"]).await;
}

#[tokio::test]
async fn nonsense_gets_nothing() {
    let (authority, node, address) = lone_node().await;
    let n1 = authority.identity("n1");
    for bytes in [&b"GET / HTTP/1.1\r\nHost: n2\r\n\r\n"[..], &[0; 4096], b"\x16\x03\x01\xff\xff"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        // TLS may answer nonsense with an alert (record type 21), never with more.
        let mut answer = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty() || (answer[0] == 21 && answer.len() == 7), "{answer:?}");
    }
    // Authenticated, but no hello: a frame, or one that is too long to be one.
    for bytes in [&b"\0\0\0\x02\x01x"[..], b"\0\x40\0\0\0"] {
        let mut stream = dial(&n1, address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        gets_nothing(stream).await;
    }
    // A peer that speaks nonsense loses its connection, not more.
    for bytes in [&b"\xff\xff\xff\xff\x01"[..], b"\0\0\0\0", b"\0\0\0\x02\x09x"] {
        let mut stream = dial_as(&n1, address, &hello("n1")).await;
        soon("hello", frame::read(&mut stream, 1000)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        gets_nothing(stream).await;
        node.connected_to(&[]).await;
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_ended() {
    let (authority, node, address) = lone_node().await;
    let begun = Instant::now();
    let silent = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    // The beginning of a TLS record that never comes whole.
    half.write_all(b"\x16\x03\x01\x02\x00\x01\x00").await.unwrap();
    let no_hello = dial(&authority.identity("n1"), address).await.unwrap();
    tokio::join!(gets_nothing(silent), gets_nothing(half), gets_nothing(no_hello));
    assert!(begun.elapsed() >= HANDSHAKE_DEADLINE / 2, "ended for another reason than the deadline");
    assert!(node.link.connected().is_empty());
}

#[tokio::test]
async fn a_thousand_silent_connections_do_not_keep_a_peer_out() {
    let (authority, node, address) = lone_node().await;
    let flood = async |count| {
        let mut silent = Vec::new();
        for _ in 0..count {
            silent.push(soon("connect", TcpStream::connect(address)).await.unwrap());
        }
        silent
    };
    let mut silent = flood(1000).await;
    // Strangers before it and strangers after it, none of which may cost the peer its place.
    let peer = TcpStream::connect(address).await.unwrap();
    silent.extend(flood(HANDSHAKES_MAX / 2).await);
    let mut peer = secure(&authority.identity("n1"), peer).await.unwrap();
    peer.write_all(&hello("n1").encode()).await.unwrap();
    soon("hello among strangers", frame::read(&mut peer, 1000)).await.unwrap();
    node.connected_to(&["n1"]).await;
    for stream in silent {
        gets_nothing(stream).await;
    }
    node.connected_to(&["n1"]).await;
}

#[tokio::test]
async fn the_dialler_refuses_a_peer_that_is_not_the_one_it_dialled() {
    let (_authority, nodes, peers) = cluster(&["n1", "n2", "n3"]).await;
    let n1 = &nodes[0].link.shared;
    // n3 where n2 should be: the certificate is the cluster's, the name is not.
    let error = dial::establish(n1, "n2", &peers["n3"]).await.err().unwrap();
    assert!(format!("{error:#}").contains("not valid for name \"n2\""), "{error:#}");
    assert!(dial::establish(n1, "n2", &peers["n2"]).await.is_ok());
}

#[tokio::test]
async fn older_tls_is_refused() {
    let (authority, _node, address) = lone_node().await;
    let identity = authority.identity("n1");
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(identity.roots().unwrap())
            .with_client_auth_cert(identity.chain(), identity.key())
            .unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    assert!(connector.connect(ServerName::try_from("n2").unwrap(), stream).await.is_err());
}

#[tokio::test]
async fn a_certificate_of_another_node_does_not_start() {
    let authority = Authority::new();
    let config = PeerConfig {
        cluster: "demo".into(),
        name: "n1".into(),
        listen: "127.0.0.1:0".into(),
        peers: BTreeMap::new(),
        identity: authority.identity("n2"),
    };
    let error = Link::start(config.clone(), mpsc::channel(1).0).await.err().unwrap();
    assert!(
        error.to_string().starts_with("the certificate of this node names \"n2\", but the node is \"n1\"")
    );
    let config = PeerConfig { identity: authority.identity("n1"), ..config };
    let link = Link::start(config.clone(), mpsc::channel(1).0).await.unwrap();
    let config = PeerConfig { listen: link.local_address().to_string(), ..config };
    let error = Link::start(config, mpsc::channel(1).0).await.err().unwrap();
    assert!(format!("{error:#}").contains("listen for peers on 127.0.0.1:"), "{error:#}");
    assert!(format!("{error:#}").contains("in use"), "{error:#}");
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

/// A client that does not look at the server's certificate, as a stranger would not.
async fn dial_trusting_anyone(identity: Option<&Identity>, address: SocketAddr) -> TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone(provider)));
    let config = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream =
        soon("TLS", connector.connect(ServerName::try_from("n2").unwrap(), stream)).await.unwrap();
    let _ = stream.write_all(&hello("n1").encode()).await;
    stream
}

#[derive(Debug)]
struct TrustAnyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
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
