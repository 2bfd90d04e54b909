//! Cancels, limits, ports in use, and clients that are none.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::message::put_frame;
use wire::startup::{CancelKey, gssenc_request, ssl_request, startup_packet};

use super::fake::{BIG, Client, Manner, Server};
use super::*;
use crate::ProxyError;

#[tokio::test]
async fn a_cancel_reaches_the_server_through_any_port() {
    for (manner, length) in [(Manner::Trusting, 32), (Manner::ShortKey, 4)] {
        let server = Server::new(manner).await;
        let stand = Stand::new(config(), topology(1, Some(&server.address), &[])).await;
        let mut client = Client::login(stand.read_write()).await;
        client.send("SELECT hang").await;
        server.until(|seen| seen.queries.len() == 1).await;
        client.cancel(stand.read_only()).await;
        server.until(|seen| matches!(&seen.cancels[..], [(9, secret)] if secret.len() == length)).await;
    }
}

#[tokio::test]
async fn a_cancel_without_a_session_or_during_a_commit_is_dropped() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(config(), topology(1, Some(&server.address), &[])).await;
    let mut stranger = TcpStream::connect(stand.read_write()).await.unwrap();
    stranger.write_all(&CancelKey { pid: 9, secret: &[6; 32] }.request()).await.unwrap();
    assert_eq!(soon(stranger.read(&mut [0])).await.unwrap(), 0);
    let mut client = Client::login(stand.read_write()).await;
    client.query("BEGIN").await.unwrap();
    client.send("COMMIT hang").await;
    server.until(|seen| seen.queries.len() == 2).await;
    client.cancel(stand.read_write()).await;
    assert!(server.seen.borrow().cancels.is_empty());
    assert_eq!(stand.proxy.counts().cancels, 0);
}

#[tokio::test]
async fn encryption_is_declined_and_the_session_goes_on() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(config(), topology(1, Some(&server.address), &[])).await;
    let mut stream = TcpStream::connect(stand.proxy.addresses().auto.unwrap()).await.unwrap();
    for request in [ssl_request(), gssenc_request()] {
        stream.write_all(&request).await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), b'N');
    }
    stream.write_all(&startup_packet(0, &[("user", "ann")])).await.unwrap();
    let mut client = Client { stream, key: Default::default(), notices: Vec::new() };
    client.ready().await.unwrap();
    let mut insists = TcpStream::connect(stand.read_write()).await.unwrap();
    insists.write_all(&[ssl_request(); 3].concat()).await.unwrap();
    let mut answer = Vec::new();
    soon(insists.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(&answer[..4], b"NNNE");
}

#[tokio::test]
async fn garbage_ends_in_an_error_and_holds_nothing() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(config(), topology(1, Some(&server.address), &[])).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0, 0, 0, 9, 0, 3, 0, 0, 1], &[0; 8]] {
        let mut stream = TcpStream::connect(stand.read_write()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty() || answer[0] == b'E', "{answer:?}");
    }
    // A frame of impossible length in a session.
    let mut client = Client::login(stand.read_write()).await;
    client.stream.write_all(&[b'Q', 0, 0, 0, 1]).await.unwrap();
    assert_eq!(client.last_words().await.sqlstate, "08P01");
    server.until(|seen| seen.open == 0).await;
    stand.until(|counts| counts.sessions == 0).await;
}

#[tokio::test]
async fn a_slow_client_is_not_waited_for() {
    let login_timeout = Duration::from_millis(100);
    let stand = Stand::new(ProxyConfig { login_timeout, ..config() }, topology(1, None, &[])).await;
    let mut stream = TcpStream::connect(stand.read_write()).await.unwrap();
    stream.write_all(&[0, 0, 0]).await.unwrap();
    assert_eq!(soon(stream.read(&mut [0])).await.unwrap_or(0), 0);
    stand.until(|counts| counts.sessions == 0).await;
}

#[tokio::test]
async fn the_limit_of_sessions_is_told_and_still_lets_cancels_in() {
    let server = Server::new(Manner::Trusting).await;
    let stand =
        Stand::new(ProxyConfig { sessions_max: 1, ..config() }, topology(1, Some(&server.address), &[]))
            .await;
    let mut client = Client::login(stand.read_write()).await;
    let told = Client::knock(stand.read_only()).await.last_words().await;
    assert_eq!(told.sqlstate, "53300");
    assert!(told.text.contains("sessions_max"), "{told:?}");
    client.send("SELECT hang").await;
    server.until(|seen| seen.queries.len() == 1).await;
    client.cancel(stand.read_write()).await;
    server.until(|seen| seen.cancels.len() == 1).await;
    drop(client);
    stand.until(|counts| counts.sessions == 0).await;
    Client::login(stand.read_write()).await;
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let read_only_port = taken.local_addr().unwrap().port();
    let (_sender, receiver) = watch::channel(topology(1, None, &[]));
    let error = Proxy::start(ProxyConfig { read_only_port, ..config() }, receiver, Questions::default())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ProxyError::PortInUse { setting: "read_only_port", .. }), "{error}");
    assert!(error.to_string().contains(&read_only_port.to_string()), "{error}");
}

#[tokio::test]
async fn much_data_in_both_directions_at_once_does_not_lock_up() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(config(), topology(1, Some(&server.address), &[])).await;
    let Client { stream, .. } = Client::login(stand.read_write()).await;
    let (mut reader, mut writer) = stream.into_split();
    const QUERIES: usize = 2_000;
    let long = format!("SELECT big '{}'\0", "x".repeat(10_000));
    let asks = tokio::spawn(async move {
        for _ in 0..QUERIES {
            let mut out = Vec::new();
            put_frame(&mut out, b'Q', long.as_bytes());
            writer.write_all(&out).await.unwrap();
        }
        writer
    });
    let mut answers = vec![0; QUERIES * (5 + BIG + 8 + 6)];
    soon(reader.read_exact(&mut answers)).await.unwrap();
    let _writer = asks.await.unwrap();
    assert_eq!(server.seen.borrow().queries.len(), QUERIES);
}
