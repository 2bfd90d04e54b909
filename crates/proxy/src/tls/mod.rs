//! TLS in the proxy: with clients, and with servers.
//!
//! ```text
//! hello ──► front (certificate, rules) ─┐                        ┌► worker::socket (a thread's)
//! servers, cancel ──► dial (verifiers) ─┴► stream (tokio's) ─────┤
//!                                              └── channel ──────┘  rustls without sockets and without buffers
//! ```
//!
//! What it is: the configuration of both sides, read from files and read anew when these change; the handshakes; and the
//! `channel`, which goes from a task of tokio to a worker with its session. What it is not: authentication. A client's
//! certificate is verified and its name told, but who may come in by it is for the rules of `auth::hba` to say. Invariants: a
//! byte that came in clear is never taken for one that came encrypted; files that cannot be used leave in force what was; a
//! handshake computes only with a permit, so that a storm of them leaves cores to the sessions that are there.

pub mod certificate;
mod channel;
mod dial;
mod files;
mod front;
pub mod stream;

pub use channel::Channel;
pub use files::{Stamp, TlsError, certificates, with_certificate};
pub use stream::{Parts, Stream};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use tokio::sync::Semaphore;

use dial::Dial;
use front::Front;

/// The protocol's name (`PG_ALPN_PROTOCOL`): who is answered in it has spoken to a PostgreSQL, and to nothing else that has the
/// same certificate.
const ALPN: &[u8] = b"postgresql";
/// How often the files are looked at: certificates live for weeks, and a look is a stat for each.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// TLS as the node's configuration has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsConfig {
    /// `None`: a client that asks for encryption is told that there is none.
    pub client: Option<ClientTls>,
    pub server: ServerTls,
}

/// With clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientTls {
    pub mode: ClientTlsMode,
    /// The certificate and those that lead to its authority, PEM.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Whose certificates of clients are taken; without it none is asked for.
    pub client_ca: Option<PathBuf>,
    pub min_version: TlsVersion,
}

/// What a client must do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientTlsMode {
    /// There is no TLS, whatever else is configured.
    Disable,
    /// As it likes.
    #[default]
    Allow,
    /// Encrypt.
    Require,
    /// Encrypt, and show a certificate of `client_ca`.
    VerifyCa,
}

/// The lowest that is spoken with clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsVersion {
    #[default]
    V12,
    V13,
}

/// With servers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerTls {
    pub mode: ServerTlsMode,
    /// Who has signed the servers' certificates.
    pub ca: Option<PathBuf>,
}

/// What is asked of a server; the words are libpq's `sslmode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServerTlsMode {
    #[default]
    Disable,
    /// Encrypted where the server offers it, and without a look at its certificate.
    Prefer,
    /// Encrypted, and without a look at its certificate.
    Require,
    /// Its certificate is of `ca`.
    VerifyCa,
    /// And names the host that was connected to.
    VerifyFull,
}

impl ClientTlsMode {
    pub fn as_str(self) -> &'static str {
        match self {
            ClientTlsMode::Disable => "disable",
            ClientTlsMode::Allow => "allow",
            ClientTlsMode::Require => "require",
            ClientTlsMode::VerifyCa => "verify-ca",
        }
    }

    /// Of one of the words above, which the table of settings has checked.
    pub fn of(text: &str) -> ClientTlsMode {
        match text {
            "disable" => ClientTlsMode::Disable,
            "require" => ClientTlsMode::Require,
            "verify-ca" => ClientTlsMode::VerifyCa,
            _ => ClientTlsMode::Allow,
        }
    }
}

impl TlsVersion {
    pub fn as_str(self) -> &'static str {
        match self {
            TlsVersion::V12 => "TLSv1.2",
            TlsVersion::V13 => "TLSv1.3",
        }
    }

    /// Of one of the words above, which the table of settings has checked.
    pub fn of(text: &str) -> TlsVersion {
        if text == "TLSv1.3" { TlsVersion::V13 } else { TlsVersion::V12 }
    }
}

impl ServerTlsMode {
    pub fn as_str(self) -> &'static str {
        match self {
            ServerTlsMode::Disable => "disable",
            ServerTlsMode::Prefer => "prefer",
            ServerTlsMode::Require => "require",
            ServerTlsMode::VerifyCa => "verify-ca",
            ServerTlsMode::VerifyFull => "verify-full",
        }
    }

    /// Of one of the words above, which the table of settings has checked.
    pub fn of(text: &str) -> ServerTlsMode {
        match text {
            "prefer" => ServerTlsMode::Prefer,
            "require" => ServerTlsMode::Require,
            "verify-ca" => ServerTlsMode::VerifyCa,
            "verify-full" => ServerTlsMode::VerifyFull,
            _ => ServerTlsMode::Disable,
        }
    }
}

/// The proxy's TLS while it runs.
#[derive(Debug)]
pub struct Tls {
    config: TlsConfig,
    /// `None`: no TLS with clients.
    front: RwLock<Option<Arc<Front>>>,
    /// `None`: no TLS with servers.
    dial: RwLock<Option<Arc<Dial>>>,
    /// For those who compute in a handshake with a client.
    permits: Semaphore,
    /// With a server: a storm of clients must not keep a session from the server that it needs. `servers` bounds how many there are.
    dial_permits: Semaphore,
}

impl Tls {
    /// Reads all files; the error names the one that cannot be used.
    pub fn start(config: &TlsConfig) -> Result<Tls, TlsError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (front, dial) = load(config)?;
        Ok(Tls {
            config: config.clone(),
            front: RwLock::new(front),
            dial: RwLock::new(dial),
            permits: Semaphore::new((cores / 2).max(1)),
            dial_permits: Semaphore::new((cores / 2).max(1)),
        })
    }

    /// True when a client may not go on in clear.
    pub fn is_required(&self) -> bool {
        let mode = self.config.client.as_ref().map(|client| client.mode);
        matches!(mode, Some(ClientTlsMode::Require | ClientTlsMode::VerifyCa))
    }

    /// True when a client that asks for encryption gets it.
    pub fn is_offered(&self) -> bool {
        current(&self.front).is_some()
    }

    /// The handshake with a client that has said `seen` of it. `direct`: without having asked in clear, where the protocol must
    /// be named (PostgreSQL 17).
    pub async fn accept(&self, client: &mut Stream, seen: &[u8], direct: bool) -> io::Result<()> {
        match current(&self.front) {
            Some(front) => front.accept(client, seen, direct, &self.permits).await,
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Asks a server for encryption, as far as it is wanted, and does the handshake. `address` is what was connected to, as
    /// `host:port`.
    pub async fn encrypt(&self, server: &mut Stream, address: &str) -> io::Result<()> {
        match current(&self.dial) {
            Some(dial) => dial.encrypt(server, address, &self.dial_permits).await,
            None => Ok(()),
        }
    }

    /// Looks at the files until the proxy ends, and takes what has changed in force.
    pub async fn watch(&self) {
        if self.config.paths().next().is_none() {
            return;
        }
        let mut stamp = self.stamp().await;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            // Taken before the files are read: what changes meanwhile is seen at the next look.
            let now = self.stamp().await;
            if std::mem::replace(&mut stamp, now.clone()) != now {
                self.reload().await;
            }
        }
    }

    async fn stamp(&self) -> Option<Stamp> {
        let paths: Vec<PathBuf> = self.config.paths().map(Path::to_owned).collect();
        tokio::task::spawn_blocking(move || Stamp::of(paths.iter().map(PathBuf::as_path))).await.ok()
    }

    /// Reads the files anew. Sessions keep what they have; when a file cannot be used so does the proxy.
    async fn reload(&self) {
        let config = self.config.clone();
        match tokio::task::spawn_blocking(move || load(&config)).await {
            Ok(Ok((front, dial))) => {
                set(&self.front, front);
                set(&self.dial, dial);
                tracing::info!("the certificates of the proxy have changed and were read anew");
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the changed certificates of the proxy cannot be used; the old ones stay in force");
            }
            Err(error) => tracing::error!(%error, "reading the certificates of the proxy failed"),
        }
    }
}

impl TlsConfig {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let client = self.client.iter().filter(|client| client.mode != ClientTlsMode::Disable);
        let client =
            client.flat_map(|client| [Some(&client.cert), Some(&client.key), client.client_ca.as_ref()]);
        let server = Some(&self.server).filter(|server| server.mode != ServerTlsMode::Disable);
        client.flatten().chain(server.and_then(|server| server.ca.as_ref())).map(PathBuf::as_path)
    }
}

type Loaded = (Option<Arc<Front>>, Option<Arc<Dial>>);

fn load(config: &TlsConfig) -> Result<Loaded, TlsError> {
    let client = config.client.as_ref().filter(|client| client.mode != ClientTlsMode::Disable);
    let front = client.map(Front::load).transpose()?.map(Arc::new);
    let dial = match config.server.mode {
        ServerTlsMode::Disable => None,
        _ => Some(Arc::new(Dial::load(&config.server)?)),
    };
    Ok((front, dial))
}

/// The cryptography, named so that no default of the process decides.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Who holds these locks only assigns, so a poisoned one is whole.
fn current<T>(shared: &RwLock<Option<Arc<T>>>) -> Option<Arc<T>> {
    shared.read().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set<T>(shared: &RwLock<Option<Arc<T>>>, new: Option<Arc<T>>) {
    *shared.write().unwrap_or_else(PoisonError::into_inner) = new;
}
