//! Makes the cluster's certificate authority and one certificate per node.
//!
//! The authority exists for the peer link alone and signs nothing but node certificates: whoever holds one belongs
//! to the cluster, and the one name in it says which node it is. Keys are ECDSA P-256. Both last ten years;
//! a node trusts every authority in its `ca.crt`, so that one can follow another. A node that must be shut out needs a
//! new authority.
//!
//! Invariant: a file appears whole or not at all, and a file that is there is never replaced. Keys are 0600 from
//! their first byte.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::ToSpan;
use jiff::civil::Date;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

pub const AUTHORITY_CERTIFICATE: &str = "ca.crt";
pub const AUTHORITY_KEY: &str = "ca.key";
pub const NODE_CERTIFICATE: &str = "node.crt";
pub const NODE_KEY: &str = "node.key";

/// How long an authority and what it signs are valid.
const VALIDITY_YEARS: i32 = 10;
/// Validity begins this long ago, so that a node whose clock lags accepts a certificate made just now.
const BACKDATE_DAYS: i32 = 2;

#[derive(Debug, Error)]
pub enum CertificateError {
    #[error("{} is already there and is never replaced; move it away first, or use another directory", .0.display())]
    Exists(PathBuf),
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} and {} are no authority that can sign: {reason}", .certificate.display(), .key.display())]
    Authority { certificate: PathBuf, key: PathBuf, reason: String },
    #[error("{} holds another cluster's authority than the one that signs for this node", .0.display())]
    OtherAuthority(PathBuf),
    #[error("node name {0:?} cannot stand in a certificate: {1}")]
    Name(String, String),
    #[error("cannot make a key or certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Makes a new authority for `cluster`: `ca.crt` and `ca.key` in `dir`, which is created (0700) when missing.
pub fn create_authority(dir: &Path, cluster: &str) -> Result<(), CertificateError> {
    refuse_existing(dir, &[AUTHORITY_KEY, AUTHORITY_CERTIFICATE])?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = common_name(&format!("pgherd cluster {cluster}"));
    // No certificate below it may sign another one.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params);
    let certificate = params.self_signed(&key)?;

    create_dir(dir)?;
    write_new(&dir.join(AUTHORITY_KEY), &key.serialize_pem(), 0o600)?;
    write_new(&dir.join(AUTHORITY_CERTIFICATE), &certificate.pem(), 0o644)
}

/// Makes `node.crt` and `node.key` for `node` in `out_dir`, signed by the authority in `authority_dir`, and lays
/// the authority's `ca.crt` beside them.
pub fn issue(authority_dir: &Path, node: &str, out_dir: &Path) -> Result<(), CertificateError> {
    refuse_existing(out_dir, &[NODE_KEY, NODE_CERTIFICATE])?;
    let (authority_pem, issuer) = load_authority(authority_dir)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    DnsName::try_from(node).map_err(|error| CertificateError::Name(node.to_owned(), error.to_string()))?;
    let mut params = CertificateParams::new(vec![node.to_owned()])?;
    params.distinguished_name = common_name(node);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Every node both dials and is dialled.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params);
    let certificate = params.signed_by(&key, &issuer)?;

    create_dir(out_dir)?;
    let beside = out_dir.join(AUTHORITY_CERTIFICATE);
    match fs::read_to_string(&beside) {
        Ok(present) if present.contains(authority_pem.trim()) => {}
        Ok(_) => return Err(CertificateError::OtherAuthority(beside)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_new(&beside, &authority_pem, 0o644)?,
        Err(source) => return Err(CertificateError::Read { path: beside, source }),
    }
    write_new(&out_dir.join(NODE_KEY), &key.serialize_pem(), 0o600)?;
    write_new(&out_dir.join(NODE_CERTIFICATE), &certificate.pem(), 0o644)
}

fn load_authority(dir: &Path) -> Result<(String, Issuer<'static, KeyPair>), CertificateError> {
    let (certificate, key) = (dir.join(AUTHORITY_CERTIFICATE), dir.join(AUTHORITY_KEY));
    let read = |path: &PathBuf| {
        fs::read_to_string(path).map_err(|source| CertificateError::Read { path: path.clone(), source })
    };
    let (certificate_pem, key_pem) = (read(&certificate)?, read(&key)?);
    let issuer = issuer(&certificate_pem, &key_pem);
    match issuer {
        Ok(issuer) => Ok((certificate_pem, issuer)),
        Err(reason) => Err(CertificateError::Authority { certificate, key, reason }),
    }
}

fn issuer(certificate_pem: &str, key_pem: &str) -> Result<Issuer<'static, KeyPair>, String> {
    let pair = KeyPair::from_pem(key_pem).map_err(|error| format!("the key: {error}"))?;
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
        .map_err(|error| format!("the certificate: {error}"))?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| format!("the certificate: {error}"))?;
    // rcgen signs with any key; a certificate signed by a stray one would only be refused at the first connection.
    if parsed.public_key().subject_public_key.data != pair.public_key_raw() {
        return Err("the key does not belong to the certificate".to_owned());
    }
    Issuer::from_ca_cert_der(&der, pair).map_err(|error| format!("the certificate: {error}"))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn set_validity(params: &mut CertificateParams) {
    let today = crate::clock::wall().to_zoned(jiff::tz::TimeZone::UTC).date();
    // Saturating keeps the arithmetic total; it ends in the year 9999.
    let day = |date: Date| date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8);
    params.not_before = day(today.saturating_sub(BACKDATE_DAYS.days()));
    params.not_after = day(today.saturating_add(VALIDITY_YEARS.years()));
}

fn refuse_existing(dir: &Path, names: &[&str]) -> Result<(), CertificateError> {
    match names.iter().map(|name| dir.join(name)).find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(CertificateError::Exists(path)),
        None => Ok(()),
    }
}

fn create_dir(dir: &Path) -> Result<(), CertificateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| CertificateError::Write { path: dir.to_owned(), source })
}

/// Writes a file that must not exist yet: whole under a name of its own, fsynced, then linked to `path`, which
/// fails when `path` has come into being meanwhile.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{:016x}.tmp", rand::random::<u64>()));
    let unfinished = PathBuf::from(unfinished);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::hard_link(&unfinished, path)
    })();
    // After the link this is a second name of the same file; after a failure it is rubbish.
    let removed = fs::remove_file(&unfinished);
    let refused = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => CertificateError::Exists(path.to_owned()),
        _ => CertificateError::Write { path: path.to_owned(), source },
    };
    written.map_err(refused)?;
    removed.map_err(refused)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(refused)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_have_their_modes_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (authority, node) = (dir.path().join("ca"), dir.path().join("n1/tls"));
        create_authority(&authority, "demo").unwrap();
        issue(&authority, "n1", &node).unwrap();
        for (path, mode) in [
            (authority.join("ca.key"), 0o600),
            (node.join("node.key"), 0o600),
            (authority.join("ca.crt"), 0o644),
            (node.join("node.crt"), 0o644),
            (node.clone(), 0o700),
        ] {
            let found = path.metadata().unwrap().mode() & 0o777;
            assert_eq!(found & 0o077 & !mode, 0, "{} has mode {found:o}", path.display());
        }
        let mut names: Vec<_> = fs::read_dir(&node).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["ca.crt", "node.crt", "node.key"]);
    }

    #[test]
    fn nothing_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        create_authority(dir.path(), "demo").unwrap();
        let before = fs::read(dir.path().join("ca.key")).unwrap();
        let error = create_authority(dir.path(), "demo").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{}/ca.key is already there and is never replaced; move it away first, or use another directory",
                dir.path().display()
            )
        );
        issue(dir.path(), "n1", dir.path()).unwrap();
        assert!(matches!(issue(dir.path(), "n1", dir.path()), Err(CertificateError::Exists(_))));
        assert!(matches!(
            write_new(&dir.path().join("ca.key"), "other", 0o600),
            Err(CertificateError::Exists(_))
        ));
        assert_eq!(fs::read(dir.path().join("ca.key")).unwrap(), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    }

    #[test]
    fn a_node_of_another_cluster_is_not_mixed_in() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        create_authority(&ours, "ours").unwrap();
        create_authority(&theirs, "theirs").unwrap();
        assert!(matches!(issue(&ours, "n1", &theirs), Err(CertificateError::OtherAuthority(_))));
        assert!(matches!(issue(dir.path(), "n1", &ours), Err(CertificateError::Read { .. })));
        fs::copy(theirs.join("ca.key"), ours.join("ca.key")).unwrap();
        let error = issue(&ours, "n1", &ours).unwrap_err().to_string();
        assert!(error.ends_with("that can sign: the key does not belong to the certificate"), "{error}");
        fs::remove_file(ours.join("ca.key")).unwrap();
        write_new(&ours.join("ca.key"), "no key", 0o600).unwrap();
        assert!(matches!(issue(&ours, "n1", &ours), Err(CertificateError::Authority { .. })));
    }
}
