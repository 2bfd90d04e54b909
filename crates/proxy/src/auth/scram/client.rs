//! The side that gives a proof: from a password, or from keys without one.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::keys::{Key, Keys, digest, hmac, iterations_of, key_of};
use super::text::{attribute, is_printable};
use super::{ITERATIONS_MAX, NONCE_BYTES, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::auth::messages::SASL_BYTES_MAX;

/// With what to log in.
pub enum ClientSecret {
    Keys(Keys),
    Password(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecret(..)")
    }
}

/// How the exchange is tied to the TLS connection below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Binding {
    /// There is no TLS, or nothing to bind to.
    None,
    /// There is TLS, and the server did not offer PLUS. A server that did is told by this that somebody cut its offer.
    NotOffered,
    /// `tls-server-end-point` of the certificate that the server showed.
    EndPoint(Vec<u8>),
}

impl Binding {
    fn gs2_header(&self) -> &'static str {
        match self {
            Binding::None => "n,,",
            Binding::NotOffered => "y,,",
            Binding::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    /// The value of `c=`: what the proof binds to.
    pub fn input(&self) -> String {
        let bound: &[u8] = if let Binding::EndPoint(end_point) = self { end_point } else { &[] };
        STANDARD.encode([self.gs2_header().as_bytes(), bound].concat())
    }
}

/// Why a server is not answered or not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the server's SCRAM message is malformed")]
    Malformed,
    #[error("the server's nonce does not begin with the client's")]
    Nonce,
    #[error("the server asks for {0} iterations, more than {ITERATIONS_MAX}")]
    Iterations(u32),
    /// The role has another password than the one that the keys are of.
    #[error("the role's secret on the server is not the one that the keys were derived from")]
    SecretChanged,
    #[error("the server says: invalid proof, or another error of the exchange")]
    Refused,
    /// It is not the server that has the role's verifier.
    #[error("the server's signature is wrong: it does not know the role's secret")]
    Signature,
}

/// An exchange of which nothing was answered yet.
#[derive(Debug)]
pub struct Opening {
    secret: ClientSecret,
    binding: Binding,
    nonce: String,
}

impl Opening {
    /// `nonce` must be new and unpredictable.
    pub fn new(secret: ClientSecret, binding: Binding, nonce: [u8; NONCE_BYTES]) -> Opening {
        Opening { secret, binding, nonce: STANDARD.encode(nonce) }
    }

    pub fn mechanism(&self) -> &'static str {
        match self.binding {
            Binding::EndPoint(_) => SCRAM_SHA_256_PLUS,
            Binding::None | Binding::NotOffered => SCRAM_SHA_256,
        }
    }

    /// client-first-message. The user name is empty, as libpq sends it: the start-up packet has it.
    pub fn message(&self) -> String {
        format!("{}{}", self.gs2_header(), self.bare())
    }

    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    fn gs2_header(&self) -> &'static str {
        self.binding.gs2_header()
    }

    /// Takes server-first-message. With a password it does PBKDF2, with keys nothing of the kind.
    pub fn answer(self, server_first: &[u8]) -> Result<Answered, ClientError> {
        let text = text_of(server_first)?;
        let (nonce, rest) = attribute(text, 'r').ok_or(ClientError::Malformed)?;
        let (salt, rest) = attribute(rest, 's').ok_or(ClientError::Malformed)?;
        let (iterations, extensions) = attribute(rest, 'i').ok_or(ClientError::Malformed)?;
        let iterations = iterations_of(iterations).ok_or(ClientError::Malformed)?;
        let theirs = nonce.strip_prefix(&self.nonce).ok_or(ClientError::Nonce)?;
        if theirs.is_empty() || !is_printable(theirs) {
            return Err(ClientError::Nonce);
        }
        if !extensions.is_empty() || text.ends_with(',') {
            return Err(ClientError::Malformed);
        }
        let keys = self.keys(salt, iterations)?;
        let channel_binding = self.binding.input();
        let without_proof = format!("c={channel_binding},r={nonce}");
        let bare = self.bare();
        let parts = [&bare, ",", text, ",", &without_proof].map(str::as_bytes);
        let mut proof = hmac(&digest(&keys.client_key[..])[..], &parts);
        proof.iter_mut().zip(keys.client_key.iter()).for_each(|(proof, key)| *proof ^= key);
        let message = format!("{without_proof},p={}", STANDARD.encode(&proof[..]));
        Ok(Answered { message, signature: hmac(&keys.server_key[..], &parts), keys })
    }

    fn keys(&self, salt: &str, iterations: u32) -> Result<Keys, ClientError> {
        match &self.secret {
            ClientSecret::Keys(keys) if keys.salt == salt && keys.iterations == iterations => {
                Ok(keys.clone())
            }
            ClientSecret::Keys(_) => Err(ClientError::SecretChanged),
            ClientSecret::Password(_) if iterations > ITERATIONS_MAX => {
                Err(ClientError::Iterations(iterations))
            }
            ClientSecret::Password(password) => {
                Keys::of_password(password, salt, iterations).ok_or(ClientError::Malformed)
            }
        }
    }
}

/// A proof that was sent.
pub struct Answered {
    message: String,
    /// What only a server can send that has the role's verifier.
    signature: Key,
    keys: Keys,
}

impl fmt::Debug for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answered(..)")
    }
}

impl Answered {
    /// client-final-message.
    pub fn message(&self) -> &[u8] {
        self.message.as_bytes()
    }

    /// Takes server-final-message. The keys log in again without the password.
    pub fn finish(self, server_final: &[u8]) -> Result<Keys, ClientError> {
        let text = text_of(server_final)?;
        if text.starts_with("e=") {
            return Err(ClientError::Refused);
        }
        let signature = text.strip_prefix("v=").and_then(key_of).ok_or(ClientError::Malformed)?;
        let is_right: bool = signature.ct_eq(&self.signature[..]).into();
        if is_right { Ok(self.keys) } else { Err(ClientError::Signature) }
    }
}

/// More than a client's message may be: a server may store a long salt.
fn text_of(message: &[u8]) -> Result<&str, ClientError> {
    let short = Some(message).filter(|message| message.len() <= 2 * SASL_BYTES_MAX);
    short.and_then(|message| std::str::from_utf8(message).ok()).ok_or(ClientError::Malformed)
}
