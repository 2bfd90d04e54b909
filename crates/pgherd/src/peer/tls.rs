//! TLS as the peer link wants it: version 1.3, certificates both ways, no resumption, the cluster's authority only.

use std::sync::Arc;

use anyhow::Context;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::identity::{Identity, node_name, provider};

pub(super) fn acceptor(identity: &Identity) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(identity.roots()?, provider.clone())
        // Strangers need not be told whose certificates would be welcome.
        .clear_root_hint_subjects()
        .build()
        .context("use the cluster's authority to verify peers that dial")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.key())?;
    // A resumed session would outlive the verification of the certificate that opened it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

pub(super) fn connector(identity: &Identity) -> anyhow::Result<TlsConnector> {
    let provider = Arc::new(provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(identity.roots()?, provider.clone())
        .build()
        .context("use the cluster's authority to verify peers that are dialled")?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(identity.chain(), identity.key())?;
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The node that the other side's certificate names; the handshake has verified the certificate itself.
pub(super) fn peer_name(certificates: Option<&[CertificateDer<'_>]>) -> anyhow::Result<String> {
    let first = certificates.and_then(|chain| chain.first()).context("it showed no certificate")?;
    node_name(first).map_err(|found| {
        anyhow::anyhow!("its certificate must name exactly one node as its DNS name; it names {found}")
    })
}
