//! The PEM files of a configuration, read and checked.
//!
//! Invariant: a key that others may read is not used, nor one of another certificate than the one beside it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WantsServerCert;
use rustls::{ConfigBuilder, RootCertStore, ServerConfig};

/// PEM files of some kilobytes; bundles of all public authorities have some 250.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why a certificate, a key or an authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no {what} in PEM form{reason}", .path.display())]
    Format { path: PathBuf, what: &'static str, reason: String },
    #[error(
        "{} may be read by others (mode {mode:04o}), so the key may be known to them; make new ones, or type: chmod 600 {}",
        .path.display(), .path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the key in {} does not belong to the certificate in {}", .key.display(), .cert.display())]
    KeyMismatch { key: PathBuf, cert: PathBuf },
    #[error("{} cannot be used: {reason}", .path.display())]
    Unusable { path: PathBuf, reason: String },
}

/// What tells one content of a file from another without reading it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Modification in seconds and nanoseconds, length, inode and mode; `None` for a file that is not there.
    files: Vec<Option<[i64; 5]>>,
}

impl Stamp {
    pub fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Stamp {
        let stamp = |path: &Path| {
            let data = fs::metadata(path).ok()?;
            Some([data.mtime(), data.mtime_nsec(), data.size() as i64, data.ino() as i64, data.mode().into()])
        };
        Stamp { files: paths.map(stamp).collect() }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// The certificates of a file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let reason = match found {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => String::new(),
        Err(error) => format!(": {error}"),
    };
    Err(TlsError::Format { path: path.to_owned(), what: "certificate", reason })
}

/// A key that nobody else could read: 0600, or 0640 for a file of root, as PostgreSQL has it (`check_ssl_key_file_permissions`).
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let metadata = fs::metadata(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let mode = metadata.mode() & 0o7777;
    let allowed = if metadata.uid() == 0 { 0o640 } else { 0o600 };
    if mode & 0o077 & !allowed != 0 {
        return Err(TlsError::Exposed { path: path.to_owned(), mode });
    }
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| TlsError::Format {
        path: path.to_owned(),
        what: "private key",
        reason: format!(": {error}"),
    })
}

/// A server's configuration with this chain, read from `cert`, and the key that belongs to it.
pub fn with_certificate(
    builder: ConfigBuilder<ServerConfig, WantsServerCert>,
    chain: Vec<CertificateDer<'static>>,
    cert: &Path,
    key: &Path,
) -> Result<ServerConfig, TlsError> {
    builder.with_single_cert(chain, private_key(key)?).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::KeyMismatch { key: key.to_owned(), cert: cert.to_owned() }
        }
        error => TlsError::Unusable { path: cert.to_owned(), reason: error.to_string() },
    })
}

/// The authorities of a file, and nobody else.
pub fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Unusable { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(roots)
}
