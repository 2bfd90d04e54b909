//! What clients meet: the proxy's certificate, and what is asked of theirs.
//!
//! Invariant: all that one handshake uses is of one reading of the files, so that nobody binds to a certificate that it was not
//! shown.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use tokio::sync::Semaphore;

use super::channel::{Channel, RECORD_MAX};
use super::files::{TlsError, certificates, roots, with_certificate};
use super::stream::Stream;
use super::{ALPN, ClientTls, ClientTlsMode, TlsVersion, certificate, provider};

/// What `max_fragment_size` of rustls counts beside the plaintext: a record's header.
const RECORD_HEADER: usize = 5;

#[derive(Debug)]
pub struct Front {
    config: Arc<ServerConfig>,
    end_point: Option<Vec<u8>>,
}

impl Front {
    pub fn load(client: &ClientTls) -> Result<Front, TlsError> {
        let ClientTls { cert, key, .. } = client;
        let chain = certificates(cert)?;
        let end_point = certificate::end_point(&chain[0]);
        let unusable =
            |error: rustls::Error| TlsError::Unusable { path: cert.clone(), reason: error.to_string() };
        let versions: &[_] = match client.min_version {
            TlsVersion::V12 => &[&TLS12, &TLS13],
            TlsVersion::V13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(unusable)?;
        let builder = match verifier(client)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = with_certificate(builder, chain, cert, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A ticket is as good as the certificates that it was given for: with others there is another key for it.
        config.ticketer = Ticketer::new().map_err(unusable)?;
        config.send_tls13_tickets = 1;
        config.max_fragment_size = Some(RECORD_MAX + RECORD_HEADER);
        Ok(Front { config: Arc::new(config), end_point })
    }

    /// See [`super::Tls::accept`].
    pub async fn accept(
        &self,
        client: &mut Stream,
        seen: &[u8],
        direct: bool,
        permits: &Semaphore,
    ) -> io::Result<()> {
        let channel = Channel::server(Arc::clone(&self.config), seen)?;
        let channel = client.shake(channel, permits).await?;
        if direct && channel.alpn() != Some(ALPN) {
            let text = "received direct SSL connection request without ALPN protocol negotiation extension";
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        client.bind_to(self.end_point.as_deref());
        Ok(())
    }
}

fn verifier(client: &ClientTls) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(path) = &client.client_ca else { return Ok(None) };
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider());
    let builder = match client.mode {
        ClientTlsMode::VerifyCa => builder,
        _ => builder.allow_unauthenticated(),
    };
    let verifier = builder.build();
    let verifier =
        verifier.map_err(|error| TlsError::Unusable { path: path.clone(), reason: error.to_string() })?;
    Ok(Some(verifier))
}
