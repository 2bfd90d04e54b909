//! How servers are asked for TLS, and what is asked of their certificates.
//!
//! Invariant: a mode that asks for encryption never goes on in clear, and one that verifies never without.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use wire::startup::ssl_request;

use super::channel::Channel;
use super::files::{TlsError, certificates, roots};
use super::stream::Stream;
use super::{ALPN, ServerTls, ServerTlsMode, certificate, provider};

#[derive(Debug)]
pub struct Dial {
    mode: ServerTlsMode,
    config: Arc<ClientConfig>,
}

impl Dial {
    pub fn load(server: &ServerTls) -> Result<Dial, TlsError> {
        let provider = provider();
        let trust = match (server.mode, &server.ca) {
            (ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull, Some(path)) => {
                Some(Trust { roots: roots(path)?, listed: certificates(path)? })
            }
            (ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull, None) => {
                // Nobody is trusted, rather than everybody.
                Some(Trust { roots: RootCertStore::empty(), listed: Vec::new() })
            }
            _ => None,
        };
        let names = server.mode == ServerTlsMode::VerifyFull;
        let verifier = Verifier { trust, names, algorithms: provider.signature_verification_algorithms };
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| TlsError::Unusable {
            path: server.ca.clone().unwrap_or_default(),
            reason: error.to_string(),
        })?;
        let mut config =
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        // PostgreSQL resumes none (`SSL_SESS_CACHE_OFF`), and so each connection is verified anew.
        config.resumption = Resumption::disabled();
        Ok(Dial { mode: server.mode, config: Arc::new(config) })
    }

    /// See [`super::Tls::encrypt`].
    pub async fn encrypt(&self, server: &mut Stream, address: &str, permits: &Semaphore) -> io::Result<()> {
        server.write_all(&ssl_request()).await?;
        match server.read_u8().await? {
            b'S' => {}
            b'N' if self.mode == ServerTlsMode::Prefer => return Ok(()),
            b'N' => return Err(io::Error::other("it does not support SSL, but SSL was required")),
            _ => return Err(io::Error::new(ErrorKind::InvalidData, "its answer to an SSL request is none")),
        }
        let channel = Channel::client(Arc::clone(&self.config), name_of(address)?)?;
        let channel = server.shake(channel, permits).await?;
        let shown = channel.certificates().and_then(|chain| chain.first());
        let end_point = shown.and_then(certificate::end_point);
        server.bind_to(end_point.as_deref());
        Ok(())
    }
}

/// The host of `host:port`, an IPv6 address in brackets.
fn name_of(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(host).map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))
}

#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    /// A server may show one of these itself, as those do whose certificate is signed by its own key.
    listed: Vec<CertificateDer<'static>>,
}

/// libpq's four rules for a server's certificate.
#[derive(Debug)]
struct Verifier {
    /// `None`: any certificate will do, of which the server has the key.
    trust: Option<Trust>,
    /// It must name the host.
    names: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn chain(
        &self,
        trust: &Trust,
        shown: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if !trust.listed.iter().any(|listed| listed == shown) {
            let algorithms = self.algorithms.all;
            return verify_server_cert_signed_by_trust_anchor(parsed, &trust.roots, between, now, algorithms);
        }
        match certificate::is_valid_at(shown, now.as_secs()) {
            true => Ok(()),
            false => Err(CertificateError::Expired.into()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(trust) = &self.trust {
            let parsed = ParsedCertificate::try_from(shown)?;
            self.chain(trust, shown, &parsed, between, now)?;
            if self.names {
                verify_server_name(&parsed, name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
