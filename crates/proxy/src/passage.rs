//! A server's question that the client itself is to answer, where TLS ends at the proxy.
//!
//! What it is: the removal of SCRAM-SHA-256-PLUS from a server's offer, since a client can bind to the proxy's certificate only,
//! and libpq refuses such an offer over a connection in clear. What it is not: an exchange; `login` does one where this node
//! knows the role's verifier, and there binding works on both sides. Invariant: the client's flag goes to the server as it is,
//! for it is part of what is proven: a client that says `y` (it could bind, and sees no offer) is what the server takes for the
//! victim of one who cut the offer, so it is told here why, and what to do.

use wire::message::{backend, put_frame};

use super::auth::messages::{Authentication, SASL_BYTES_MAX, SaslInitial};
use super::auth::scram::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use super::login::Incoming;
use super::refusal::Refusal;
use super::servers::Opened;
use super::tls::Stream;
use tokio::io::AsyncWriteExt;

/// Why a session does not begin.
#[derive(Debug)]
pub enum NotPassed {
    Left,
    Refused(Refusal),
}

/// Makes of the server's answer what the client can answer. What the client has answered here goes to `early`.
pub async fn pass_on(client: &mut Stream, early: &mut Vec<u8>, opened: Opened) -> Result<Opened, NotPassed> {
    let Opened { stream, answer } = opened;
    let Some(offer) = without_plus(&answer) else { return Ok(Opened { stream, answer }) };
    if !client.is_encrypted() {
        return Ok(Opened { stream, answer: offer });
    }
    client.write_all(&offer).await.map_err(|_| NotPassed::Left)?;
    let mut incoming = Incoming { bytes: std::mem::take(early) };
    let (tag, body) = incoming.next(client, SASL_BYTES_MAX).await.ok_or(NotPassed::Left)?;
    if SaslInitial::parse(&body).and_then(|initial| initial.data).is_some_and(|data| data.starts_with(b"y")) {
        return Err(NotPassed::Refused(Refusal::Unbindable));
    }
    put_frame(early, tag, &body);
    early.append(&mut incoming.bytes);
    Ok(Opened { stream, answer: Vec::new() })
}

/// The offer that a server's whole message makes, as one without PLUS; `None` when it makes no such.
fn without_plus(answer: &[u8]) -> Option<Vec<u8>> {
    let (prefix, body) = answer.split_first_chunk::<5>()?;
    let [backend::AUTHENTICATION, word @ ..] = *prefix else { return None };
    let question =
        Authentication::parse(body).filter(|_| u32::from_be_bytes(word) as usize == body.len() + 4)?;
    if !question.offers(SCRAM_SHA_256_PLUS) || !question.offers(SCRAM_SHA_256) {
        return None;
    }
    let mut offer = Vec::new();
    Authentication::Sasl { mechanisms: b"SCRAM-SHA-256\0" }.encode(&mut offer);
    Some(offer)
}
