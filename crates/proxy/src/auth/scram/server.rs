//! The side that asks for a proof.
//!
//! `Offer` names the mechanisms, `begin` takes what the client chose, `Challenge` asks, and `check` says whether the
//! client has the password. Each step uses up the one before, so that no message is taken twice.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::keys::{Key, Keys, Verifier, digest, hmac, key_of};
use super::text::{any_attribute, attribute, is_printable};
use super::{NONCE_BYTES, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::auth::messages::SASL_BYTES_MAX;

/// The client broke the protocol, or is not served; in PostgreSQL's own words. Tells nothing of the role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub sqlstate: &'static str,
    pub message: &'static str,
    pub detail: &'static str,
}

const fn malformed(detail: &'static str) -> Violation {
    Violation { sqlstate: "08P01", message: "malformed SCRAM message", detail }
}

/// What the client chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    Plain,
    Plus,
}

/// An exchange that has not begun.
#[derive(Debug)]
pub struct Offer {
    verifier: Verifier,
    /// No proof is good enough: the verifier is a mock, or may not be used any more.
    doomed: bool,
    /// `tls-server-end-point` of the certificate that this client was shown; none without TLS.
    end_point: Option<Vec<u8>>,
}

impl Offer {
    pub fn new(verifier: Verifier, doomed: bool, end_point: Option<Vec<u8>>) -> Offer {
        Offer { verifier, doomed, end_point }
    }

    /// As AuthenticationSASL lists them.
    pub fn mechanisms(&self) -> &'static [u8] {
        match self.end_point {
            Some(_) => b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0",
            None => b"SCRAM-SHA-256\0",
        }
    }

    pub fn choose(&self, name: &[u8]) -> Result<Mechanism, Violation> {
        match name {
            name if name == SCRAM_SHA_256.as_bytes() => Ok(Mechanism::Plain),
            name if name == SCRAM_SHA_256_PLUS.as_bytes() && self.end_point.is_some() => Ok(Mechanism::Plus),
            _ => Err(Violation {
                sqlstate: "08P01",
                message: "client selected an invalid SASL authentication mechanism",
                detail: "",
            }),
        }
    }

    /// Takes client-first-message. `nonce` must be new and unpredictable.
    pub fn begin(
        self,
        mechanism: Mechanism,
        client_first: &[u8],
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Challenge, Violation> {
        self.begin_with(mechanism, client_first, &STANDARD.encode(nonce))
    }

    pub(super) fn begin_with(
        self,
        mechanism: Mechanism,
        client_first: &[u8],
        nonce: &str,
    ) -> Result<Challenge, Violation> {
        let text = text_of(client_first)?;
        let bare = self.after_gs2_header(mechanism, text)?;
        let gs2_header = &text[..text.len() - bare.len()];
        let client_nonce = client_nonce(bare)?;
        let nonce = format!("{client_nonce}{nonce}");
        let bound = match (&self.end_point, mechanism) {
            (Some(end_point), Mechanism::Plus) => &end_point[..],
            _ => &[],
        };
        let channel_binding = STANDARD.encode([gs2_header.as_bytes(), bound].concat());
        let Verifier { salt, iterations, .. } = &self.verifier;
        let message = format!("r={nonce},s={salt},i={iterations}");
        Ok(Challenge { client_first_bare: bare.to_owned(), offer: self, nonce, channel_binding, message })
    }

    /// client-first-message-bare, behind a header that goes with what was offered and chosen.
    fn after_gs2_header<'t>(&self, mechanism: Mechanism, text: &'t str) -> Result<&'t str, Violation> {
        let comma = malformed("Comma expected, but found another character.");
        let rest = match (text.as_bytes().first(), mechanism) {
            (Some(b'n' | b'y'), Mechanism::Plus) => {
                return Err(malformed(
                    "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.",
                ));
            }
            // Somebody between the two has taken PLUS out of the offer.
            (Some(b'y'), Mechanism::Plain) if self.end_point.is_some() => {
                return Err(Violation {
                    sqlstate: "28000",
                    message: "SCRAM channel binding negotiation error",
                    detail: "The client supports SCRAM channel binding but thinks the server does not.  However, this server does support channel binding.",
                });
            }
            (Some(b'n' | b'y'), Mechanism::Plain) => text[1..].strip_prefix(',').ok_or(comma)?,
            (Some(b'p'), Mechanism::Plain) => {
                return Err(malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
                ));
            }
            (Some(b'p'), Mechanism::Plus) => match attribute(text, 'p') {
                Some(("tls-server-end-point", rest)) => rest,
                Some(_) => {
                    return Err(Violation {
                        sqlstate: "08P01",
                        message: "unsupported SCRAM channel-binding type",
                        detail: "Only tls-server-end-point is supported.",
                    });
                }
                None => return Err(malformed("Expected character \"=\" for attribute \"p\".")),
            },
            _ => return Err(malformed("Unexpected channel-binding flag.")),
        };
        match rest.as_bytes().first() {
            Some(b',') => Ok(&rest[1..]),
            Some(b'a') => Err(unsupported("client uses authorization identity, but it is not supported")),
            _ => Err(malformed("Unexpected attribute in client-first-message.")),
        }
    }
}

/// A challenge that was sent.
#[derive(Debug)]
pub struct Challenge {
    offer: Offer,
    client_first_bare: String,
    /// The client's and ours.
    nonce: String,
    /// What the client must give back as `c=`.
    channel_binding: String,
    message: String,
}

/// What a whole exchange says.
#[derive(Debug)]
pub enum Proof {
    /// The client has the password. Without this message it need not believe that we have the verifier.
    Good {
        server_final: String,
        keys: Keys,
    },
    Wrong,
}

impl Challenge {
    /// server-first-message.
    pub fn message(&self) -> &[u8] {
        self.message.as_bytes()
    }

    /// Takes client-final-message.
    pub fn check(self, client_final: &[u8]) -> Result<Proof, Violation> {
        let text = text_of(client_final)?;
        let (channel_binding, rest) = attribute(text, 'c').ok_or(malformed("Expected attribute \"c\"."))?;
        let (nonce, mut rest) = attribute(rest, 'r').ok_or(malformed("Expected attribute \"r\"."))?;
        let (proof, without_proof) = loop {
            let (letter, value, after) = any_attribute(rest).ok_or(malformed("Attribute expected."))?;
            if letter == 'p' {
                if !after.is_empty() || text.ends_with(',') {
                    return Err(malformed("Garbage found at the end of client-final-message."));
                }
                break (value, &text[..text.len() - rest.len() - 1]);
            }
            rest = after;
        };
        if channel_binding != self.channel_binding {
            return Err(self.binding_violation());
        }
        if nonce != self.nonce {
            return Err(Violation {
                message: "invalid SCRAM response",
                ..malformed("Nonce does not match.")
            });
        }
        let proof = key_of(proof).ok_or(malformed("Malformed proof in client-final-message."))?;
        Ok(self.judge(&proof, without_proof))
    }

    fn binding_violation(&self) -> Violation {
        let message = match self.offer.end_point {
            Some(_) if self.channel_binding.len() > 8 => "SCRAM channel binding check failed",
            _ => "unexpected SCRAM channel-binding attribute in client-final-message",
        };
        Violation {
            sqlstate: if message.starts_with("SCRAM") { "28000" } else { "08P01" },
            message,
            detail: "",
        }
    }

    /// A doomed exchange does the same work, so that its time tells nothing.
    fn judge(&self, proof: &Key, without_proof: &str) -> Proof {
        let verifier = &self.offer.verifier;
        let parts = [&self.client_first_bare, ",", &self.message, ",", without_proof].map(str::as_bytes);
        let mut client_key = hmac(&verifier.stored_key[..], &parts);
        client_key.iter_mut().zip(proof.iter()).for_each(|(key, proof)| *key ^= proof);
        let is_good: bool = digest(&client_key[..]).ct_eq(&verifier.stored_key[..]).into();
        let signature = Zeroizing::new(STANDARD.encode(&hmac(&verifier.server_key[..], &parts)[..]));
        if is_good && !self.offer.doomed {
            Proof::Good {
                server_final: format!("v={}", *signature),
                keys: Keys::recovered(client_key, verifier),
            }
        } else {
            Proof::Wrong
        }
    }
}

const fn unsupported(message: &'static str) -> Violation {
    Violation { sqlstate: "0A000", message, detail: "" }
}

/// PostgreSQL takes bytes; ours are what is left when texts that no SCRAM message may have are refused.
fn text_of(message: &[u8]) -> Result<&str, Violation> {
    match std::str::from_utf8(message) {
        _ if message.is_empty() => Err(malformed("The message is empty.")),
        _ if message.len() > SASL_BYTES_MAX => Err(malformed("The message is too long.")),
        Ok(text) if !text.contains('\0') => Ok(text),
        Ok(_) => Err(malformed("Message length does not match input length.")),
        Err(_) => Err(malformed("The message is not UTF-8.")),
    }
}

/// The nonce of client-first-message-bare. Its user name is not looked at: the start-up packet has it.
fn client_nonce(bare: &str) -> Result<&str, Violation> {
    if bare.starts_with('m') {
        return Err(unsupported("client requires an unsupported SCRAM extension"));
    }
    let (_, rest) = attribute(bare, 'n').ok_or(malformed("Expected attribute \"n\"."))?;
    let (nonce, mut rest) = attribute(rest, 'r').ok_or(malformed("Expected attribute \"r\"."))?;
    if !is_printable(nonce) {
        return Err(Violation {
            sqlstate: "08P01",
            message: "non-printable characters in SCRAM nonce",
            detail: "",
        });
    }
    while !rest.is_empty() {
        rest = any_attribute(rest).ok_or(malformed("Attribute expected."))?.2;
    }
    Ok(nonce)
}
