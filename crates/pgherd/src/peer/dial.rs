//! The dialling side: keeps a connection to one peer for as long as the link lives.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::connection::{self, Complaints, Established, HANDSHAKE_DEADLINE};
use super::frame::{self, HELLO_BYTES_MAX, Hello};
use super::link::Shared;
use super::{PeerAddress, tls};

/// Name resolution and TCP. A peer that answers at all does so within milliseconds.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Failover waits for these connections after a restart or a cut: attempts are cheap (one packet to a closed port)
/// and at most four peers are dialled, so twenty attempts a second each at first, then two.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A node that was removed hears of it within moments of its return; until then it costs a packet.
const REMOVED_BACKOFF: Duration = Duration::from_secs(5);
/// A connection that stood this long ended for a new reason; one that did not is retried ever more slowly.
const STABLE: Duration = Duration::from_secs(2);

pub(super) async fn run(shared: Arc<Shared>, peer: String, at: PeerAddress) {
    let PeerAddress { address, removed } = at;
    let mut backoff = BACKOFF_MIN;
    let mut complaints = Complaints::new();
    loop {
        let Some(attempt) = shared.unless_stopping(establish(&shared, &peer, &address)).await else { return };
        let reason = match attempt {
            Ok(established) => {
                info!(peer, address, "connected to a peer");
                let since = Instant::now();
                let ended = connection::run(&shared, established).await;
                if since.elapsed() >= STABLE {
                    backoff = BACKOFF_MIN;
                    complaints = Complaints::new();
                }
                ended.context("the connection ended")
            }
            Err(error) => error,
        };
        let reason = format!("{reason:#}");
        if let Some(suppressed) = complaints.note(&reason)
            && !removed
        {
            warn!(peer, address, suppressed, "no connection to a peer: {reason}");
        }
        // Half to whole, so that nodes that start together do not stay in step.
        let pause = backoff.mul_f64(rand::random_range(0.5..=1.0));
        if shared.unless_stopping(sleep(pause)).await.is_none() {
            return;
        }
        backoff = if removed { REMOVED_BACKOFF } else { (backoff * 2).min(BACKOFF_MAX) };
    }
}

pub(super) async fn establish(shared: &Shared, peer: &str, address: &str) -> anyhow::Result<Established> {
    let stream = timeout(CONNECT_DEADLINE, TcpStream::connect(address))
        .await
        .with_context(|| format!("no answer within {CONNECT_DEADLINE:?}"))?
        .context("connect")?;
    connection::configure(&stream).context("set socket options")?;
    timeout(HANDSHAKE_DEADLINE, handshake(shared, peer, stream))
        .await
        .with_context(|| format!("the handshake did not end within {HANDSHAKE_DEADLINE:?}"))?
}

async fn handshake(shared: &Shared, peer: &str, stream: TcpStream) -> anyhow::Result<Established> {
    let address = stream.peer_addr().context("read the peer's address")?;
    let name = ServerName::try_from(peer.to_owned()).context("use the peer's name in TLS")?;
    let mut stream = shared.connector.connect(name, stream).await.context("TLS handshake")?;
    // TLS accepts a certificate with several names or a wildcard; this link does not.
    let certified = tls::peer_name(stream.get_ref().1.peer_certificates())?;
    ensure!(certified == peer, "its certificate names {certified:?}");
    stream.write_all(&shared.hello().encode()).await.context("send hello")?;
    stream.flush().await.context("send hello")?;
    let (kind, payload) = frame::read(&mut stream, HELLO_BYTES_MAX)
        .await
        .context("it closed the connection without a hello (its log says why)")?;
    shared.check_hello(&Hello::decode(kind, &payload)?, &certified)?;
    Ok(Established { peer: certified, address, stream: stream.into() })
}
