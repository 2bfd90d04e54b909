//! One session from the moment it has a server to its end.
//!
//! What it is: reading and writing while something is ready, and what happens when a side ends or the server may not be used
//! any more. What it is not: what bytes mean (`relay`), nor the search for another server (`relocation`). Invariant: when
//! the choice of its server becomes wrong, that connection is closed before anything else is done; then the session is moved
//! when that is possible without lying, or the client is told, at a message boundary or not at all.

use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::fd::BorrowedFd;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use wire::startup::CancelKey;

use super::socket::{Discarded, Socket};
use super::{Adopted, Call, Mail, Mailbox, SessionId};
use crate::backend::{Choice, Role};
use crate::lane::Lane;
use crate::ledger::backend_wanted;
use crate::login::Login;
use crate::refusal::{CutCause, Refusal};
use crate::relay::{End, Relay, Surroundings};
use crate::relocation::{Relocated, relocate};
use crate::servers::Seat;
use crate::{Counters, Shared, Stage};

/// From the server's first answer to its first ReadyForQuery: PostgreSQL's greatest `authentication_timeout` and a
/// little, so that the server's own limit speaks first.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(610);
/// For a last message to a client that may read no more, and for the client to close.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// For a server to finish what a client asked and did not wait for, as it would without a proxy.
const LINGER: Duration = Duration::from_secs(10);
/// Reads in one direction before the other sessions have their turn.
const READS_MAX: usize = 16;

/// Which of a session's sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Client,
    Server,
}

impl Side {
    pub fn of(data: u64) -> Side {
        if data & 1 == 0 { Side::Client } else { Side::Server }
    }

    fn data(self, id: SessionId) -> u64 {
        u64::from(id.place) << 1 | u64::from(self == Side::Server)
    }
}

/// What a session can use while it acts.
pub struct Around<'a> {
    pub id: SessionId,
    pub shared: &'a Arc<Shared>,
    pub mailbox: &'a Arc<Mailbox>,
    pub runtime: &'a Handle,
    pub epoll: BorrowedFd<'a>,
    pub buffer: &'a mut [u8],
    pub again: &'a mut Vec<SessionId>,
}

/// What was said before the session came here.
pub struct Unseen {
    from_client: Vec<u8>,
    from_server: Vec<u8>,
}

pub struct Session {
    client: Socket,
    phase: Phase,
    relay: Relay,
    choice: Choice,
    /// What the server's load is counted by.
    seat: Option<Seat>,
    login: Arc<Login>,
    login_until: Option<Instant>,
    waker: Waker,
    _permit: OwnedSemaphorePermit,
}

enum Phase {
    Relaying {
        server: Socket,
        held_until: Option<Instant>,
    },
    /// A task looks for another server.
    Between {
        task: AbortHandle,
    },
    /// The client hears its last message, and is waited for: closing with unread bytes would reset the connection, and a
    /// reset takes back what the client has not read yet.
    Leaving {
        last: Lane,
        until: Instant,
    },
    /// The client has left, perhaps with a request under way. Closing with unread bytes would reset the connection and could
    /// take that request back, which a direct connection would not do: the server is read to the end instead.
    Lingering {
        server: Socket,
        until: Instant,
    },
}

/// The search for another server; its end is told in any case.
struct Search {
    mailbox: Arc<Mailbox>,
    id: SessionId,
    found: Option<Result<Relocated, Refusal>>,
}

impl Search {
    fn end_with(mut self, found: Result<Relocated, Refusal>) {
        self.found = Some(found);
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        // Without an answer it has panicked, or nobody waits for one.
        let found = self.found.take().unwrap_or_else(|| Err(Refusal::cut(CutCause::AgentGone)));
        self.mailbox.post(Mail::Relocated(self.id, Box::new(found)));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Phase::Between { task } = &self.phase {
            task.abort();
        }
    }
}

impl Session {
    pub fn new(
        adopted: Adopted,
        id: SessionId,
        shared: &Shared,
        mailbox: &Arc<Mailbox>,
        epoll: BorrowedFd<'_>,
    ) -> io::Result<(Session, Unseen)> {
        let Adopted { client, server, early, answer, login, books, choice, seat, permit } = adopted;
        let around =
            Surroundings { cancels: Arc::clone(&shared.cancels), counters: Arc::clone(&shared.counters) };
        let server = Socket::register(server, epoll, Side::Server.data(id))?;
        let session = Session {
            client: Socket::register(client, epoll, Side::Client.data(id))?,
            phase: Phase::Relaying { server, held_until: None },
            relay: Relay::new(books, around, Arc::clone(seat.address())),
            choice,
            seat: Some(seat),
            login,
            login_until: Some(Instant::now() + AUTHENTICATION_TIMEOUT),
            waker: Call::waker(mailbox, id),
            _permit: permit,
        };
        Ok((session, Unseen { from_client: early, from_server: answer }))
    }

    pub fn note(&mut self, side: Side, flags: EventFlags) {
        match (side, &mut self.phase) {
            (Side::Client, _) => self.client.note(flags),
            (Side::Server, Phase::Relaying { server, .. } | Phase::Lingering { server, .. }) => {
                server.note(flags)
            }
            // Of a server that has been closed.
            (Side::Server, _) => {}
        }
    }

    /// When something is to happen though nothing is heard.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Relaying { held_until, .. } => [*held_until, self.login_until].into_iter().flatten().min(),
            Phase::Between { .. } => None,
            Phase::Leaving { until, .. } | Phase::Lingering { until, .. } => Some(*until),
        }
    }

    pub fn begin(&mut self, unseen: Unseen, around: &mut Around<'_>) -> bool {
        // The choice may have become wrong on the way here.
        let stage = *around.shared.stage.borrow();
        let right = self.cause_to_part(around.shared, stage).is_none();
        let Phase::Relaying { server, .. } = &mut self.phase else { return false };
        let heard = match self.relay.hear_server(&unseen.from_server, &mut self.client) {
            Ok(()) if right => self.relay.hear_client(&unseen.from_client, server),
            Ok(()) => {
                self.relay.keep_for_later(&unseen.from_client);
                Ok(())
            }
            Err(end) => Err(end),
        };
        match heard {
            Ok(()) => self.look(around),
            Err(end) => self.ended(end, around),
        }
    }

    /// Does what can be done now; `false` when the session is over.
    pub fn step(&mut self, around: &mut Around<'_>) -> bool {
        match &mut self.phase {
            Phase::Relaying { .. } => match self.relay_some(around) {
                Ok(()) => true,
                Err(end) => self.ended(end, around),
            },
            Phase::Between { .. } => self.keep_early(around),
            Phase::Leaving { last, .. } => {
                let is_clear = last.is_clear();
                match last.write_out(&mut self.client) {
                    Err(_) => return false,
                    Ok(false) => {}
                    Ok(true) if is_clear => {}
                    Ok(true) => self.client.close_writing(),
                }
                discard(&mut self.client, around)
            }
            Phase::Lingering { server, .. } => discard(server, around),
        }
    }

    fn relay_some(&mut self, around: &mut Around<'_>) -> Result<(), End> {
        let Session { client, phase, relay, waker, login_until, .. } = self;
        let Phase::Relaying { server, .. } = phase else { return Ok(()) };
        // The server's side first: what it has said may end what the client has asked.
        let mut reads = 0;
        while relay.down.write_out(client).map_err(|_| End::ClientLeft)? {
            if reads == READS_MAX {
                around.again.push(around.id);
                break;
            }
            match server.read(around.buffer) {
                Ok(None) => break,
                Ok(Some(0)) | Err(_) => return Err(End::ServerLeft),
                Ok(Some(read)) => relay.hear_server(&around.buffer[..read], client)?,
            }
            reads += 1;
        }
        let mut reads = 0;
        while !relay.up.broken {
            match relay.write_up(server, waker) {
                Ok(true) => {}
                Ok(false) => break,
                // Its last words may still be on their way down.
                Err(_) => {
                    relay.up.broken = true;
                    break;
                }
            }
            if relay.has_backlog() {
                relay.hear_client(&[], server)?;
                continue;
            }
            if relay.is_full() {
                break;
            }
            if reads == READS_MAX {
                around.again.push(around.id);
                break;
            }
            match client.read(around.buffer) {
                Ok(None) => break,
                Ok(Some(0)) | Err(_) => return Err(End::ClientLeft),
                Ok(Some(read)) if relay.pauses() => relay.keep_for_later(&around.buffer[..read]),
                Ok(Some(read)) => relay.hear_client(&around.buffer[..read], server)?,
            }
            reads += 1;
        }
        if login_until.is_some() && relay.books.ledger.logged_in() {
            *login_until = None;
        }
        if relay.is_drained() {
            return Err(End::Drained);
        }
        relay.count_parking();
        Ok(())
    }

    /// Looks whether the server may still be used, and whether the session is to wait or to end.
    pub fn look(&mut self, around: &mut Around<'_>) -> bool {
        let stage = *around.shared.stage.borrow();
        let cause = self.cause_to_part(around.shared, stage);
        match (&mut self.phase, cause) {
            (Phase::Relaying { held_until, .. }, None) => {
                let held = around.shared.topology.borrow().held_until();
                *held_until =
                    held.filter(|_| self.choice.role == Role::Primary).map(tokio::time::Instant::into_std);
                self.relay.hold = held_until.is_some();
                self.relay.draining = stage == Stage::Draining;
                self.step(around)
            }
            (Phase::Relaying { .. }, Some(cause)) => self.cut(cause, around),
            (Phase::Between { task }, _) if stage != Stage::Running => {
                task.abort();
                Counters::add(&around.shared.counters.cuts);
                self.part(&Refusal::cut(CutCause::Shutdown), around)
            }
            (Phase::Lingering { .. }, Some(_)) => false,
            _ => true,
        }
    }

    fn cause_to_part(&self, shared: &Shared, stage: Stage) -> Option<CutCause> {
        if stage == Stage::Stopped {
            return Some(CutCause::Shutdown);
        }
        let cause = self.choice.cut(&shared.topology.borrow());
        // Without a publisher nobody would say that the term has passed: the careful end is now.
        cause.or_else(|| shared.topology.has_changed().is_err().then_some(CutCause::AgentGone))
    }

    /// The deadline has come.
    pub fn time_out(&mut self, around: &mut Around<'_>) -> bool {
        match &self.phase {
            Phase::Relaying { .. } => {
                let late = self.login_until.is_some_and(|until| until <= Instant::now());
                !late && self.look(around)
            }
            Phase::Between { .. } => true,
            // A client that takes nothing within the time learns it from the closed connection.
            Phase::Leaving { .. } | Phase::Lingering { .. } => false,
        }
    }

    fn ended(&mut self, end: End, around: &mut Around<'_>) -> bool {
        let node = || self.choice.backend.node.clone();
        let cause = match end {
            End::ClientLeft => return self.linger(around),
            End::ClientGarbled(error) => {
                self.lose_server();
                return self.leave(
                    Vec::new(),
                    &Refusal::Protocol(error.to_string()).response().encode(),
                    around,
                );
            }
            End::ServerGarbled(error) => CutCause::ServerGarbled { node: node(), error: error.to_string() },
            End::ServerLeft => CutCause::ServerClosed { node: node() },
            End::Stuck => CutCause::Stuck,
            End::Drained => CutCause::Shutdown,
        };
        self.cut(cause, around)
    }

    /// The server is closed; then the session goes on without it, or is told why not.
    fn cut(&mut self, cause: CutCause, around: &mut Around<'_>) -> bool {
        let running = *around.shared.stage.borrow() == Stage::Running;
        let has_room = self.choice.role == Role::Primary && cause.leaves_room() && running;
        let movable = has_room && self.relay.is_movable();
        self.lose_server();
        if movable {
            self.seat = None;
            let (shared, mailbox, id) = (Arc::clone(around.shared), Arc::clone(around.mailbox), around.id);
            let (login, replay) = (Arc::clone(&self.login), self.relay.books.ties.replay());
            let search = Search { mailbox, id, found: None };
            let task = around.runtime.spawn(async move {
                let found = relocate(&shared, &login, &replay).await;
                search.end_with(found);
            });
            self.phase = Phase::Between { task: task.abort_handle() };
            return self.keep_early(around);
        }
        let books = &self.relay.books;
        let between = self.relay.at_boundary() && books.ledger.logged_in();
        let cause = match books.ties.bound().filter(|_| has_room && between) {
            Some(why) => CutCause::Bound { cause: Box::new(cause), why },
            None => cause,
        };
        count_cut(around.shared, &cause);
        let loss = books.ledger.loss();
        self.part(&Refusal::Cut { cause, loss }, around)
    }

    /// Closes the connection to the server.
    fn lose_server(&mut self) {
        self.relay.lose_server();
        // Whatever comes next takes its place.
        self.phase = Phase::Leaving { last: Lane::new(backend_wanted), until: Instant::now() };
    }

    /// Keeps what the client asks meanwhile; `false` when it leaves.
    fn keep_early(&mut self, around: &mut Around<'_>) -> bool {
        while !self.relay.is_full() {
            match self.client.read(around.buffer) {
                Ok(None) => return true,
                Ok(Some(0)) | Err(_) => return false,
                Ok(Some(read)) => self.relay.keep_for_later(&around.buffer[..read]),
            }
        }
        true
    }

    /// The search for another server has ended.
    pub fn relocated(&mut self, found: Result<Relocated, Refusal>, around: &mut Around<'_>) -> bool {
        if !matches!(self.phase, Phase::Between { .. }) {
            return true;
        }
        let found = match found {
            Ok(found) => found,
            Err(refusal) => {
                Counters::add(&around.shared.counters.cuts);
                return self.part(&refusal, around);
            }
        };
        if found.at_once && found.choice.is_same_server(&self.choice) && self.relay.was_terminated() {
            // It was this session that had to end, and not its server.
            drop(found.stream);
            let last_words = std::mem::take(&mut self.relay.books.last_words);
            return self.part_with(&last_words, around);
        }
        let server = found
            .stream
            .into_std()
            .and_then(|stream| Socket::register(stream, around.epoll, Side::Server.data(around.id)));
        let server = match server {
            Ok(server) => server,
            Err(error) => {
                Counters::add(&around.shared.counters.cuts);
                let node = found.choice.backend.node;
                let refusal = Refusal::cut(CutCause::NotTaken { node, reason: error.to_string() });
                return self.part(&refusal, around);
            }
        };
        Counters::add(&around.shared.counters.moved);
        let (from, to) = (&self.choice.backend.node, &found.choice.backend.node);
        tracing::debug!(from, to, "a session moved");
        let key = CancelKey::parse(&found.welcome.key);
        self.relay.take_up(Arc::clone(found.seat.address()), key, found.welcome.parameters);
        (self.choice, self.seat) = (found.choice, Some(found.seat));
        self.phase = Phase::Relaying { server, held_until: None };
        match self.relay.hear_server(&found.rest, &mut self.client) {
            Ok(()) => self.look(around),
            Err(end) => self.ended(end, around),
        }
    }

    /// Tells the client, whose server is closed, what that means for it.
    fn part(&mut self, refusal: &Refusal, around: &mut Around<'_>) -> bool {
        self.part_with(&refusal.response().encode(), around)
    }

    fn part_with(&mut self, last: &[u8], around: &mut Around<'_>) -> bool {
        if !self.relay.client_at_boundary() || self.relay.books.ledger.end_is_explained() {
            return false;
        }
        let waiting = self.relay.down.take_waiting();
        self.leave(waiting, last, around)
    }

    fn leave(&mut self, before: Vec<u8>, last: &[u8], around: &mut Around<'_>) -> bool {
        self.seat = None;
        let mut lane = Lane::new(backend_wanted);
        lane.put(&before);
        lane.put(last);
        self.phase = Phase::Leaving { last: lane, until: Instant::now() + FAREWELL_TIMEOUT };
        self.step(around)
    }

    fn linger(&mut self, around: &mut Around<'_>) -> bool {
        let ended = Phase::Leaving { last: Lane::new(backend_wanted), until: Instant::now() };
        let Phase::Relaying { mut server, .. } = std::mem::replace(&mut self.phase, ended) else {
            return false;
        };
        server.close_writing();
        self.phase = Phase::Lingering { server, until: Instant::now() + LINGER };
        self.step(around)
    }
}

/// Reads a turn's worth and forgets it; `false` at the end.
fn discard(socket: &mut Socket, around: &mut Around<'_>) -> bool {
    for _ in 0..READS_MAX {
        match socket.discard(around.buffer) {
            Discarded::Some => {}
            Discarded::Nothing => return true,
            Discarded::End => return false,
        }
    }
    around.again.push(around.id);
    true
}

fn count_cut(shared: &Shared, cause: &CutCause) {
    let by_server =
        matches!(cause, CutCause::ServerClosed { .. } | CutCause::ServerGarbled { .. } | CutCause::Shutdown);
    if !by_server {
        Counters::add(&shared.counters.cuts);
    }
}
