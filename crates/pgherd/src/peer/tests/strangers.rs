//! Who is no peer gets nothing and costs little.

use super::*;

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
