//! The first packets of a client: what it wants of this port.
//!
//! What it is: the negotiation up to the start-up packet or the cancel request. What it is not: authentication; that
//! passes between client and server. Invariant: at most `STARTUP_BODY_MAX` bytes are held for a client that has not
//! said who it is, and it has `login_timeout` for all of it (the caller's clock).
//!
//! The seam for TLS: `encryption` answers every request with `N` today. A proxy that ends TLS here cannot pass
//! SCRAM-SHA-256-PLUS through, because the client binds to this certificate and the server to its own; it must then
//! take that mechanism out of the server's offer or authenticate by itself (docs/decisions/0005-proxy.md).

use std::io;

use super::policy;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use wire::startup::{CancelKey, Opening, OpeningError, opening_body_length, parse_opening};

/// TLS once and GSSAPI once, as PostgreSQL allows.
const NEGOTIATIONS_MAX: usize = 2;

/// What a client came for.
#[derive(Debug)]
pub enum Hello {
    Cancel { pid: u32, secret: Vec<u8> },
    Session { startup: policy::Opening, replication: bool },
}

#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// Also a port scan or a health check: connected and left.
    #[error("the client left before its start-up packet was whole")]
    Left(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] OpeningError),
    #[error("the client asked for encryption more than {NEGOTIATIONS_MAX} times")]
    Insists,
}

/// Reads up to the packet that says what the client wants.
pub async fn read_hello<C>(client: &mut C) -> Result<Hello, HelloError>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    for _ in 0..=NEGOTIATIONS_MAX {
        let mut packet = vec![0; 4];
        client.read_exact(&mut packet).await?;
        let body = opening_body_length([packet[0], packet[1], packet[2], packet[3]])?;
        packet.resize(4 + body, 0);
        client.read_exact(&mut packet[4..]).await?;
        match parse_opening(&packet[4..])? {
            Opening::SslRequest | Opening::GssEncRequest => encryption(client).await?,
            Opening::Cancel(CancelKey { pid, secret }) => {
                return Ok(Hello::Cancel { pid, secret: secret.to_owned() });
            }
            Opening::Startup(startup) => {
                let replication = startup.get("replication").is_some_and(is_true);
                let startup =
                    policy::opening(&packet, &startup).ok_or(OpeningError::Length(packet.len() as u32))?;
                return Ok(Hello::Session { startup, replication });
            }
        }
    }
    Err(HelloError::Insists)
}

async fn encryption<C: AsyncWrite + Unpin>(client: &mut C) -> io::Result<()> {
    client.write_all(b"N").await
}

/// `database`, or one of PostgreSQL's words for true; what is neither is refused by the server.
fn is_true(value: &[u8]) -> bool {
    !matches!(
        value.to_ascii_lowercase().as_slice(),
        b"" | b"0" | b"f" | b"false" | b"n" | b"no" | b"of" | b"off"
    )
}
