//! Clients that do what no client should, and those that do it slowly.

use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wire::startup::CancelKey;

use super::super::fake::{BIG, Client, Manner, Server};
use super::*;

async fn stand(mode: ClientTlsMode) -> (Authority, Server, Stand) {
    let authority = Authority::new();
    let server = Server::new(Manner::Trusting).await;
    let config =
        ProxyConfig { tls: authority.front(mode), login_timeout: Duration::from_secs(5), ..config() };
    let stand = Stand::new(config, topology(1, Some(&server.address), &[])).await;
    (authority, server, stand)
}

/// The end of a connection, whatever was said before.
async fn ends(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut said = Vec::new();
    let _ = soon(stream.read_to_end(&mut said)).await;
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_resumption_and_a_second_request() {
    let (authority, server, stand) = stand(ClientTlsMode::Allow).await;
    let builder = |versions| {
        let builder =
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        builder.with_root_certificates(authority.roots()).with_no_client_auth()
    };
    for config in [builder(&[&TLS12]), builder(&[&TLS13])] {
        for kind in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
            let mut stream = encrypted(stand.read_write(), config.clone()).await.unwrap();
            log_in(&mut stream).await;
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
            stream.write_all(&query("SELECT 1")).await.unwrap();
            assert!(rows(&mut stream).await.is_empty());
            stream.write_all(b"X\0\0\0\x04").await.unwrap();
            ends(stream).await;
        }
    }
    assert_eq!(server.logins(), 4);
    // Whoever is encrypted cannot be once more.
    let mut stream = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
    stream.write_all(&ssl_request()).await.unwrap();
    let (tag, _) = soon(read_frame(&mut stream)).await.unwrap();
    assert_eq!(tag, b'E');
    // Plain clients are served as ever.
    Client::login(stand.read_write()).await.query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_request_the_protocol_must_be_named() {
    let (authority, _server, stand) = stand(ClientTlsMode::Require).await;
    let direct = async |config| {
        let stream = TcpStream::connect(stand.read_write()).await.unwrap();
        handshake(stream, config).await
    };
    let naming = |protocol: &[u8]| {
        let mut config = authority.trusting();
        config.alpn_protocols = vec![protocol.to_vec()];
        config
    };
    let mut stream = direct(naming(b"postgresql")).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"postgresql"[..]));
    log_in(&mut stream).await;
    stream.write_all(&query("SELECT 1")).await.unwrap();
    rows(&mut stream).await;
    assert!(direct(naming(b"http/1.1")).await.is_err(), "no protocol in common");
    // TLS 1.3 lets the client believe that it is in before the server has looked.
    if let Ok(stream) = direct(authority.trusting()).await {
        assert_eq!(ends(stream).await, b"");
    }
    let mut stream = encrypted(stand.read_write(), naming(b"postgresql")).await.unwrap();
    log_in(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_encrypt_is_refused_where_that_is_required() {
    let (authority, server, stand) = stand(ClientTlsMode::Require).await;
    let told = Client::knock(stand.read_write()).await.last_words().await;
    assert_eq!(told.sqlstate, "28000");
    let entry = "no pg_hba.conf entry for host \"127.0.0.1\", user \"ann\", database \"ann\", no encryption";
    assert!(told.text.starts_with(entry) && told.text.contains("sslmode=require"), "{}", told.text);
    assert_eq!(server.logins(), 0);
    // libpq 15 cancels in clear, later ones encrypted.
    let mut stream = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
    let key = log_in(&mut stream).await;
    let packet = CancelKey::parse(&key).unwrap().request();
    let mut plain = TcpStream::connect(stand.read_write()).await.unwrap();
    plain.write_all(&packet).await.unwrap();
    ends(plain).await;
    let mut other = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
    other.write_all(&packet).await.unwrap();
    ends(other).await;
    server.until(|seen| seen.cancels.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_in_clear_before_the_handshake_is_refused() {
    let (authority, server, stand) = stand(ClientTlsMode::Allow).await;
    // Together, so that both are there when the request is read (CVE-2021-23214).
    let stuffed = [&ssl_request()[..], &startup_packet(0, &[("user", "mallory")])].concat();
    let mut stream = TcpStream::connect(stand.read_write()).await.unwrap();
    stream.write_all(&stuffed).await.unwrap();
    let said = ends(stream).await;
    let text = String::from_utf8_lossy(&said);
    assert!(text.contains("08P01") && text.contains("received unencrypted data after SSL request"), "{text}");
    // After the answer: that is no TLS.
    for garbage in
        [startup_packet(0, &[("user", "mallory")]), vec![0x16, 3, 1, 0xff, 0xff, 9], vec![0; 100_000]]
    {
        let mut stream = TcpStream::connect(stand.read_write()).await.unwrap();
        stream.write_all(&ssl_request()).await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), b'S');
        let _ = stream.write_all(&garbage).await;
        let _ = stream.shutdown().await;
        let said = ends(stream).await;
        assert!(said.is_empty() || said[0] == 0x15, "an alert or nothing: {said:?}");
    }
    assert_eq!(server.logins(), 0);
    // Once in, what is no record ends the session, and nobody else's.
    let mut good = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
    log_in(&mut good).await;
    let mut bad = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
    log_in(&mut bad).await;
    let (socket, _) = bad.get_mut();
    socket.write_all(&[0x17, 3, 3, 0, 40]).await.unwrap();
    socket.write_all(&[7; 40]).await.unwrap();
    ends(bad).await;
    good.write_all(&query("SELECT 1")).await.unwrap();
    rows(&mut good).await;
    stand.until(|counts| counts.sessions == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_does_not_end_is_ended() {
    let authority = Authority::new();
    let server = Server::new(Manner::Trusting).await;
    let login_timeout = Duration::from_millis(300);
    let config = ProxyConfig { tls: authority.front(ClientTlsMode::Allow), login_timeout, ..config() };
    let stand = Stand::new(config, topology(1, Some(&server.address), &[])).await;
    let mut hung = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(stand.read_write()).await.unwrap();
        stream.write_all(&ssl_request()).await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), b'S');
        stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        hung.push(stream);
    }
    // They hold no permit meanwhile.
    let mut stream = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
    log_in(&mut stream).await;
    for stream in hung {
        ends(stream).await;
    }
    stand.until(|counts| counts.sessions == 1).await;
}

/// Passes one byte at a time.
struct Drip(TcpStream);

impl AsyncRead for Drip {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Drip {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(1)])
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_may_come_byte_by_byte() {
    let (authority, server, stand) = stand(ClientTlsMode::Allow).await;
    let mut socket = TcpStream::connect(stand.read_write()).await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket.write_all(&ssl_request()).await.unwrap();
    socket.read_u8().await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(authority.trusting()));
    let mut stream = soon(connector.connect(name, Drip(socket))).await.unwrap();
    stream.write_all(&startup_packet(0, &[("user", "ann")])).await.unwrap();
    stream.flush().await.unwrap();
    while soon(read_frame(&mut stream)).await.unwrap().0 != b'Z' {}
    for round in 0..20 {
        // Pipelined, and more in one record than one answer.
        let queries = [query(&format!("SELECT {round}")), query("SELECT big"), query("SELECT 3")].concat();
        stream.write_all(&queries).await.unwrap();
        stream.flush().await.unwrap();
        let (mut ready, mut data) = (0, 0);
        while ready < 3 {
            let (tag, body) = soon(read_frame(&mut stream)).await.unwrap();
            ready += u32::from(tag == b'Z');
            data += if tag == b'D' { body.len() } else { 0 };
        }
        assert_eq!(data, BIG);
    }
    assert_eq!(server.logins(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_ahead_is_kept_and_keys_may_change() {
    let (authority, server, stand) = stand(ClientTlsMode::Require).await;
    for _ in 0..20 {
        let mut stream = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
        // In one record: the log-in, and what is to be asked after it, of which no event will tell.
        let start = startup_packet(0, &[("user", "ann")]);
        let ahead = [start, query("SELECT 1"), query("SELECT big"), query("SELECT 3")].concat();
        stream.write_all(&ahead).await.unwrap();
        let mut ready = 0;
        while ready < 4 {
            ready += u32::from(soon(read_frame(&mut stream)).await.unwrap().0 == b'Z');
        }
        for round in 0..10 {
            if round % 2 == 0 {
                // Asks the proxy for new keys of its own, too (RFC 8446, 4.6.3).
                stream.get_mut().1.refresh_traffic_keys().unwrap();
            }
            stream.write_all(&query("SELECT big")).await.unwrap();
            assert_eq!(rows(&mut stream).await.len(), 1);
        }
    }
    assert_eq!(server.logins(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_shows_whom_it_is_or_not() {
    let authority = Authority::new();
    let server = Server::new(Manner::Trusting).await;
    let other = Authority::new();
    for (mode, without) in [(ClientTlsMode::Allow, true), (ClientTlsMode::VerifyCa, false)] {
        let mut tls = authority.front(mode);
        if let Some(client) = &mut tls.client {
            client.client_ca = Some(authority.ca());
        }
        let stand =
            Stand::new(ProxyConfig { tls, ..config() }, topology(1, Some(&server.address), &[])).await;
        let comes_in = async |config| {
            let Ok(mut stream) = encrypted(stand.read_write(), config).await else { return false };
            let _ = stream.write_all(&startup_packet(0, &[("user", "ann")])).await;
            matches!(soon(read_frame(&mut stream)).await, Ok((b'R', _)))
        };
        assert!(comes_in(authority.showing(authority.issue("ann", &["ann"]))).await);
        assert_eq!(comes_in(authority.trusting()).await, without);
        let mut stranger = other.issue("ann", &["ann"]);
        stranger.0 = other.file("ann.crt");
        assert!(!comes_in(authority.showing(stranger)).await, "of another authority");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_while_data_is_under_way_is_an_end() {
    let (authority, _server, stand) = stand(ClientTlsMode::Allow).await;
    for abrupt in [false, true] {
        let mut stream = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
        log_in(&mut stream).await;
        for _ in 0..200 {
            stream.write_all(&query("SELECT big")).await.unwrap();
        }
        if abrupt {
            stream.get_ref().0.set_zero_linger().unwrap();
        } else {
            stream.shutdown().await.unwrap();
        }
        drop(stream);
    }
    stand.until(|counts| counts.sessions == 0).await;
    // What the proxy has to say at its end arrives, and then the end of TLS itself.
    let mut stream = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
    log_in(&mut stream).await;
    let ending = tokio::spawn(stand.proxy.shutdown(Duration::from_secs(1)));
    let mut said = Vec::new();
    soon(stream.read_to_end(&mut said)).await.expect("a close_notify before the end");
    assert!(String::from_utf8_lossy(&said).contains("57P01"));
    drop(stream);
    soon(ending).await.unwrap();
}
