//! What is stored, and what is derived from a password.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::{ITERATIONS_DEFAULT, ITERATIONS_MAX, SCRAM_SHA_256};

pub const KEY_BYTES: usize = 32;
pub type Key = Zeroizing<[u8; KEY_BYTES]>;

/// PostgreSQL makes salts of 16 bytes; a statement may store a longer one.
const SALT_TEXT_BYTES_MAX: usize = 512;

/// What `pg_authid.rolpassword` holds: enough to check a proof, not enough to give one.
#[derive(Clone)]
pub struct Verifier {
    pub(super) iterations: u32,
    /// As it is stored: base64.
    pub(super) salt: String,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier {{ iterations: {}, .. }}", self.iterations)
    }
}

impl Verifier {
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
    pub fn parse(text: &str) -> Option<Verifier> {
        let rest = text.strip_prefix(SCRAM_SHA_256)?.strip_prefix('$')?;
        let (parameters, keys) = rest.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = iterations_of(iterations)?;
        salt_of(salt)?;
        Some(Verifier {
            iterations,
            salt: salt.to_owned(),
            stored_key: key_of(stored_key)?,
            server_key: key_of(server_key)?,
        })
    }

    /// Of a new password, with `ITERATIONS_DEFAULT`.
    pub fn new(password: &[u8], salt: [u8; 16]) -> Verifier {
        let salted = salted_password(&prepared(password), &salt, ITERATIONS_DEFAULT);
        Verifier {
            iterations: ITERATIONS_DEFAULT,
            salt: STANDARD.encode(salt),
            stored_key: digest(&hmac(&salted[..], &[b"Client Key"])[..]),
            server_key: hmac(&salted[..], &[b"Server Key"]),
        }
    }

    /// As [`Verifier::parse`] reads it. Whoever has it can check passwords against it, so it is shown to nobody.
    pub fn secret_text(&self) -> String {
        let (stored_key, server_key) =
            (STANDARD.encode(&self.stored_key[..]), STANDARD.encode(&self.server_key[..]));
        format!("{SCRAM_SHA_256}${}:{}${stored_key}:{server_key}", self.iterations, self.salt)
    }

    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// As it is stored and sent: base64.
    pub fn salt(&self) -> &str {
        &self.salt
    }

    /// The keys, if this is the password. Does PBKDF2; `None`, and no work, beyond `ITERATIONS_MAX`.
    pub fn accepts_password(&self, password: &[u8]) -> Option<Option<Keys>> {
        let keys = Keys::of_password(password, &self.salt, self.iterations)?;
        let same = keys.server_key.ct_eq(&self.server_key[..])
            & digest(&keys.client_key[..]).ct_eq(&self.stored_key[..]);
        Some(bool::from(same).then_some(keys))
    }
}

/// How a role that does not exist, or has no SCRAM secret, is made to look like others.
#[derive(Clone)]
pub struct Mock {
    nonce: [u8; 32],
    iterations: u32,
}

impl fmt::Debug for Mock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mock(..)")
    }
}

impl Mock {
    /// With pg_control's "Mock authentication nonce" such a role gets the salt that PostgreSQL itself pretends, on every node
    /// the same. `iterations` is the cluster's `scram_iterations`.
    pub fn new(nonce: [u8; 32], iterations: u32) -> Mock {
        let iterations = if iterations == 0 { ITERATIONS_DEFAULT } else { iterations };
        Mock { nonce, iterations }
    }

    /// The same for the same user. Nobody knows a ClientKey of its StoredKey; callers fail the attempt besides.
    pub fn verifier(&self, user: &str) -> Verifier {
        let hash = Sha256::new().chain_update(user).chain_update(self.nonce).finalize();
        Verifier {
            iterations: self.iterations,
            salt: STANDARD.encode(&hash[..16]),
            stored_key: Key::default(),
            server_key: Key::default(),
        }
    }
}

/// The means to log in at a server without a password, and to know that server.
#[derive(Clone)]
pub struct Keys {
    pub(super) client_key: Key,
    pub(super) server_key: Key,
    /// A server that names another salt or count has another secret by now.
    pub(super) salt: String,
    pub(super) iterations: u32,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Recovered from a proof that `verifier` accepted.
    pub(super) fn recovered(client_key: Key, verifier: &Verifier) -> Keys {
        Keys {
            client_key,
            server_key: verifier.server_key.clone(),
            salt: verifier.salt.clone(),
            iterations: verifier.iterations,
        }
    }

    /// Do these keys still belong to this verifier? False after the role got another password.
    pub fn fit(&self, verifier: &Verifier) -> bool {
        let same = digest(&self.client_key[..]).ct_eq(&verifier.stored_key[..])
            & self.server_key.ct_eq(&verifier.server_key[..]);
        bool::from(same) && self.salt == verifier.salt && self.iterations == verifier.iterations
    }

    pub(super) fn of_password(password: &[u8], salt: &str, iterations: u32) -> Option<Keys> {
        if iterations == 0 || iterations > ITERATIONS_MAX {
            return None;
        }
        let salted = salted_password(&prepared(password), &salt_of(salt)?, iterations);
        Some(Keys {
            client_key: hmac(&salted[..], &[b"Client Key"]),
            server_key: hmac(&salted[..], &[b"Server Key"]),
            salt: salt.to_owned(),
            iterations,
        })
    }

    /// What a server would store for these keys.
    pub fn verifier(&self) -> Verifier {
        Verifier {
            iterations: self.iterations,
            salt: self.salt.clone(),
            stored_key: digest(&self.client_key[..]),
            server_key: self.server_key.clone(),
        }
    }
}

/// A positive number that fits PostgreSQL's `int`, in digits alone.
pub(super) fn iterations_of(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit());
    let count = text.parse::<u32>().ok().filter(|count| (1..=i32::MAX as u32).contains(count));
    count.filter(|_| digits)
}

pub(super) fn salt_of(text: &str) -> Option<Vec<u8>> {
    if text.len() > SALT_TEXT_BYTES_MAX { None } else { STANDARD.decode(text).ok() }
}

pub(super) fn key_of(text: &str) -> Option<Key> {
    // 32 bytes are 44 digits; what is longer is not decoded.
    let bytes = Zeroizing::new((text.len() == 44).then(|| STANDARD.decode(text).ok())??);
    let mut key = Key::default();
    (bytes.len() == KEY_BYTES).then(|| key.copy_from_slice(&bytes))?;
    Some(key)
}

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        hmac.update(part);
    }
    Zeroizing::new(hmac.finalize().into_bytes().into())
}

pub(super) fn digest(bytes: &[u8]) -> Key {
    Zeroizing::new(Sha256::digest(bytes).into())
}

/// `Hi` of RFC 5802: PBKDF2 with one block. The key is set up once and cloned for each round.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let keyed = Hmac::<Sha256>::new_from_slice(password).expect("HMAC takes keys of any length");
    let mut round: Key = Key::default();
    let mut sum: Key = Key::default();
    for number in 0..iterations {
        let mut hmac = keyed.clone();
        match number {
            0 => {
                hmac.update(salt);
                hmac.update(&1u32.to_be_bytes());
            }
            _ => hmac.update(&round[..]),
        }
        round.copy_from_slice(&hmac.finalize().into_bytes());
        sum.iter_mut().zip(round.iter()).for_each(|(sum, round)| *sum ^= round);
    }
    sum
}

/// SASLprep; what is not UTF-8 or has forbidden characters is taken as it is, as in PostgreSQL.
fn prepared(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = std::str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
    match prepared {
        // PostgreSQL takes a password that is prepared to nothing as it is.
        Some(text) if !text.is_empty() => {
            let bytes = Zeroizing::new(text.as_bytes().to_vec());
            if let std::borrow::Cow::Owned(mut copy) = text {
                copy.zeroize();
            }
            bytes
        }
        _ => Zeroizing::new(password.to_vec()),
    }
}
