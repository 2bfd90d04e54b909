//! Connections to servers: how many there are of each, and how a new one is opened.
//!
//! What it is: the counts that balance the read-only port, the limit on simultaneous openings, and the opening itself
//! up to the server's first answer. What it is not: a pool; each session has a server of its own until it ends.
//! Invariant: a failed opening has shown the client nothing, so the session can try again elsewhere.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wire::ErrorFields;
use wire::message::backend;

use super::admission::Way;
use super::backend::{Choice, Role};
use super::ceilings::Place;
use super::listener::set_socket_options;
use super::tls::{Stream, Tls};
use super::topology::Topology;

/// Simultaneous openings of one server. A fork of PostgreSQL costs a few milliseconds, so 32 keep two cores busy and
/// a thousand waiting clients are in after about a second, without a thousand forks in the first one.
const OPENINGS_MAX: usize = 32;
/// From the start-up packet to the server's first byte. A healthy server answers in milliseconds; slow name
/// resolution for pg_hba may take seconds. A hung one is left earlier when the topology says so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// An error that refuses a login is far smaller; a longer one is no message.
const FIRST_ERROR_MAX: usize = 16 * 1024;

/// How long a replica that could not be opened is left out, the first time; then twice as long each time, at most `EJECTED_MAX`.
const EJECTED_FIRST: Duration = Duration::from_secs(1);
const EJECTED_MAX: Duration = Duration::from_secs(32);
/// One tries a server whose time is over, for the others; longer than the opening of a server that is silent.
const PROBED_FOR: Duration = Duration::from_secs(3);

/// All servers that have sessions or may get some.
#[derive(Default, Debug)]
pub struct Servers {
    by_address: Mutex<BTreeMap<String, Arc<Server>>>,
    /// Where the last round began, so that equal servers take turns.
    turn: AtomicUsize,
    ejected: Mutex<BTreeMap<String, Ejected>>,
}

/// A server that could not be opened lately.
#[derive(Debug)]
struct Ejected {
    /// In a row.
    failures: u32,
    /// Others are asked before.
    until: Instant,
    /// Somebody tries it for all.
    is_probed: bool,
}

#[derive(Debug)]
struct Server {
    address: Arc<str>,
    sessions: AtomicUsize,
    openings: Semaphore,
}

impl Servers {
    /// Takes a seat on the least used of the best servers that are not in `failed`, or where the way prefers it. A replica that is
    /// out is taken when there is nothing else.
    pub fn pick(&self, way: &Way, topology: &Topology, failed: &[String]) -> Option<(Choice, Seat)> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let untried = |choice: &Choice| !failed.contains(&choice.backend.address);
        let classes = Choice::candidates(way.port, topology).map(|mut class| {
            class.retain(untried);
            class
        });
        // Nothing is kept of those that are listed no more: when they come back they are new.
        let is_listed = |address: &String| {
            topology.replicas.iter().chain(&topology.primary).any(|backend| backend.address == *address)
        };
        lock(&self.ejected).retain(|address, _| is_listed(address));
        let is_in = |choice: &Choice| choice.role == Role::Primary || self.may_try(&choice.backend.address);
        let all_in = classes.iter().map(|class| class.iter().filter(|choice| is_in(choice)).collect());
        let classes: Vec<Vec<&Choice>> =
            all_in.chain(classes.iter().map(|class| class.iter().collect())).collect();
        let class = classes.iter().find(|class| !class.is_empty())?;
        let mut by_address = lock(&self.by_address);
        let sessions = |choice: &&&Choice| {
            by_address.get(&choice.backend.address).map_or(0, |s| s.sessions.load(Ordering::Relaxed))
        };
        let start = turn % class.len();
        let preferred = class.iter().find(|choice| way.prefers.as_ref() == Some(&choice.backend.address));
        let choice = preferred.or_else(|| class[start..].iter().chain(&class[..start]).min_by_key(sessions));
        let choice: Choice = (**choice?).clone();
        // Those that nobody uses go, so that the map stays as small as the cluster.
        by_address
            .retain(|address, server| *address == choice.backend.address || Arc::strong_count(server) > 1);
        let server = by_address
            .entry(choice.backend.address.clone())
            .or_insert_with_key(|address| Arc::new(Server::new(address)));
        server.sessions.fetch_add(1, Ordering::Relaxed);
        self.probe(&choice.backend.address);
        Some((choice, Seat { server: Arc::clone(server), _place: Place::default() }))
    }

    /// It could not be opened: for some time others are asked first.
    pub fn failed(&self, address: &str) {
        let now = Instant::now();
        let mut ejected = lock(&self.ejected);
        let new = || Ejected { failures: 0, until: now, is_probed: true };
        let server = ejected.entry(address.to_owned()).or_insert_with(new);
        // Openings that began before it was left out tell nothing new.
        if !std::mem::take(&mut server.is_probed) {
            return;
        }
        let for_so_long = EJECTED_FIRST.saturating_mul(1 << server.failures.min(16)).min(EJECTED_MAX);
        (server.failures, server.until) = (server.failures + 1, now + for_so_long);
    }

    /// It could be opened.
    pub fn works(&self, address: &str) {
        lock(&self.ejected).remove(address);
    }

    /// It was not found out of order lately, or that is long ago.
    pub fn may_try(&self, address: &str) -> bool {
        lock(&self.ejected).get(address).is_none_or(|server| server.until <= Instant::now())
    }

    /// Somebody tries it: until he knows, nobody else does.
    fn probe(&self, address: &str) {
        let now = Instant::now();
        if let Some(server) = lock(&self.ejected).get_mut(address).filter(|server| server.until <= now) {
            (server.until, server.is_probed) = (now + PROBED_FOR, true);
        }
    }
}

impl Server {
    fn new(address: &str) -> Server {
        Server {
            address: address.into(),
            sessions: AtomicUsize::new(0),
            openings: Semaphore::new(OPENINGS_MAX),
        }
    }
}

/// One session's place on a server, counted until it is dropped.
#[derive(Debug)]
pub struct Seat {
    server: Arc<Server>,
    _place: Place,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.server.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A server that has answered the start-up packet.
#[derive(Debug)]
pub struct Opened {
    pub stream: Stream,
    /// What it has said so far; the client has not seen it yet.
    pub answer: Vec<u8>,
}

/// Why no session could begin there now. Everything else, a refusal by pg_hba for instance, is the client's to see.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("connecting to {address} failed: {source}")]
    Connect { address: String, source: io::Error },
    #[error("{address} did not answer within {} ms", .after.as_millis())]
    Silent { address: String, after: Duration },
    #[error("{address} closed the connection before it answered")]
    Closed { address: String },
    /// SQLSTATE 57P03: starting up, shutting down, in recovery.
    #[error("{address} says: {message}")]
    NotNow { address: String, message: String },
}

impl Seat {
    /// Keeps the place among all servers as long as the seat.
    pub fn hold(&mut self, place: Place) {
        self._place = place;
    }

    pub fn address(&self) -> &Arc<str> {
        &self.server.address
    }

    /// Connects, by `socket` if there is one that can be connected to, encrypts, sends the client's start-up packet as it is and
    /// waits for the first answer.
    pub async fn open(
        &self,
        startup: &[u8],
        socket: Option<&Path>,
        connect_timeout: Duration,
        tls: &Tls,
    ) -> Result<Opened, OpenError> {
        let address = || self.server.address.to_string();
        // The semaphore is never closed; without a permit the opening would only be less bounded.
        let _permit = self.server.openings.acquire().await.ok();
        let connect = async {
            let nearby = match socket {
                Some(socket) => UnixStream::connect(socket).await.and_then(Stream::try_from).ok(),
                None => None,
            };
            let mut stream = match nearby {
                Some(stream) => stream,
                None => {
                    let stream = TcpStream::connect(&*self.server.address).await?;
                    set_socket_options(&stream);
                    let mut stream = Stream::from(stream);
                    tls.encrypt(&mut stream, &self.server.address).await?;
                    stream
                }
            };
            stream.write_all(startup).await?;
            Ok(stream)
        };
        let mut stream = timeout(connect_timeout, connect)
            .await
            .map_err(|_| OpenError::Silent { address: address(), after: connect_timeout })?
            .map_err(|source| OpenError::Connect { address: address(), source })?;
        let answer = timeout(ANSWER_TIMEOUT, first_answer(&mut stream))
            .await
            .map_err(|_| OpenError::Silent { address: address(), after: ANSWER_TIMEOUT })?
            .ok_or_else(|| OpenError::Closed { address: address() })?;
        match not_now(&answer) {
            Some(message) => Err(OpenError::NotNow { address: address(), message }),
            None => Ok(Opened { stream, answer }),
        }
    }
}

/// The first bytes, and the whole message when it is an error; `None` when the server ends before.
async fn first_answer(stream: &mut Stream) -> Option<Vec<u8>> {
    let mut answer = Vec::with_capacity(1024);
    loop {
        let read = stream.read_buf(&mut answer).await.ok()?;
        if read == 0 {
            return None;
        }
        if answer[0] != backend::ERROR_RESPONSE || error_body(&answer).is_some() {
            return Some(answer);
        }
        // A postmaster that cannot fork answers `E` and bare text, without a length, and closes.
        if answer.len() > FIRST_ERROR_MAX {
            return None;
        }
    }
}

fn error_body(answer: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = answer.split_first_chunk::<5>()?;
    let [backend::ERROR_RESPONSE, word @ ..] = *prefix else { return None };
    rest.get(..(u32::from_be_bytes(word) as usize).checked_sub(4)?)
}

fn not_now(answer: &[u8]) -> Option<String> {
    let fields = ErrorFields::new(error_body(answer)?);
    (fields.sqlstate() == Some(b"57P03"))
        .then(|| String::from_utf8_lossy(fields.message().unwrap_or_default()).into_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
