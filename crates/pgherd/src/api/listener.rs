//! Where HTTP comes in: in clear, or by TLS.
//!
//! What it is: axum's listener over a TCP one, with handshakes beside each other, and a certificate that is read anew when its
//! file changes. What it is not: who may ask (`access`). Invariant: with a certificate nothing is answered in clear.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use proxy::tls::{Stamp, TlsError, certificates, with_certificate};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::config::HttpTls;

/// Handshakes at once; who comes beyond that is not answered.
const HANDSHAKES_MAX: usize = 64;
/// One is done in milliseconds; a silent client gets this long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After an error that is not the client's: too many open files, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How often the files are looked at: certificates live for weeks, and a look is a stat for each.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

/// The certificate in use.
pub struct Certificate {
    files: HttpTls,
    current: ArcSwap<ServerConfig>,
}

impl Certificate {
    pub fn load(files: &HttpTls) -> Result<Certificate, TlsError> {
        Ok(Certificate { files: files.clone(), current: ArcSwap::new(Arc::new(server_config(files)?)) })
    }

    /// Takes in force what changes in the files, for ever; what cannot be used leaves in force what was.
    pub async fn watch(&self) {
        let paths = || [self.files.cert.as_path(), self.files.key.as_path()].into_iter();
        let mut stamp = Stamp::of(paths());
        loop {
            sleep(LOOK_INTERVAL).await;
            let now = Stamp::of(paths());
            if std::mem::replace(&mut stamp, now.clone()) == now {
                continue;
            }
            match server_config(&self.files) {
                Ok(config) => {
                    self.current.store(Arc::new(config));
                    tracing::info!("the certificate of the HTTP server has changed and was read anew");
                }
                Err(error) => {
                    tracing::warn!(%error, "the changed certificate of the HTTP server cannot be used; the old one stays in force");
                }
            }
        }
    }
}

fn server_config(HttpTls { cert, key }: &HttpTls) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Unusable { path: cert.clone(), reason: error.to_string() })?
        .with_no_client_auth();
    let mut config = with_certificate(builder, certificates(cert)?, cert, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

pub struct Listener {
    tcp: TcpListener,
    certificate: Option<Arc<Certificate>>,
    permits: Arc<Semaphore>,
    shaken: mpsc::Sender<(Io, SocketAddr)>,
    ready: mpsc::Receiver<(Io, SocketAddr)>,
}

impl Listener {
    pub fn new(tcp: TcpListener, certificate: Option<Arc<Certificate>>) -> Listener {
        let (shaken, ready) = mpsc::channel(HANDSHAKES_MAX);
        Listener { tcp, certificate, permits: Arc::new(Semaphore::new(HANDSHAKES_MAX)), shaken, ready }
    }

    /// In a task of its own: a silent client must not keep others waiting.
    fn shake(&self, certificate: &Certificate, stream: TcpStream, from: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        let (acceptor, shaken) = (TlsAcceptor::from(certificate.current.load_full()), self.shaken.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                // Nobody takes it when the server ends.
                Ok(Ok(stream)) => drop(shaken.send((Either::Right(Box::new(stream)), from)).await),
                Ok(Err(error)) => tracing::debug!(%from, %error, "a TLS handshake for HTTP failed"),
                Err(_) => tracing::debug!(%from, "a TLS handshake for HTTP took too long"),
            }
            drop(permit);
        });
    }
}

impl axum::serve::Listener for Listener {
    type Io = Io;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Io, SocketAddr) {
        loop {
            let accepted = tokio::select! {
                Some(ready) = self.ready.recv() => return ready,
                accepted = self.tcp.accept() => accepted,
            };
            match (accepted, &self.certificate) {
                (Ok((stream, from)), None) => return (Either::Left(stream), from),
                (Ok((stream, from)), Some(certificate)) => self.shake(certificate, stream, from),
                (Err(error), _) if is_of_the_client(&error) => {}
                (Err(error), _) => {
                    tracing::warn!(%error, "HTTP connections cannot be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
