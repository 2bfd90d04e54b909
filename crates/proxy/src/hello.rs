//! The first packets of a client: what it wants of this port.
//!
//! What it is: the negotiation up to the start-up packet or the cancel request. What it is not: authentication; that
//! passes between client and server. Invariant: at most `STARTUP_BODY_MAX` bytes are held for a client that has not
//! said who it is, and it has `login_timeout` for all of it (the caller's clock).
//!
//! TLS begins here, by a request or (PostgreSQL 17) at once. A request is answered before any more is read, so what came in clear
//! behind it can only be the beginning of a handshake, never of a session (CVE-2021-23214); it is refused all the same.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::startup::{CancelKey, Opening, OpeningError, opening_body_length, parse_opening};

use super::auth::denial::Denial;
use super::clients::Comer;
use super::policy;
use super::refusal::Refusal;
use super::tls::{Stream, Tls};

/// TLS once and GSSAPI once, as PostgreSQL allows.
const NEGOTIATIONS_MAX: usize = 2;
/// The first byte of a TLS handshake; that of a start-up packet, of 10,000 bytes at most, is 0.
const TLS_HANDSHAKE: u8 = 0x16;

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
    #[error("could not accept SSL connection: {0}")]
    Tls(#[source] io::Error),
    /// A bug of the client, or somebody in the middle who wants it to be taken for the client's.
    #[error("received unencrypted data after SSL request")]
    Stuffed,
    #[error("the client does not encrypt")]
    Unencrypted(Box<Denial>),
}

impl HelloError {
    /// What the client is told; `None` when there is nobody who would hear it.
    pub fn refusal(self) -> Option<Refusal> {
        match self {
            HelloError::Left(_) | HelloError::Tls(_) => None,
            // A client that speaks something else would not understand, but a person who looks will.
            HelloError::Malformed(_) | HelloError::Insists | HelloError::Stuffed => {
                Some(Refusal::Protocol(self.to_string()))
            }
            HelloError::Unencrypted(denial) => Some(Refusal::Unencrypted(*denial)),
        }
    }
}

/// Reads up to the packet that says what the client wants. From then on the client is encrypted, if it wished so and may.
pub async fn read_hello(client: &mut Stream, tls: &Tls) -> Result<Hello, HelloError> {
    let mut word = [0; 4];
    client.read_exact(&mut word).await?;
    // As with PostgreSQL, there is no TLS at a Unix socket, and none is required there.
    let (is_offered, is_required) =
        (tls.is_offered() && !client.is_nearby(), tls.is_required() && !client.is_nearby());
    if word[0] == TLS_HANDSHAKE && is_offered {
        tls.accept(client, &word, true).await.map_err(HelloError::Tls)?;
        client.read_exact(&mut word).await?;
    }
    for round in 0..=NEGOTIATIONS_MAX {
        if round > 0 {
            client.read_exact(&mut word).await?;
        }
        let mut packet = word.to_vec();
        packet.resize(4 + opening_body_length(word)?, 0);
        client.read_exact(&mut packet[4..]).await?;
        match parse_opening(&packet[4..])? {
            Opening::SslRequest if client.is_encrypted() => return Err(HelloError::Insists),
            Opening::SslRequest if is_offered => encrypt(client, tls).await?,
            Opening::SslRequest | Opening::GssEncRequest => client.write_all(b"N").await?,
            // In clear, too: libpq before 17 cancels so whatever its session does, and the key says enough.
            Opening::Cancel(CancelKey { pid, secret }) => {
                return Ok(Hello::Cancel { pid, secret: secret.to_owned() });
            }
            Opening::Startup(startup) => {
                let replication = startup.get("replication").is_some_and(is_true);
                if is_required && !client.is_encrypted() {
                    // As a server refuses it whose rules are all of the type hostssl.
                    let comer = Comer::of(client, &startup, replication);
                    return Err(HelloError::Unencrypted(Box::new(Denial::no_entry(&comer.request()))));
                }
                let startup =
                    policy::opening(&packet, &startup).ok_or(OpeningError::Length(packet.len() as u32))?;
                return Ok(Hello::Session { startup, replication });
            }
        }
    }
    Err(HelloError::Insists)
}

async fn encrypt(client: &mut Stream, tls: &Tls) -> Result<(), HelloError> {
    let peeked = recv(client.socket(), &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    if matches!(peeked, Ok((1.., _))) {
        return Err(HelloError::Stuffed);
    }
    client.write_all(b"S").await?;
    tls.accept(client, &[], false).await.map_err(HelloError::Tls)
}

/// `database`, or one of PostgreSQL's words for true; what is neither is refused by the server.
fn is_true(value: &[u8]) -> bool {
    !matches!(
        value.to_ascii_lowercase().as_slice(),
        b"" | b"0" | b"f" | b"false" | b"n" | b"no" | b"of" | b"off"
    )
}
