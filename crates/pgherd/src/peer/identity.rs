//! Who this node is on the peer link: the authority it trusts, its certificate and its key, read and checked.
//!
//! Everything that would make each handshake fail later (a key of another certificate, an expired certificate, one
//! of another authority) is found here, at start, with the file's name. A certificate names exactly one node.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError as TlsCertificateError, RootCertStore};
use serde::Serialize;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// PEM files of a few kilobytes; anything larger is not one.
const FILE_BYTES_MAX: u64 = 256 * 1024;

#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no {what} in PEM form: {reason}", .path.display())]
    Format { path: PathBuf, what: &'static str, reason: String },
    #[error(
        "{} may be read by others (mode {mode:04o}), so the key may be known to them; \
         make new ones, or type: chmod 600 {}", .path.display(), .path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the key in {} does not belong to the certificate in {}", .key.display(), .certificate.display())]
    KeyMismatch { key: PathBuf, certificate: PathBuf },
    #[error("the certificate in {} expired on {on}; issue a new one", .path.display())]
    Expired { path: PathBuf, on: String },
    #[error(
        "the certificate in {} is not valid before {on}; if that is in the past, this machine's clock is wrong",
        .path.display()
    )]
    NotYetValid { path: PathBuf, on: String },
    #[error("the certificate in {} was not signed by the authority in {}", .certificate.display(), .authority.display())]
    OtherAuthority { certificate: PathBuf, authority: PathBuf },
    #[error("the certificate in {} must name exactly one node as its DNS name; it names {found}", .path.display())]
    Names { path: PathBuf, found: String },
    #[error("the certificate in {} cannot be used: {reason}", .path.display())]
    Unusable { path: PathBuf, reason: String },
}

/// A node's authority, certificate and key, checked against each other.
#[derive(Debug)]
pub struct Identity {
    name: String,
    /// More than one while the nodes change from one authority to the next.
    authorities: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        let Identity { name, authorities, chain, key } = self;
        Identity {
            name: name.clone(),
            authorities: authorities.clone(),
            chain: chain.clone(),
            key: key.clone_key(),
        }
    }
}

impl Identity {
    /// Reads and checks the three PEM files.
    pub fn load(authority: &Path, certificate: &Path, key: &Path) -> Result<Identity, IdentityError> {
        let authorities = certificates(authority)?;
        let chain = certificates(certificate)?;
        let key_der = private_key(key)?;

        let name = node_name(&chain[0])
            .map_err(|found| IdentityError::Names { path: certificate.to_owned(), found })?;
        match CertifiedKey::from_der(chain.clone(), key_der.clone_key(), &provider()) {
            Ok(_) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(IdentityError::KeyMismatch {
                    key: key.to_owned(),
                    certificate: certificate.to_owned(),
                });
            }
            Err(error) => {
                return Err(IdentityError::Format {
                    path: key.to_owned(),
                    what: "usable private key",
                    reason: error.to_string(),
                });
            }
        }
        let identity = Identity { name, authorities, chain, key: key_der };
        identity.check_validity(authority, certificate)?;
        Ok(identity)
    }

    /// The node that the certificate names.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// The cluster's authorities, and no other: the system's are not trusted here.
    pub(super) fn roots(&self) -> Result<Arc<RootCertStore>, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone())?;
        }
        Ok(Arc::new(roots))
    }

    /// Verifies the own certificate as every peer will.
    fn check_validity(&self, authority: &Path, certificate: &Path) -> Result<(), IdentityError> {
        let authority_unusable =
            |reason: String| IdentityError::Unusable { path: authority.to_owned(), reason };
        let unusable = |reason: String| IdentityError::Unusable { path: certificate.to_owned(), reason };
        if let [only] = self.authorities.as_slice() {
            within_validity(only, authority)?;
        }
        within_validity(&self.chain[0], certificate)?;
        let roots = self.roots().map_err(|error| authority_unusable(error.to_string()))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::new(provider()))
            .build()
            .map_err(|error| authority_unusable(error.to_string()))?;
        let name = ServerName::try_from(self.name.as_str()).map_err(|error| unusable(error.to_string()))?;
        match verifier.verify_server_cert(&self.chain[0], &self.chain[1..], &name, &[], UnixTime::now()) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(
                TlsCertificateError::UnknownIssuer | TlsCertificateError::BadSignature,
            )) => Err(IdentityError::OtherAuthority {
                certificate: certificate.to_owned(),
                authority: authority.to_owned(),
            }),
            Err(error) => Err(unusable(error.to_string())),
        }
    }
}

/// What people want to know of a certificate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CertificateFacts {
    /// The common name.
    pub subject: String,
    pub issuer: String,
    /// The last day.
    pub until: String,
    /// Negative when it has passed.
    pub days_left: i64,
}

/// Of each certificate in a PEM file.
pub fn certificate_facts(path: &Path) -> Result<Vec<CertificateFacts>, IdentityError> {
    let unusable = |reason: String| IdentityError::Unusable { path: path.to_owned(), reason };
    let facts = |der: &CertificateDer<'_>| {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| unusable(error.to_string()))?;
        let name = |name: &x509_parser::x509::X509Name<'_>| {
            let common = name.iter_common_name().next().and_then(|name| name.as_str().ok());
            common.map_or_else(|| name.to_string(), str::to_owned)
        };
        let until = parsed.validity().not_after.timestamp();
        let days_left = (until - crate::clock::wall().as_second()).div_euclid(86_400);
        Ok(CertificateFacts {
            subject: name(parsed.subject()),
            issuer: name(parsed.issuer()),
            until: day(until),
            days_left,
        })
    };
    certificates(path)?.iter().map(facts).collect()
}

/// The one cryptography of the peer link, named explicitly so that no process-wide default decides.
pub(super) fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// The node that a certificate names: its only subject alternative name, a DNS name. `Err` says what is there
/// instead. A certificate with two names, or with a wildcard, would let one machine be two nodes.
pub(super) fn node_name(certificate: &CertificateDer<'_>) -> Result<String, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| format!("nothing ({error})"))?;
    let names = match parsed.subject_alternative_name() {
        Ok(Some(extension)) => &extension.value.general_names,
        Ok(None) => return Err("none".to_owned()),
        Err(error) => return Err(format!("nothing readable ({error})")),
    };
    match names.as_slice() {
        [GeneralName::DNSName(name)] if !name.contains('*') => Ok((*name).to_owned()),
        [] => Err("none".to_owned()),
        names => Err(names.iter().map(|name| format!("{name}")).collect::<Vec<_>>().join(", ")),
    }
}

fn within_validity(certificate: &CertificateDer<'_>, path: &Path) -> Result<(), IdentityError> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| IdentityError::Unusable { path: path.to_owned(), reason: error.to_string() })?;
    let (from, until) = (parsed.validity().not_before, parsed.validity().not_after);
    let now = crate::clock::wall().as_second();
    if now < from.timestamp() {
        return Err(IdentityError::NotYetValid { path: path.to_owned(), on: day(from.timestamp()) });
    }
    if now > until.timestamp() {
        return Err(IdentityError::Expired { path: path.to_owned(), on: day(until.timestamp()) });
    }
    Ok(())
}

fn day(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%Y-%m-%d").to_string(),
        Err(_) => "a day that cannot be written".to_owned(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let reason = match found {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => "no CERTIFICATE section".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(IdentityError::Format { path: path.to_owned(), what: "certificate", reason })
}

/// Reads the key if nobody else could: 0600, or 0640 for a file of root, which is libpq's rule.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let metadata =
        fs::metadata(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })?;
    let mode = metadata.mode() & 0o7777;
    let allowed = if metadata.uid() == 0 { 0o640 } else { 0o600 };
    if mode & 0o077 & !allowed != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| IdentityError::Format {
        path: path.to_owned(),
        what: "private key",
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

    use super::*;
    use crate::peer::certificates::{create_authority, issue};

    struct Files {
        _dir: tempfile::TempDir,
        authority: PathBuf,
        certificate: PathBuf,
        key: PathBuf,
    }

    impl Files {
        fn new() -> Files {
            let dir = tempfile::tempdir().unwrap();
            create_authority(dir.path(), "demo").unwrap();
            issue(dir.path(), "n1", dir.path()).unwrap();
            let path = |name| dir.path().join(name);
            Files {
                authority: path("ca.crt"),
                certificate: path("node.crt"),
                key: path("node.key"),
                _dir: dir,
            }
        }

        fn load(&self) -> Result<Identity, IdentityError> {
            Identity::load(&self.authority, &self.certificate, &self.key)
        }

        fn message(&self) -> String {
            let message = self.load().unwrap_err().to_string();
            message.replace(self.authority.parent().unwrap().to_str().unwrap(), "DIR")
        }

        /// Replaces the certificate and key by ones made to `change`.
        fn reissue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) {
            let authority_key =
                KeyPair::from_pem(&fs::read_to_string(self.authority.with_file_name("ca.key")).unwrap());
            let authority = fs::read_to_string(&self.authority).unwrap();
            let issuer = Issuer::from_ca_cert_pem(&authority, authority_key.unwrap()).unwrap();
            let key = KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.is_ca = IsCa::NoCa;
            change(&mut params);
            fs::write(&self.certificate, params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
            fs::write(&self.key, key.serialize_pem()).unwrap();
        }
    }

    #[test]
    fn while_authorities_change_the_certificates_of_both_are_good() {
        let (old, new) = (Files::new(), Files::new());
        let both = [&old, &new].map(|files| fs::read_to_string(&files.authority).unwrap()).concat();
        for files in [&old, &new] {
            fs::write(&files.authority, &both).unwrap();
            files.load().unwrap();
        }
        let facts = certificate_facts(&old.authority).unwrap();
        assert_eq!(facts.len(), 2);
        assert_eq!(facts[0].subject, "pgherd cluster demo");
        assert!(facts[0].days_left > 3_000);
    }

    #[test]
    fn what_was_issued_loads() {
        assert_eq!(Files::new().load().unwrap().name(), "n1");
    }

    #[test]
    fn each_fault_names_the_file_and_the_reason() {
        let files = Files::new();
        fs::remove_file(&files.certificate).unwrap();
        assert_eq!(files.message(), "cannot read DIR/node.crt: No such file or directory (os error 2)");
        fs::write(&files.certificate, "hello").unwrap();
        assert_eq!(files.message(), "DIR/node.crt holds no certificate in PEM form: no CERTIFICATE section");

        let files = Files::new();
        fs::write(&files.key, "hello").unwrap();
        assert!(files.message().starts_with("DIR/node.key holds no private key in PEM form: "));
        fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert_eq!(
            files.message(),
            "the key in DIR/node.key does not belong to the certificate in DIR/node.crt"
        );
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            files.message(),
            "DIR/node.key may be read by others (mode 0644), so the key may be known to them; \
             make new ones, or type: chmod 600 DIR/node.key"
        );
    }

    #[test]
    fn a_certificate_that_peers_would_refuse_is_refused_here() {
        let files = Files::new();
        files.reissue(&["n1"], |params| params.not_after = date_time_ymd(2020, 5, 17));
        assert_eq!(files.message(), "the certificate in DIR/node.crt expired on 2020-05-17; issue a new one");
        files.reissue(&["n1"], |params| params.not_before = date_time_ymd(2100, 1, 1));
        assert_eq!(
            files.message(),
            "the certificate in DIR/node.crt is not valid before 2100-01-01; \
             if that is in the past, this machine's clock is wrong"
        );
        files.reissue(&["n1", "n2"], |_| {});
        assert!(files.message().contains("must name exactly one node as its DNS name; it names "));
        files.reissue(&["*.n1"], |_| {});
        assert!(files.message().contains("must name exactly one node"));
        files.reissue(&[], |_| {});
        assert!(files.message().ends_with("it names none"));

        let other = Files::new();
        let mixed = Identity::load(&other.authority, &Files::new().certificate, &other.key);
        assert!(matches!(mixed, Err(IdentityError::Read { .. } | IdentityError::KeyMismatch { .. })));
        let files = Files::new();
        let error = Identity::load(&other.authority, &files.certificate, &files.key).unwrap_err();
        assert!(matches!(error, IdentityError::OtherAuthority { .. }), "{error}");
    }
}
