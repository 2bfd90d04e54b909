//! The accepting side, open to whoever reaches the port.
//!
//! A stranger costs at most one of [`HANDSHAKES_MAX`] places, for at most [`HANDSHAKE_DEADLINE`], and the bytes TLS
//! and a hello may buffer (some 64 KiB each). When all places are taken the oldest handshake makes room: a peer's
//! takes milliseconds, a silent stranger's never ends, so a flood of silent connections throws out its own kind. To
//! keep a peer out, 64 strangers must arrive within those milliseconds, again and again; then the peer dials again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::connection::{self, Complaints, Established, HANDSHAKE_DEADLINE};
use super::frame::{self, HELLO_BYTES_MAX, Hello};
use super::link::Shared;
use super::tls;

/// At most four peers dial; 64 at once leave room for all of them among strangers, and bound these to some 4 MiB.
pub(super) const HANDSHAKES_MAX: usize = 64;
/// After a failed accept (no file descriptors left, mostly): trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let mut accepting = Accepting {
        shared: shared.clone(),
        handshakes: JoinSet::new(),
        oldest_first: VecDeque::new(),
        connections: JoinSet::new(),
        complaints: Complaints::new(),
    };
    shared.unless_stopping(accepting.serve(&listener)).await;
    drop(listener);
    accepting.handshakes.abort_all();
    // Each still writes what is queued for its peer; the link's shutdown bounds how long.
    while accepting.connections.join_next().await.is_some() {}
}

struct Accepting {
    shared: Arc<Shared>,
    handshakes: JoinSet<anyhow::Result<Established>>,
    /// Those of `handshakes` that have not ended.
    oldest_first: VecDeque<AbortHandle>,
    connections: JoinSet<()>,
    complaints: Complaints,
}

impl Accepting {
    async fn serve(&mut self, listener: &TcpListener) {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => self.begin(stream, address),
                    Err(error) => {
                        self.complain(&format!("accept: {error}"));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = self.handshakes.join_next() => self.end(ended),
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, address: SocketAddr) {
        self.oldest_first.retain(|handshake| !handshake.is_finished());
        if self.oldest_first.len() == HANDSHAKES_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.abort();
            self.complain("too many handshakes at once; the oldest was thrown out");
        }
        let shared = self.shared.clone();
        let handshake = self.handshakes.spawn(async move {
            timeout(HANDSHAKE_DEADLINE, handshake(&shared, stream, address))
                .await
                .with_context(|| format!("no handshake within {HANDSHAKE_DEADLINE:?}"))
                .flatten()
                .with_context(|| format!("{}", address.ip()))
        });
        self.oldest_first.push_back(handshake);
    }

    fn end(&mut self, ended: Result<anyhow::Result<Established>, JoinError>) {
        match ended {
            Ok(Ok(established)) => {
                let shared = self.shared.clone();
                self.connections.spawn(async move {
                    let (peer, address) = (established.peer.clone(), established.address);
                    info!(peer, %address, "a peer connected");
                    let reason = connection::run(&shared, established).await;
                    info!(peer, %address, "the connection from a peer ended: {reason:#}");
                });
            }
            Ok(Err(refused)) if refused.root_cause().is::<Knock>() => debug!("{refused:#}"),
            Ok(Err(refused)) => self.complain(&format!("{refused:#}")),
            // Thrown out to make room; a panic has been reported by the runtime.
            Err(_) => {}
        }
    }

    fn complain(&mut self, text: &str) {
        if let Some(suppressed) = self.complaints.note(text) {
            warn!(suppressed, "a connection to the peer port was refused: {text}");
        }
    }
}

/// Somebody looks whether this port can be reached, as the doctor of another node and load balancers do.
#[derive(Debug, thiserror::Error)]
#[error("it was closed without a byte")]
struct Knock;

/// Says hello only after the other side has proven who it is and said its own.
async fn handshake(shared: &Shared, stream: TcpStream, address: SocketAddr) -> anyhow::Result<Established> {
    connection::configure(&stream).context("set socket options")?;
    if stream.peek(&mut [0]).await.context("wait for its first byte")? == 0 {
        return Err(Knock.into());
    }
    let mut stream = shared.acceptor.accept(stream).await.context("TLS handshake")?;
    let certified = tls::peer_name(stream.get_ref().1.peer_certificates())?;
    let (kind, payload) = frame::read(&mut stream, HELLO_BYTES_MAX).await.context("read its hello")?;
    shared.check_hello(&Hello::decode(kind, &payload)?, &certified)?;
    ensure!(shared.is_peer(&certified), "its certificate names {certified:?}, which is no peer");
    ensure!(certified < shared.name, "{certified:?} does not dial this node, this node dials it");
    stream.write_all(&shared.hello().encode()).await.context("send hello")?;
    stream.flush().await.context("send hello")?;
    Ok(Established { peer: certified, address, stream: stream.into() })
}
