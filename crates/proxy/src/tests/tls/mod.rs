//! TLS: with hand-made clients against servers of a few lines, and with libpq against a real PostgreSQL.

mod bulk;
mod cost;
mod edges;
mod libpq;
mod reload;
mod servers;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::message::put_frame;
use wire::startup::{ssl_request, startup_packet};

use super::fake::read_frame;
use super::server::give;
use super::*;
use crate::tls::{ClientTls, ClientTlsMode, ServerTls, ServerTlsMode, TlsVersion};

/// An authority and what it has signed, as files that a server's user may read, too.
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        let folder = tempfile::Builder::new().prefix("pgherd-tls-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, folder.path().display().to_string());
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(folder.path().join("ca.crt"), &pem).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&pem, key).unwrap();
        Authority { folder, issuer }
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `NAME.crt` and `NAME.key` for these hosts, with `name` as its common name.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(hosts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let (cert, key_file) = (self.file(&format!("{name}.crt")), self.file(&format!("{name}.key")));
        std::fs::write(&cert, pem).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        (cert, key_file)
    }

    /// A proxy's side, whose certificate is for 127.0.0.1 and localhost.
    pub fn front(&self, mode: ClientTlsMode) -> TlsConfig {
        let (cert, key) = self.issue("proxy", &["localhost", "127.0.0.1"]);
        let client = ClientTls { mode, cert, key, client_ca: None, min_version: TlsVersion::V12 };
        TlsConfig { client: Some(client), server: ServerTls::default() }
    }

    /// A client that trusts this authority.
    pub fn trusting(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        builder.unwrap().with_root_certificates(self.roots()).with_no_client_auth()
    }

    /// One that also shows a certificate.
    pub fn showing(&self, (cert, key): (PathBuf, PathBuf)) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        builder.unwrap().with_root_certificates(self.roots()).with_client_auth_cert(chain, key).unwrap()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).unwrap()).unwrap();
        roots
    }
}

pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A file of the server's user alone.
pub fn give_private(path: &Path) {
    give(path);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The handshake after a request in clear.
pub async fn encrypted(address: SocketAddr, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&ssl_request()).await.unwrap();
    assert_eq!(soon(stream.read_u8()).await.unwrap(), b'S');
    handshake(stream, config).await
}

pub async fn handshake(stream: TcpStream, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    soon(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

/// Up to the first ReadyForQuery; its BackendKeyData.
pub async fn log_in(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    stream.write_all(&startup_packet(0, &[("user", "postgres")])).await.unwrap();
    let mut key = Vec::new();
    loop {
        let (tag, body) = soon(read_frame(stream)).await.unwrap();
        match tag {
            b'K' => key = body,
            b'Z' => return key,
            b'E' => panic!("{}", String::from_utf8_lossy(&body)),
            _ => {}
        }
    }
}

pub fn query(sql: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, b'Q', format!("{sql}\0").as_bytes());
    out
}

/// The bodies of DataRow up to ReadyForQuery, as they are on the wire.
pub async fn rows(stream: &mut TlsStream<TcpStream>) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    loop {
        let (tag, body) = soon(read_frame(stream)).await.unwrap();
        match tag {
            b'D' => rows.push(body),
            b'Z' => return rows,
            b'E' => panic!("{}", String::from_utf8_lossy(&body)),
            _ => {}
        }
    }
}

/// The text of the one field of the one row.
pub async fn ask(stream: &mut TlsStream<TcpStream>, sql: &str) -> String {
    stream.write_all(&query(sql)).await.unwrap();
    let rows = rows(stream).await;
    String::from_utf8(rows[0][6..].to_vec()).unwrap()
}

#[test]
fn the_end_point_follows_the_certificates_signature() {
    use sha2::{Digest, Sha256, Sha384};
    let signed = |algorithm: &'static rcgen::SignatureAlgorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap().der().clone()
    };
    let end_point = crate::tls::certificate::end_point;
    let p256 = signed(&rcgen::PKCS_ECDSA_P256_SHA256);
    assert_eq!(end_point(&p256), Some(Sha256::digest(&p256).to_vec()));
    let p384 = signed(&rcgen::PKCS_ECDSA_P384_SHA384);
    assert_eq!(end_point(&p384), Some(Sha384::digest(&p384).to_vec()));
    assert_eq!(end_point(&signed(&rcgen::PKCS_ED25519)), None);
    assert_eq!(end_point(&CertificateDer::from(vec![1, 2, 3])), None);
}
