//! What is read off a certificate: to what SCRAM binds, and whom it names.
//!
//! What it is not: a verification; rustls has done that, or nobody has. Invariant: a certificate that cannot be read has neither.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// Hash functions of a certificate's signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// `tls-server-end-point` (RFC 5929, 4.1): the hash of the whole certificate by the function of its signature, SHA-256 where
/// that is MD5 or SHA-1. `None` where the signature has no such function (Ed25519): there is nothing to bind to, as in
/// PostgreSQL's `be_tls_get_certificate_hash`.
pub fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(match hash_of(&parsed)? {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

fn hash_of(certificate: &X509Certificate<'_>) -> Option<Hash> {
    let algorithm = &certificate.signature_algorithm;
    if let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) = SignatureAlgorithm::try_from(algorithm) {
        return match parameters.hash_algorithm_oid().to_id_string().as_str() {
            "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Some(Hash::Sha256),
            "2.16.840.1.101.3.4.2.2" => Some(Hash::Sha384),
            "2.16.840.1.101.3.4.2.3" => Some(Hash::Sha512),
            _ => None,
        };
    }
    match algorithm.algorithm.to_id_string().as_str() {
        // MD5 and SHA-1, with RSA and ECDSA; RFC 5929 raises them.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" => Some(Hash::Sha256),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Some(Hash::Sha224),
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => Some(Hash::Sha256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Hash::Sha384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Hash::Sha512),
        _ => None,
    }
}

/// The last common name of the subject, as PostgreSQL takes it for the method `cert`. One with a NUL in it names nobody.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().last()?.as_str().ok()?;
    (!name.contains('\0')).then(|| name.to_owned())
}

/// It may be used at this time, in seconds since 1970.
pub fn is_valid_at(certificate: &CertificateDer<'_>, seconds: u64) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let (from, until) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    i64::try_from(seconds).is_ok_and(|now| (from..=until).contains(&now))
}
