//! One established connection: reads frames into the node, writes the outbox, until either ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::link::{Registration, Shared};
use super::outbox::Outbox;
use super::{Channel, Incoming, frame};

/// For TLS and both hellos. Three round trips and two signatures: tens of milliseconds even across continents; the
/// rest is for a machine that is busy failing over.
pub(super) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(2);
/// Unacknowledged bytes for this long mean that the peer or the network is gone. The default `failure_timeout`:
/// there is no use in holding on to a connection to a node that is already suspect.
pub(super) const PEER_SILENT_MAX: Duration = Duration::from_secs(2);
/// Probes on an idle connection; with `PEER_SILENT_MAX` a dead peer is seen within about three seconds.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// A batch that the peer does not take in this time (256 KiB or one frame): it is frozen, or its node does not
/// read. What it would get later would be old.
const WRITE_DEADLINE: Duration = Duration::from_secs(2);
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// TLS and hellos are done: `peer` is who it says it is.
pub(super) struct Established {
    pub peer: String,
    pub address: SocketAddr,
    pub stream: TlsStream<TcpStream>,
}

/// Small messages leave at once, and a peer that vanished without a word is noticed.
pub(super) fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(2),
    )?;
    socket.set_tcp_user_timeout(Some(PEER_SILENT_MAX))
}

/// Serves a connection until it ends, and says why it did.
pub(super) async fn run(shared: &Arc<Shared>, established: Established) -> anyhow::Error {
    let Established { peer, address, stream } = established;
    let registration = shared.register(&peer, address);
    let (reader, writer) = tokio::io::split(stream);
    let ended = tokio::select! {
        ended = receive(shared, &registration, reader) => ended,
        ended = transmit(&registration.outbox, writer) => ended,
    };
    match ended {
        Ok(()) => anyhow::anyhow!("it was closed by this node"),
        Err(error) => error,
    }
}

async fn receive(
    shared: &Shared,
    registration: &Registration,
    reader: impl AsyncRead + Unpin,
) -> anyhow::Result<()> {
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
    loop {
        let (kind, payload) =
            frame::read(&mut reader, frame::PAYLOAD_BYTES_MAX).await.context("read from it")?;
        let Some(channel) = Channel::of_kind(kind) else {
            bail!("it sent a frame of unknown kind {kind}");
        };
        let message = Incoming { from: registration.peer.clone(), channel, payload };
        shared.incoming.send(message).await.context("this node takes no messages any more")?;
    }
}

async fn transmit(outbox: &Outbox, mut writer: impl AsyncWrite + Unpin) -> anyhow::Result<()> {
    let mut buffer = BytesMut::new();
    while outbox.fill(&mut buffer).await {
        let write = async {
            writer.write_all(&buffer).await?;
            writer.flush().await
        };
        timeout(WRITE_DEADLINE, write)
            .await
            .context("it did not take what was sent to it in time")?
            .context("write to it")?;
        buffer.clear();
    }
    timeout(WRITE_DEADLINE, writer.shutdown())
        .await
        .context("it did not take the end in time")?
        .context("end it")
}

/// Repeats of one complaint, thinned out: at once when it is a new one, then once in a while.
pub(super) struct Complaints {
    last: Option<(String, tokio::time::Instant)>,
    suppressed: u32,
}

impl Complaints {
    const INTERVAL: Duration = Duration::from_secs(30);

    pub fn new() -> Complaints {
        Complaints { last: None, suppressed: 0 }
    }

    /// Whether to log `text` now; if so, how many were passed over since the last time.
    pub fn note(&mut self, text: &str) -> Option<u32> {
        let now = tokio::time::Instant::now();
        if let Some((last, at)) = &self.last
            && last == text
            && now.duration_since(*at) < Complaints::INTERVAL
        {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.last = Some((text.to_owned(), now));
        Some(std::mem::take(&mut self.suppressed))
    }
}
