//! One session from the moment it has a server to its end.
//!
//! What it is: reading and writing while something is ready, and what happens when a side ends or the server may not be used
//! any more. What it is not: what bytes mean (`relay`), nor the search for another server (`relocation`). Invariant: when
//! the choice of its server becomes wrong, that connection is closed before anything else is done; then the session is moved
//! when that is possible without lying, or the client is told, at a message boundary or not at all.

use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::fd::BorrowedFd;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;

use super::pools::{Pools, Server, Taken, Wanted};
use super::socket::{Discarded, Socket};
use super::{Adopted, Call, Mail, Mailbox, SessionId};
use crate::backend::{Choice, Role};
use crate::cancel::{Released, Target};
use crate::lane::Lane;
use crate::ledger::backend_wanted;
use crate::login::Login;
use crate::refusal::{CutCause, Refusal};
use crate::relay::{End, Relay, Surroundings, Wants};
use crate::relocation::{Relocated, relocate};
use crate::{Counters, PoolMode, Port, Shared, Stage};

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

    /// Of a client, by its session's place; of a server, by its slot.
    pub fn data(self, number: u32) -> u64 {
        u64::from(number) << 1 | u64::from(self == Side::Server)
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
    pub pools: &'a mut Pools,
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
    port: Port,
    login: Arc<Login>,
    login_until: Option<Instant>,
    /// It gives its server back after each transaction.
    parts: bool,
    /// Where its servers come from, once it has given one back.
    pool: Option<u32>,
    waker: Waker,
    _permit: OwnedSemaphorePermit,
}

enum Phase {
    Relaying {
        server: Box<Server>,
        held_until: Option<Instant>,
    },
    /// Between two transactions, without a server.
    Resting,
    /// As before, and something is to be done for the client once there is a server.
    Waiting {
        since: Instant,
        until: Instant,
        held_until: Option<Instant>,
    },
    /// A task looks for another server, or opens one more for the pool.
    Between {
        task: AbortHandle,
        was: Option<Choice>,
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
        server: Box<Server>,
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
        if let Phase::Between { task, .. } = &self.phase {
            task.abort();
        }
    }
}

impl Session {
    pub fn new(
        adopted: Adopted,
        id: SessionId,
        slot: u32,
        shared: &Shared,
        mailbox: &Arc<Mailbox>,
        epoll: BorrowedFd<'_>,
    ) -> io::Result<(Session, Unseen)> {
        let Adopted { client, server, early, answer, port, login, books, choice, seat, permit } = adopted;
        let parts = shared.config.pool_mode == PoolMode::Transaction && !books.ledger.is_replication();
        let around = Surroundings {
            cancels: Arc::clone(&shared.cancels),
            counters: Arc::clone(&shared.counters),
            statements: parts.then(|| Arc::clone(&shared.statements)),
        };
        let address = Arc::clone(seat.address());
        // Its key comes with the log-in.
        let target = Target::new(&address, &[]);
        let socket = Socket::register(server, epoll, Side::Server.data(slot))?;
        let server = Box::new(Server::new(socket, slot, choice, seat, target, Instant::now()));
        let session = Session {
            client: Socket::register(client, epoll, Side::Client.data(id.place))?,
            phase: Phase::Relaying { server, held_until: None },
            relay: Relay::new(books, around, address),
            port,
            login,
            parts,
            pool: None,
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
                server.socket.note(flags)
            }
            // Of a server that has been closed.
            (Side::Server, _) => {}
        }
    }

    /// When something is to happen though nothing is heard.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Relaying { held_until, .. } => [*held_until, self.login_until].into_iter().flatten().min(),
            Phase::Waiting { until, held_until, .. } => {
                [Some(*until), *held_until].into_iter().flatten().min()
            }
            Phase::Resting | Phase::Between { .. } => None,
            Phase::Leaving { until, .. } | Phase::Lingering { until, .. } => Some(*until),
        }
    }

    pub fn begin(&mut self, unseen: Unseen, around: &mut Around<'_>) -> bool {
        // The choice may have become wrong on the way here.
        let stage = *around.shared.stage.borrow();
        let right = self.cause_to_part(around.shared, stage).is_none();
        let Phase::Relaying { server, .. } = &mut self.phase else { return false };
        let heard = match self.relay.hear_server(&unseen.from_server, &mut self.client) {
            Ok(()) if right => self.relay.hear_client(&unseen.from_client, &mut server.socket),
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
                Ok(()) => self.part_when_done(around),
                Err(end) => self.ended(end, around),
            },
            Phase::Resting | Phase::Waiting { .. } => self.rest(around),
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
            Phase::Lingering { server, .. } => discard(&mut server.socket, around),
        }
    }

    fn relay_some(&mut self, around: &mut Around<'_>) -> Result<(), End> {
        let Session { client, phase, relay, waker, login_until, .. } = self;
        let Phase::Relaying { server, .. } = phase else { return Ok(()) };
        let server = &mut server.socket;
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
            (Phase::Relaying { server, held_until }, None) => {
                let held = around.shared.topology.borrow().held_until();
                *held_until =
                    held.filter(|_| server.choice.role == Role::Primary).map(tokio::time::Instant::into_std);
                self.relay.hold = held_until.is_some();
                self.relay.draining = stage == Stage::Draining;
                self.step(around)
            }
            (Phase::Relaying { .. }, Some(cause)) => self.cut(cause, around),
            (Phase::Between { .. } | Phase::Resting | Phase::Waiting { .. }, _)
                if stage != Stage::Running =>
            {
                self.strand(&Refusal::cut(CutCause::Shutdown), around)
            }
            (Phase::Resting | Phase::Waiting { .. }, Some(cause)) => {
                self.strand(&Refusal::cut(cause), around)
            }
            (Phase::Waiting { .. }, None) => self.rest(around),
            (Phase::Lingering { .. }, Some(_)) => false,
            _ => true,
        }
    }

    /// Ends a session that has no server.
    fn strand(&mut self, refusal: &Refusal, around: &mut Around<'_>) -> bool {
        if let Phase::Between { task, .. } = &self.phase {
            task.abort();
        }
        self.forgo(around);
        Counters::add(&around.shared.counters.cuts);
        self.part(refusal, around)
    }

    /// Asks for no server any more.
    fn forgo(&mut self, around: &mut Around<'_>) {
        match (&self.phase, self.pool) {
            (Phase::Between { .. }, Some(pool)) => around.pools.not_opened(pool, around.again),
            (Phase::Waiting { .. }, Some(pool)) => around.pools.unqueue(pool, around.id, around.again),
            _ => {}
        }
        self.relay.hold_back(false);
        self.phase = Phase::Resting;
    }

    fn cause_to_part(&self, shared: &Shared, stage: Stage) -> Option<CutCause> {
        if stage == Stage::Stopped {
            return Some(CutCause::Shutdown);
        }
        let server = match &self.phase {
            Phase::Relaying { server, .. } | Phase::Lingering { server, .. } => Some(server),
            _ => None,
        };
        let cause = server.and_then(|server| server.choice.cut(&shared.topology.borrow()));
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
            Phase::Waiting { since, until, .. } if *until <= Instant::now() => {
                let (waited, pool_size) = (since.elapsed(), around.shared.config.pool_size);
                Counters::add(&around.shared.counters.queue_timeouts);
                self.strand(&Refusal::PoolTimeout { waited, pool_size }, around)
            }
            Phase::Waiting { .. } => self.rest(around),
            Phase::Resting | Phase::Between { .. } => true,
            // A client that takes nothing within the time learns it from the closed connection.
            Phase::Leaving { .. } | Phase::Lingering { .. } => false,
        }
    }

    fn ended(&mut self, end: End, around: &mut Around<'_>) -> bool {
        let node = match &self.phase {
            Phase::Relaying { server, .. } => server.choice.backend.node.clone(),
            _ => String::new(),
        };
        let cause = match end {
            End::ClientLeft => return self.linger(around),
            End::ClientGarbled(error) => {
                self.lose_server(around);
                return self.leave(
                    Vec::new(),
                    &Refusal::Protocol(error.to_string()).response().encode(),
                    around,
                );
            }
            End::NotLaid(reason) => {
                self.lose_server(around);
                return self.strand(&Refusal::cut(CutCause::NotTaken { node, reason }), around);
            }
            End::ServerGarbled(error) => CutCause::ServerGarbled { node, error: error.to_string() },
            End::ServerLeft => CutCause::ServerClosed { node },
            End::Stuck => CutCause::Stuck,
            End::Drained => CutCause::Shutdown,
        };
        self.cut(cause, around)
    }

    /// The server is closed; then the session goes on without it, or is told why not.
    fn cut(&mut self, cause: CutCause, around: &mut Around<'_>) -> bool {
        let Phase::Relaying { server, .. } = &self.phase else { return true };
        let running = *around.shared.stage.borrow() == Stage::Running;
        let goes_on = cause.leaves_room() && running;
        let was = server.choice.clone();
        let has_room = goes_on && (was.role == Role::Primary || self.pool.is_some());
        let movable = has_room && self.relay.is_movable();
        self.lose_server(around);
        if movable && self.pool.is_some() {
            self.relay.books.last_words.clear();
            self.phase = Phase::Resting;
            return self.rest(around);
        }
        if movable {
            self.search(Some(was), around);
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

    /// Has a server looked for and made as the session left its last one; `was`: it had to leave that.
    fn search(&mut self, was: Option<Choice>, around: &mut Around<'_>) {
        let (shared, mailbox, id) = (Arc::clone(around.shared), Arc::clone(around.mailbox), around.id);
        let (port, login, replay) = (self.port, Arc::clone(&self.login), self.relay.books.ties.replay());
        let search = Search { mailbox, id, found: None };
        let task = around.runtime.spawn(async move {
            let found = relocate(&shared, port, &login, &replay).await;
            search.end_with(found);
        });
        self.phase = Phase::Between { task: task.abort_handle(), was };
    }

    /// Gives the server back when nothing of the session is left there.
    fn part_when_done(&mut self, around: &mut Around<'_>) -> bool {
        if !self.parts || !self.relay.may_part() {
            return true;
        }
        // A cancel that is under way would hit whoever has the server next.
        let Poll::Ready(released) = self.relay.poll_part(&self.waker) else {
            return true;
        };
        let Phase::Relaying { mut server, .. } = std::mem::replace(&mut self.phase, Phase::Resting) else {
            return true;
        };
        let pool = *self.pool.get_or_insert_with(|| {
            let key = self.relay.take_server_key();
            if !key.is_empty() {
                server.target = Target::new(server.seat.address(), &key);
            }
            let key = [&[self.port as u8][..], &self.login.startup].concat();
            around.pools.join(&key, server.slot)
        });
        let ties = &mut self.relay.books.ties;
        around.pools.shared(pool, ties.parameters());
        (server.laid, server.parameters) = (ties.laid(), Arc::clone(ties.parameters()));
        if let Some(prepared) = self.relay.prepared() {
            server.prepared = std::mem::take(prepared);
        }
        match released {
            Released::Clean => {
                let last = self.relay.leaves_its_unnamed().then_some(around.id);
                around.pools.give_back(server, last, around.again);
            }
            Released::Tainted => around.pools.end(server, around.again),
        }
        self.relay.hold_back(false);
        // What the client has said meanwhile has its turn after the other sessions'.
        if self.client.may_read() || !self.relay.up.unread.is_empty() {
            around.again.push(around.id);
        }
        true
    }

    /// Without a server: looks what the client wants, and gets one for that.
    fn rest(&mut self, around: &mut Around<'_>) -> bool {
        let Some(pool) = self.pool else { return false };
        // A slow client may not have the end of its last answer yet.
        if self.relay.down.write_out(&mut self.client).is_err() {
            return false;
        }
        loop {
            let read = match self.relay.is_full() {
                true => 0,
                false => match self.client.read(around.buffer) {
                    Ok(None) => 0,
                    Ok(Some(0)) | Err(_) => return false,
                    Ok(Some(read)) => read,
                },
            };
            let bytes = &around.buffer[..read];
            match self.relay.wants(bytes) {
                Wants::Server => {}
                Wants::Nothing => return false,
                Wants::More if read == 0 => return true,
                Wants::More => {
                    self.relay.keep_for_later(bytes);
                    continue;
                }
                Wants::Garbage => {
                    let refusal = Refusal::Protocol("a message shorter than its own length".to_owned());
                    return self.leave(Vec::new(), &refusal.response().encode(), around);
                }
            }
            let (waits, laid) = (matches!(self.phase, Phase::Waiting { .. }), self.relay.books.ties.laid());
            let held_until = around.shared.topology.borrow().held_until().map(tokio::time::Instant::into_std);
            let wanted = Wanted { session: around.id, laid: &laid, held: held_until.is_some(), waits };
            match around.pools.take(pool, &wanted, around.again) {
                Taken::Server(server) => return self.go_on_with(server, read, around),
                Taken::Open => {
                    self.relay.keep_for_later(bytes);
                    self.relay.hold_back(false);
                    self.search(None, around);
                    return true;
                }
                Taken::Wait => {
                    self.relay.keep_for_later(bytes);
                    self.relay.hold_back(held_until.is_some());
                    let (since, until) = match self.phase {
                        Phase::Waiting { since, until, .. } => (since, until),
                        _ => (Instant::now(), Instant::now() + patience(around.shared)),
                    };
                    self.phase = Phase::Waiting { since, until, held_until };
                    if read == 0 {
                        return true;
                    }
                }
            }
        }
    }

    /// Has a server of the pool for what the client has sent, the last of it in `around.buffer`.
    fn go_on_with(&mut self, mut server: Box<Server>, read: usize, around: &mut Around<'_>) -> bool {
        let (bytes, is_own) = (&around.buffer[..read], server.was_of(around.id));
        self.relay.hold_back(false);
        let parameters = Arc::clone(&server.parameters);
        if let Some(prepared) = self.relay.prepared() {
            *prepared = std::mem::take(&mut server.prepared);
        }
        self.relay.borrow(server.target.clone(), parameters, &server.laid, is_own);
        let heard = match self.relay.pauses() {
            true => {
                self.relay.keep_for_later(bytes);
                Ok(())
            }
            false => self.relay.hear_client(bytes, &mut server.socket),
        };
        self.phase = Phase::Relaying { server, held_until: None };
        match heard {
            Ok(()) => self.step(around),
            Err(end) => self.ended(end, around),
        }
    }

    /// Closes the connection to the server.
    fn lose_server(&mut self, around: &mut Around<'_>) {
        self.relay.lose_server();
        // Whatever comes next takes its place.
        let last = Phase::Leaving { last: Lane::new(backend_wanted), until: Instant::now() };
        if let Phase::Relaying { server, .. } = std::mem::replace(&mut self.phase, last) {
            around.pools.end(server, around.again);
        }
    }

    /// Over: leaves nothing of it with the pools.
    pub fn end(self, id: SessionId, pools: &mut Pools, woken: &mut Vec<SessionId>) {
        match (&self.phase, self.pool) {
            (Phase::Relaying { server, .. } | Phase::Lingering { server, .. }, _) => {
                pools.close(server.slot, woken)
            }
            (Phase::Between { .. }, Some(pool)) => pools.not_opened(pool, woken),
            (Phase::Waiting { .. }, Some(pool)) => pools.unqueue(pool, id, woken),
            _ => {}
        }
        if let Some(pool) = self.pool {
            pools.leave(pool);
        }
    }

    /// Keeps what the client asks meanwhile; `false` when it leaves.
    fn keep_early(&mut self, around: &mut Around<'_>) -> bool {
        if self.relay.down.write_out(&mut self.client).is_err() {
            return false;
        }
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
        let Phase::Between { was, .. } = &mut self.phase else { return true };
        let was = was.take();
        let found = match found {
            Ok(found) => found,
            Err(refusal) => return self.strand(&refusal, around),
        };
        let same = was.as_ref().is_some_and(|was| found.at_once && found.choice.is_same_server(was));
        if same && self.relay.was_terminated() {
            // It was this session that had to end, and not its server.
            drop(found.stream);
            let last_words = std::mem::take(&mut self.relay.books.last_words);
            return self.part_with(&last_words, around);
        }
        let slot = around.pools.slot(around.id);
        let socket = found
            .stream
            .into_std()
            .and_then(|stream| Socket::register(stream, around.epoll, Side::Server.data(slot)));
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                around.pools.close(slot, around.again);
                let node = found.choice.backend.node;
                let refusal = Refusal::cut(CutCause::NotTaken { node, reason: error.to_string() });
                return self.strand(&refusal, around);
            }
        };
        if let Some(was) = &was {
            Counters::add(&around.shared.counters.moved);
            let (from, to) = (&was.backend.node, &found.choice.backend.node);
            tracing::debug!(from, to, "a session moved");
        }
        if let Some(pool) = self.pool {
            around.pools.opened(pool, slot);
        }
        let target = Target::new(found.seat.address(), &found.welcome.key);
        let now = Instant::now();
        let server = Server::new(socket, slot, found.choice, found.seat, target.clone(), now);
        self.relay.take_up(target, Arc::new(found.welcome.parameters));
        self.phase = Phase::Relaying { server: Box::new(server), held_until: None };
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
        server.socket.close_writing();
        self.phase = Phase::Lingering { server, until: Instant::now() + LINGER };
        self.step(around)
    }
}

/// How long a session waits for a server.
fn patience(shared: &Shared) -> Duration {
    shared.config.queue_timeout.max(shared.config.connect_timeout)
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
