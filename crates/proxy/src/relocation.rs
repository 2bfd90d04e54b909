//! A session between two servers: its old one is gone, and it is given another without its client's help.
//!
//! What it is: the wait for a primary, the login there with the client's own start-up packet, and the replay of what
//! the session had (`ties`). What it is not: a second try of anything that the client asked; a session is here only
//! when nothing of it is under way. Invariant: the client is told nothing before the new server is as the old one was,
//! so a failure on the way leaves it where it was.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use wire::ErrorFields;
use wire::message::{Framer, Piece, backend};

use super::Shared;
use super::admission::{Search, Way, find};
use super::auth::scram::Keys;
use super::backend::Choice;
use super::ledger::backend_wanted;
use super::login::{Entry, Login};
use super::refusal::{CutCause, Refusal};
use super::servers::{Opened, Seat};
use super::ties::{Parameters, Replay, reported};
use super::tls::Stream;

/// For the login without questions and for the replay: each takes milliseconds on a server that is well.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// After a server that would not let the session in now. A thousand sessions make ten thousand tries a second at most,
/// of which `servers` lets 32 through at a time.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Bytes of an answer to a login or a replay; parameters and a key take about 600.
const ANSWER_MAX: usize = 64 * 1024;

/// The new server, as far as the old one was.
#[derive(Debug)]
pub struct Relocated {
    pub choice: Choice,
    pub seat: Seat,
    pub stream: Stream,
    pub welcome: Welcome,
    /// What it has said since.
    pub rest: Vec<u8>,
    /// It could be had at once: the server that ended the session has not been away.
    pub at_once: bool,
}

/// What a server has said up to its ReadyForQuery.
#[derive(Default, Debug)]
pub struct Welcome {
    /// The body of BackendKeyData.
    pub key: Vec<u8>,
    pub parameters: Parameters,
}

/// Why a server did not take the session.
enum Hitch {
    /// It may later, or another may.
    NotNow(String),
    Never(String),
}

/// Waits for a server until `queue_timeout` and makes it like the old one.
pub async fn relocate(
    shared: &Shared,
    way: &Way,
    login: &Login,
    replay: &Replay,
) -> Result<Relocated, Refusal> {
    let started = Instant::now();
    let deadline = started + shared.config.queue_timeout.max(shared.config.connect_timeout);
    let startup = &login.startup;
    let mut search = Search { way, startup, deadline, queues: false, minds_pause: false, is_in: true };
    let mut at_once = shared.topology.borrow().held_until().is_none();
    let anywhere = Way { prefers: None, ..*way };
    loop {
        let found = find(shared, &search).await.map_err(|refusal| match refusal {
            Refusal::QueueTimeout { reason, .. } => {
                Refusal::cut(CutCause::Stranded { waited: started.elapsed(), reason })
            }
            other => other,
        })?;
        at_once &= found.at_once;
        let (choice, seat, is_nearby) = (found.choice, found.seat, found.opened.stream.is_nearby());
        let mut watched = shared.topology.clone();
        let settled = tokio::select! {
            biased;
            // What happened is in the topology, which is read again at once.
            cause = choice.until_cut(&mut watched) => match cause {
                CutCause::AgentGone => return Err(Refusal::cut(cause)),
                _ => {
                    at_once = false;
                    continue;
                }
            },
            settled = timeout_at(deadline, settle(found.opened, login.keys.clone(), replay)) => settled,
        };
        let reason = match settled {
            Ok(Ok((stream, welcome, rest))) => {
                shared.servers.works(&choice.backend.address);
                if !search.is_in && shared.nearby.socket_to(&choice.backend, startup).is_some() {
                    shared.nearby.refuses(startup);
                }
                return Ok(Relocated { choice, seat, stream, welcome, rest, at_once });
            }
            Ok(Err(Hitch::Never(reason))) if is_nearby => {
                tracing::debug!(
                    reason,
                    "a session is not taken at the Unix socket of this node's server; TCP is used"
                );
                search.is_in = false;
                continue;
            }
            Ok(Err(Hitch::Never(reason))) => {
                return Err(Refusal::cut(CutCause::NotTaken { node: choice.backend.node, reason }));
            }
            Ok(Err(Hitch::NotNow(reason))) => reason,
            Err(_) => "it did not answer in time".to_owned(),
        };
        tracing::debug!(node = choice.backend.node, reason, "moving a session failed");
        shared.servers.failed(&choice.backend.address);
        search.way = &anywhere;
        if Instant::now() + RETRY_AFTER >= deadline {
            return Err(Refusal::cut(CutCause::NotTaken { node: choice.backend.node, reason }));
        }
        at_once = false;
        drop(seat);
        sleep(RETRY_AFTER).await;
    }
}

async fn settle(
    opened: Opened,
    keys: Option<Keys>,
    replay: &Replay,
) -> Result<(Stream, Welcome, Vec<u8>), Hitch> {
    let Opened { mut stream, answer } = opened;
    let silent = |_| Hitch::NotNow("it fell silent".to_owned());
    let mut reader = Reader {
        bytes: answer,
        framer: Framer::new(wanted),
        entry: Entry::new(keys, stream.end_point()),
        welcome: Welcome::default(),
    };
    timeout(STEP_TIMEOUT, reader.until_ready(&mut stream)).await.map_err(silent)??;
    if replay.answers > 0 {
        let lost = |error: std::io::Error| Hitch::NotNow(error.to_string());
        timeout(STEP_TIMEOUT, stream.write_all(&replay.bytes)).await.map_err(silent)?.map_err(lost)?;
    }
    for left in (0..replay.answers).rev() {
        let answered = timeout(STEP_TIMEOUT, reader.until_ready(&mut stream)).await.map_err(silent)?;
        match answered {
            Err(Hitch::Never(_)) if left == 0 && replay.last_may_fail => {
                // The error is behind us, its ReadyForQuery is not.
                timeout(STEP_TIMEOUT, reader.until_ready(&mut stream)).await.map_err(silent)??;
            }
            answered => answered?,
        }
    }
    Ok((stream, reader.welcome, reader.bytes))
}

/// Reads the answers of a server that nobody else listens to.
struct Reader {
    bytes: Vec<u8>,
    framer: Framer,
    entry: Entry,
    welcome: Welcome,
}

/// As the relay's, and each message of a log-in as a whole.
fn wanted(tag: u8) -> usize {
    match tag {
        backend::AUTHENTICATION => ANSWER_MAX,
        other => backend_wanted(other),
    }
}

impl Reader {
    /// Up to the next ReadyForQuery, or the first error.
    async fn until_ready<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: &mut S) -> Result<(), Hitch> {
        loop {
            let mut at = 0;
            let mut met = None;
            let mut reply = Vec::new();
            while met.is_none() {
                let piece =
                    self.framer.next(&self.bytes[at..]).map_err(|error| Hitch::Never(error.to_string()))?;
                let Some(piece) = piece else { break };
                at += match piece {
                    Piece::Rest(rest) => rest.len(),
                    Piece::Frame(frame) if frame.tag == backend::AUTHENTICATION => {
                        reply.extend(self.entry.hear(frame.head).map_err(Hitch::Never)?);
                        frame.bytes.len()
                    }
                    Piece::Frame(frame) => {
                        met = self.welcome.hear(frame.tag, frame.head).transpose();
                        frame.bytes.len()
                    }
                };
            }
            self.bytes.drain(..at);
            if let Some(met) = met {
                return met;
            }
            stream.write_all(&reply).await.map_err(|error| Hitch::NotNow(error.to_string()))?;
            if self.bytes.len() > ANSWER_MAX {
                return Err(Hitch::Never("its answer has no end".to_owned()));
            }
            match stream.read_buf(&mut self.bytes).await {
                Ok(1..) => {}
                Ok(0) => return Err(Hitch::NotNow("it closed the connection".to_owned())),
                Err(error) => return Err(Hitch::NotNow(error.to_string())),
            }
        }
    }
}

impl Welcome {
    /// `Some` when a ReadyForQuery came.
    fn hear(&mut self, tag: u8, head: &[u8]) -> Result<Option<()>, Hitch> {
        match tag {
            backend::READY_FOR_QUERY => return Ok(Some(())),
            backend::ERROR_RESPONSE => return Err(hitch(head)),
            backend::KEY_DATA => self.key = head.to_vec(),
            backend::PARAMETER_STATUS => {
                if let Some((name, value)) = reported(head) {
                    self.parameters.retain(|(known, _)| known != name);
                    self.parameters.push((name.to_owned(), value.to_owned()));
                }
            }
            _ => {}
        }
        Ok(None)
    }
}

/// 57P03 and 53300 pass by themselves, and so does a server that is told to stop; nothing else does.
fn hitch(error: &[u8]) -> Hitch {
    let fields = ErrorFields::new(error);
    let message = String::from_utf8_lossy(fields.message().unwrap_or_default()).into_owned();
    match fields.sqlstate() {
        Some(b"57P01" | b"57P02" | b"57P03" | b"53300") => Hitch::NotNow(message),
        _ => Hitch::Never(message),
    }
}
