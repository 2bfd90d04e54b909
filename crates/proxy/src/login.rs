//! A client whose server asks for a password: the proxy asks in its place, and logs in there by what the client proved.
//!
//! What it is: SCRAM with the client on one side, by the verifier that the cluster stores, and SCRAM with the server on the
//! other, by the key that the client's proof reveals (docs/decisions/0009-authentication.md). So the session can be logged
//! in again after a takeover. What it is not: a decision who may come in; the server has asked, by its own pg_hba.conf, and
//! judges the log-in as any other, a wrong password included. Where the verifier is not known here, or is not the server's,
//! the exchange passes through as it is. Invariant: the client hears that it is in from the server alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::random;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use wire::message::{Framer, Piece, backend, put_frame};
use zeroize::Zeroizing;

use super::Questions;
use super::auth::attempt::{Applicant, Attempt, Means, Method, Pretence, Random, Step};
use super::auth::denial::Denial;
use super::auth::hba::Password;
use super::auth::messages::{self, ANSWER_BYTES_MAX, Authentication, SASL_BYTES_MAX, SaslInitial};
use super::auth::roles::{Role, Secret};
use super::auth::scram::{
    Answered, Binding, ClientSecret, Keys, Mock, NONCE_BYTES, Opening, SCRAM_SHA_256, SCRAM_SHA_256_PLUS,
};
use super::clients::Demand;
use super::doors::{Door, Proof};
use super::servers::Opened;
use super::tally::{Owner, startup_value};
use super::tls::Stream;

/// For a look into the local server's catalog; without an answer the exchange passes through.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);
/// For a server's next message in an exchange; each takes milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const WRONG_PASSWORD: &str = "28P01";
const CLOSED: &str = "it closed the connection";

/// How a client came in without a server.
pub enum Passed {
    /// The server is to say.
    Unsure,
    In {
        /// What the client hears before AuthenticationOk.
        said: Vec<u8>,
        keys: Option<Keys>,
    },
    Denied(Denial),
    Left,
}

/// Lets a client in by a door that a server has opened before. What the client sends beyond its answers goes to `early`.
pub async fn pass(
    door: &Door,
    questions: &Questions,
    user: &str,
    client: &mut Stream,
    early: &mut Vec<u8>,
    demand: Demand,
) -> Passed {
    let by_server = !matches!(door.proof, Proof::Nothing);
    if !by_server && demand == Demand::Nothing {
        return Passed::In { said: Vec::new(), keys: None };
    }
    let fits = |role: &Role| match door.proof {
        Proof::Nothing => matches!(role.secret, Secret::Scram(_)),
        _ => door.proof.is_of(&role.secret),
    };
    let Some(role) = role(questions, user).await.filter(fits) else {
        return Passed::Unsure;
    };
    match ask(user, &role, client, early).await {
        // Keys are for servers that ask.
        Ok((keys, said)) => Passed::In { said, keys: Some(keys).filter(|_| by_server) },
        Err(Entered::Denied(denial)) => Passed::Denied(denial),
        Err(_) => Passed::Left,
    }
}

/// What the catalog knows of the user; `None` also when nobody can tell in time.
pub async fn role(questions: &Questions, user: &str) -> Option<Role> {
    let secrets = questions.secrets.as_deref()?;
    timeout(QUESTION_TIMEOUT, secrets.role(user)).await.ok().flatten()
}

/// With what a session was let in, and can be let in again.
#[derive(Debug)]
pub struct Login {
    pub startup: Vec<u8>,
    /// Of a client that proved its password to the proxy.
    pub keys: Option<Keys>,
}

impl Login {
    pub fn owner(&self) -> Owner {
        Owner::of(&self.startup)
    }

    pub fn application_name(&self) -> String {
        startup_value(&self.startup, "application_name").unwrap_or_default()
    }
}

/// How the log-in went.
pub enum Entered {
    /// The server's question is for the client to answer.
    Through(Opened),
    /// The server refuses the client; what it says of that.
    Refused(Opened),
    /// The client has proven its password; the server's last word on it is still to come.
    Proven {
        opened: Opened,
        keys: Keys,
    },
    /// The verifier is not the server's any more; the server is to be opened anew, and its question to pass through. The
    /// client has been asked nothing yet.
    Stale,
    Denied(Denial),
    /// The server ended the exchange half way, or is not one that has the role's verifier.
    Broken(&'static str),
    Left,
}

/// Asks the client in the server's place where that is possible; `asked` says from when on. What the client sends beyond
/// its answers goes to `early`.
pub async fn enter(
    questions: &Questions,
    user: &str,
    client: &mut Stream,
    early: &mut Vec<u8>,
    asked: &AtomicBool,
    opened: Opened,
) -> Entered {
    if !asks_for_scram(&opened.answer) {
        return Entered::Through(opened);
    }
    let known = role(questions, user).await;
    let Some(Role { secret: secret @ Secret::Scram(_), .. }) = known else { return Entered::Through(opened) };
    let Opened { stream: mut server, answer } = opened;
    let nonce: [u8; NONCE_BYTES] = std::array::from_fn(|_| random());
    let binding = binding(server.end_point(), Authentication::parse(&answer[5..]));
    let Some((first, from_server)) = servers_first(&mut server, &binding, nonce).await else {
        return Entered::Stale;
    };
    if !is_of(&first, &secret) {
        return Entered::Stale;
    }
    asked.store(true, Ordering::Relaxed);
    // Whether the role may log in, and until when, is the server's to say.
    let role = Role { can_login: true, superuser: false, secret, valid_until: None, member_of: Vec::new() };
    let (keys, last) = match ask(user, &role, client, early).await {
        Ok(proven) => proven,
        // The server says so itself, in its log too, and as slowly as it was told to (auth_delay).
        Err(Entered::Denied(denial)) if denial.sqlstate == WRONG_PASSWORD => {
            return match send_wrong_proof(&mut server, &binding, &first).await {
                Some(()) => Entered::Refused(Opened { stream: server, answer: from_server.bytes }),
                None => Entered::Broken(CLOSED),
            };
        }
        Err(entered) => return entered,
    };
    let opening = Opening::new(ClientSecret::Keys(keys.clone()), binding, nonce);
    match prove(&mut server, from_server, &first, opening).await {
        Ok(Answer::Welcome(answer)) => match client.write_all(&last).await {
            Ok(()) => Entered::Proven { opened: Opened { stream: server, answer }, keys },
            Err(_) => Entered::Left,
        },
        Ok(Answer::Refusal(answer)) => Entered::Refused(Opened { stream: server, answer }),
        Err(why) => Entered::Broken(why),
    }
}

/// True when the server has let the client in without a question; `None` when it has not said so far.
fn is_let_in_unasked(answer: &[u8]) -> Option<bool> {
    let mut framer = Framer::new(|_| 4);
    let mut at = 0;
    while let Ok(Some(piece)) = framer.next(&answer[at..]) {
        match piece {
            Piece::Frame(frame) if frame.tag == backend::AUTHENTICATION => return Some(frame.head == [0; 4]),
            Piece::Frame(frame) if frame.tag == backend::ERROR_RESPONSE => return Some(false),
            // What it says of the protocol comes before.
            Piece::Frame(frame) => at += frame.bytes.len(),
            Piece::Rest(rest) => at += rest.len(),
        }
    }
    None
}

/// The same, once the server has said so; `None` when it leaves first.
pub async fn hear_question(opened: &mut Opened) -> Option<bool> {
    loop {
        if let Some(unasked) = is_let_in_unasked(&opened.answer) {
            return Some(unasked);
        }
        if opened.stream.read_buf(&mut opened.answer).await.ok()? == 0 {
            return None;
        }
    }
}

/// One whole message, and no other.
fn asks_for_scram(answer: &[u8]) -> bool {
    let Some((prefix, body)) = answer.split_first_chunk::<5>() else { return false };
    let [backend::AUTHENTICATION, word @ ..] = *prefix else { return false };
    u32::from_be_bytes(word) as usize == body.len() + 4
        && Authentication::parse(body).is_some_and(|question| question.offers(SCRAM_SHA_256))
}

/// Begins the exchange with the server, which names the salt of its verifier.
async fn servers_first(
    server: &mut Stream,
    binding: &Binding,
    nonce: [u8; NONCE_BYTES],
) -> Option<(Vec<u8>, Incoming)> {
    // What a client says first is the same whatever its secret.
    let nobody = ClientSecret::Password(Zeroizing::default());
    let out = initial(&Opening::new(nobody, binding.clone(), nonce));
    let mut incoming = Incoming::default();
    let (tag, body) = timeout(ANSWER_TIMEOUT, async {
        server.write_all(&out).await.ok()?;
        incoming.next(server, ANSWER_BYTES_MAX).await
    })
    .await
    .ok()??;
    match Authentication::parse(&body).filter(|_| tag == backend::AUTHENTICATION) {
        Some(Authentication::SaslContinue(data)) => Some((data.to_vec(), incoming)),
        _ => None,
    }
}

/// The strongest that goes with the connection and the server's offer.
fn binding(end_point: Option<&[u8]>, offer: Option<Authentication<'_>>) -> Binding {
    let offers_plus = offer.is_some_and(|offer| offer.offers(SCRAM_SHA_256_PLUS));
    match end_point {
        None => Binding::None,
        Some(end_point) if offers_plus => Binding::EndPoint(end_point.to_vec()),
        Some(_) => Binding::NotOffered,
    }
}

/// The first message to a server.
fn initial(opening: &Opening) -> Vec<u8> {
    let mut out = Vec::new();
    let message = opening.message();
    SaslInitial { mechanism: opening.mechanism().as_bytes(), data: Some(message.as_bytes()) }
        .encode(&mut out);
    out
}

/// A new password has a new salt: the server's message is that of this very secret.
fn is_of(server_first: &[u8], secret: &Secret) -> bool {
    let Secret::Scram(verifier) = secret else { return false };
    let text = String::from_utf8_lossy(server_first);
    let attribute = |name: &str| text.split(',').find_map(|part| part.strip_prefix(name));
    attribute("s=") == Some(verifier.salt())
        && attribute("i=") == Some(verifier.iterations().to_string().as_str())
}

/// The exchange with the client: the keys that it proved to have, and what it is to hear once the server has agreed.
pub async fn ask(
    user: &str,
    role: &Role,
    client: &mut Stream,
    early: &mut Vec<u8>,
) -> Result<(Keys, Vec<u8>), Entered> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
    let end_point = client.end_point().map(<[u8]>::to_vec);
    let applicant = Applicant { user, role: Some(role), end_point: end_point.as_deref(), now };
    let pretence = Pretence { mock: Mock::new(random(), 4096), prefers_md5: false };
    let random = Random { nonce: std::array::from_fn(|_| random()), salt: random() };
    let mut step = Attempt::begin(&Method::Password(Password::ScramSha256), &applicant, &pretence, random);
    let mut incoming = Incoming { bytes: std::mem::take(early) };
    loop {
        match step {
            Step::Ask { send, attempt } => {
                client.write_all(&send).await.map_err(|_| Entered::Left)?;
                let (tag, body) = incoming.next(client, SASL_BYTES_MAX).await.ok_or(Entered::Left)?;
                step = attempt.answer(tag, &body);
            }
            Step::Granted { mut send, means: Means::Scram(keys) } => {
                // AuthenticationOk comes with all that follows it.
                let mut ok = Vec::new();
                Authentication::Ok.encode(&mut ok);
                send.truncate(send.len() - ok.len());
                *early = incoming.bytes;
                return Ok((keys, send));
            }
            Step::Granted { .. } => return Err(Entered::Left),
            Step::Denied(denial) => return Err(Entered::Denied(denial)),
        }
    }
}

/// What a server says to the right proof.
enum Answer {
    /// It knows the verifier; what came behind that.
    Welcome(Vec<u8>),
    /// Its error, for the client.
    Refusal(Vec<u8>),
}

/// A proof that is right once in 2^256 times.
async fn send_wrong_proof(server: &mut Stream, binding: &Binding, server_first: &[u8]) -> Option<()> {
    let text = std::str::from_utf8(server_first).ok()?;
    let nonce = text.split(',').find_map(|part| part.strip_prefix("r="))?;
    let (bound, proof) = (binding.input(), STANDARD.encode(random::<[u8; 32]>()));
    let mut out = Vec::new();
    messages::put_sasl_response(&mut out, format!("c={bound},r={nonce},p={proof}").as_bytes());
    server.write_all(&out).await.ok()
}

/// Shows the server the client's key. Whatever it says before its signature was right is no welcome.
async fn prove(
    server: &mut Stream,
    mut incoming: Incoming,
    first: &[u8],
    opening: Opening,
) -> Result<Answer, &'static str> {
    let odd = "it does not do the exchange that it asked for";
    let answered = opening.answer(first).map_err(|_| odd)?;
    let mut out = Vec::new();
    messages::put_sasl_response(&mut out, answered.message());
    let exchange = async {
        server.write_all(&out).await.ok()?;
        incoming.next(server, ANSWER_BYTES_MAX).await
    };
    let answer = timeout(ANSWER_TIMEOUT, exchange).await.map_err(|_| "it fell silent")?;
    let (tag, body) = answer.ok_or(CLOSED)?;
    if tag == backend::ERROR_RESPONSE {
        let mut refusal = Vec::new();
        put_frame(&mut refusal, tag, &body);
        return Ok(Answer::Refusal([refusal, incoming.bytes].concat()));
    }
    match Authentication::parse(&body).filter(|_| tag == backend::AUTHENTICATION) {
        Some(Authentication::SaslFinal(data)) => match answered.finish(data) {
            Ok(_) => Ok(Answer::Welcome(incoming.bytes)),
            Err(_) => Err("it does not know the role's secret"),
        },
        _ => Err(odd),
    }
}

/// Whole messages of one side, and what came behind them.
#[derive(Default)]
pub struct Incoming {
    pub bytes: Vec<u8>,
}

impl Incoming {
    /// `None` when the side has left, or its next message has more than `body_max` bytes.
    pub async fn next<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        body_max: usize,
    ) -> Option<(u8, Zeroizing<Vec<u8>>)> {
        loop {
            if let Some(prefix) = self.bytes.first_chunk::<5>() {
                let [tag, word @ ..] = *prefix;
                let length = (u32::from_be_bytes(word) as usize).checked_sub(4)?;
                if length > body_max {
                    return None;
                }
                if self.bytes.len() >= 5 + length {
                    let rest = self.bytes.split_off(5 + length);
                    let whole = Zeroizing::new(std::mem::replace(&mut self.bytes, rest));
                    return Some((tag, Zeroizing::new(whole[5..].to_vec())));
                }
            }
            let read = stream.read_buf(&mut self.bytes).await.ok()?;
            if read == 0 {
                return None;
            }
        }
    }
}

/// The log-in at another server with the keys of before.
pub struct Entry {
    keys: Option<Keys>,
    /// To what the exchange can be bound.
    end_point: Option<Vec<u8>>,
    stage: Stage,
}

enum Stage {
    Begun,
    Opened(Opening),
    Answered(Answered),
    Done,
}

impl Entry {
    pub fn new(keys: Option<Keys>, end_point: Option<&[u8]>) -> Entry {
        Entry { keys, end_point: end_point.map(<[u8]>::to_vec), stage: Stage::Begun }
    }

    /// A server's Authentication message: what to answer, empty for nothing. The error says why there is no way in.
    pub fn hear(&mut self, body: &[u8]) -> Result<Vec<u8>, String> {
        let question = Authentication::parse(body);
        let stage = std::mem::replace(&mut self.stage, Stage::Done);
        let mut out = Vec::new();
        match (question, stage, self.keys.take()) {
            // Where it owes a signature, its word alone does not count.
            (Some(Authentication::Ok), Stage::Begun | Stage::Done, _) => {}
            (Some(sasl @ Authentication::Sasl { .. }), Stage::Begun, Some(keys))
                if sasl.offers(SCRAM_SHA_256) =>
            {
                let nonce = std::array::from_fn(|_| random());
                let binding = binding(self.end_point.as_deref(), Some(sasl));
                let opening = Opening::new(ClientSecret::Keys(keys), binding, nonce);
                out = initial(&opening);
                self.stage = Stage::Opened(opening);
            }
            (Some(Authentication::SaslContinue(data)), Stage::Opened(opening), _) => {
                let answered = opening.answer(data).map_err(|error| error.to_string())?;
                messages::put_sasl_response(&mut out, answered.message());
                self.stage = Stage::Answered(answered);
            }
            (Some(Authentication::SaslFinal(data)), Stage::Answered(answered), _) => {
                answered.finish(data).map_err(|error| error.to_string())?;
            }
            _ => return Err("it asks for a secret that only the client has".to_owned()),
        }
        Ok(out)
    }
}
