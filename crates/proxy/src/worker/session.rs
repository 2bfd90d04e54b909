//! One session from the moment a worker has it to its end.
//!
//! What it is: reading and writing while something is ready, and which phase the session is in: with a server, without one
//! (`without`), or on its way out (`parting`). What it is not: what bytes mean (`relay`), nor the search for another server
//! (`relocation`). Invariant: when the choice of its server becomes wrong, that connection is closed before anything else is
//! done; then the session is moved when that is possible without lying, or the client is told.

mod directed;
mod overdue;
mod parting;
mod without;

use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::fd::BorrowedFd;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;

use super::guide::Guide;
use super::pools::{Pools, Server};
use super::report::{Activity, ServerReport, SessionReport};
use super::socket::{Discarded, Socket};
use super::{Adopted, Call, Mailbox, SessionId, Start};
use crate::backend::{Choice, Role};
use crate::books::Seeking;
use crate::cancel::Target;
use crate::ceilings::Place;
use crate::lane::Lane;
use crate::login::Login;
use crate::refusal::{CutCause, HELD, Refusal};
use crate::relay::{End, Relay, Surroundings};
use crate::routes::Reader;
use crate::servers::Seat;
use crate::tally::{Accounts, Meter, Owner};
use crate::tls::Parts;
use crate::{Counters, PoolMode, Port, Shared, Stage};
use directed::Directed;
use without::welcome;

/// From the server's first answer to its first ReadyForQuery: PostgreSQL's greatest `authentication_timeout` and a
/// little, so that the server's own limit speaks first.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(610);
/// For a last message to a client that may read no more, and for the client to close.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
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
    pub accounts: &'a mut Accounts,
    pub guide: &'a mut Guide,
    pub again: &'a mut Vec<SessionId>,
}

impl Around<'_> {
    /// A connection to a server, for the session that acts.
    fn server(
        &mut self,
        stream: Parts,
        choice: Choice,
        seat: Seat,
        target: Target,
    ) -> io::Result<Box<Server>> {
        let slot = self.pools.slot(self.id);
        match Socket::register(stream, self.epoll, Side::Server.data(slot)) {
            Ok(socket) => Ok(Box::new(Server::new(socket, slot, choice, seat, target, Instant::now()))),
            Err(error) => {
                self.pools.close(slot, self.again);
                Err(error)
            }
        }
    }
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
    /// Its reads may go to replicas.
    directed: Option<Box<Directed>>,
    waker: Waker,
    meter: Meter,
    connected: Instant,
    /// Servers in a row that could not be made ready for it.
    vain: u8,
    /// The request that was asked at the first of these took too long, and was cancelled at the second.
    cancelled: Option<(Instant, Instant)>,
    _permit: OwnedSemaphorePermit,
    _place: Place,
    _reader: Option<Reader>,
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
        /// From then on it may have one of the reserve.
        reserve_at: Option<Instant>,
    },
    /// A task looks for another server, or opens one more for the pool.
    Between {
        task: AbortHandle,
        was: Option<Choice>,
        _seeking: Seeking,
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

impl Drop for Session {
    fn drop(&mut self) {
        if let Phase::Between { task, .. } = &self.phase {
            task.abort();
        }
    }
}

impl Session {
    pub fn new(adopted: Adopted, around: &mut Around<'_>) -> io::Result<(Session, Unseen)> {
        let Adopted { client, early, port, login, books, start, permit, place } = adopted;
        let shared = around.shared;
        let parts = shared.config.pool_mode.lends() && !books.ledger.is_replication();
        let surroundings = Surroundings {
            cancels: Arc::clone(&shared.cancels),
            counters: Arc::clone(&shared.counters),
            statements: parts.then(|| Arc::clone(&shared.statements)),
            leaks: shared.config.leaks,
            blocks: shared.config.pool_mode != PoolMode::Statement,
        };
        let client = Socket::register(client, around.epoll, Side::Client.data(around.id.place))?;
        let (address, phase, answer, login_until) = match start {
            Start::Served { stream, answer, choice, seat } => {
                // Its key comes with the log-in.
                let target = Target::new(seat.address(), &[]);
                let address = Arc::clone(seat.address());
                let server = around.server(stream, choice, seat, target)?;
                let until = Instant::now() + AUTHENTICATION_TIMEOUT;
                (address, Phase::Relaying { server, held_until: None }, answer, Some(until))
            }
            Start::Known(parameters) => (Arc::from(""), Phase::Resting, welcome(&parameters), None),
        };
        let directed = (parts && port == Port::Auto).then(|| Box::new(Directed::new(shared, &login)));
        let mut relay = Relay::new(books, surroundings, address);
        if directed.is_some() {
            relay.take_turns();
        }
        let session = Session {
            client,
            phase,
            relay,
            directed,
            port,
            login,
            parts,
            pool: None,
            login_until,
            waker: Call::waker(around.mailbox, around.id),
            meter: Meter::default(),
            connected: around.pools.now,
            vain: 0,
            cancelled: None,
            _permit: permit,
            _place: place,
            _reader: (port != Port::ReadWrite).then(|| shared.freshness.reader()),
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
    pub fn deadline(&self, shared: &Shared) -> Option<Instant> {
        let overdue = self.next_limit(shared).map(|(until, _)| until);
        [self.phase_deadline(), overdue].into_iter().flatten().min()
    }

    fn phase_deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Relaying { held_until, .. } => [*held_until, self.login_until].into_iter().flatten().min(),
            Phase::Waiting { until, held_until, reserve_at, .. } => {
                [Some(*until), *held_until, *reserve_at].into_iter().flatten().min()
            }
            Phase::Resting => self.directed.as_ref().and_then(|directed| directed.deadline()),
            Phase::Between { .. } => None,
            Phase::Leaving { until, .. } | Phase::Lingering { until, .. } => Some(*until),
        }
    }

    pub fn begin(&mut self, unseen: Unseen, around: &mut Around<'_>) -> bool {
        if let Phase::Resting = self.phase {
            return self.come_in(&unseen, around);
        }
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
                Ok(()) => {
                    self.measure(around);
                    self.part_when_done(around)
                }
                Err(end) => {
                    self.measure(around);
                    self.ended(end, around)
                }
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
        let data = Side::Server.data(server.slot);
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
        server.mind_room(around.epoll, data).map_err(|_| End::ServerLeft)?;
        if login_until.is_some() && relay.books.ledger.logged_in() {
            *login_until = None;
        }
        if relay.is_drained() {
            return Err(End::Drained);
        }
        relay.count_parking();
        Ok(())
    }

    fn measure(&mut self, around: &mut Around<'_>) {
        let ledger = &self.relay.books.ledger;
        if !self.meter.is_open() {
            if !ledger.logged_in() {
                return;
            }
            let account = around.accounts.of(self.login.owner());
            self.meter.open(account, around.pools.now, around.accounts);
        }
        self.meter.look(ledger, &mut self.relay.bytes, around.pools.now, around.accounts);
    }

    pub fn owner(&self) -> Owner {
        self.login.owner()
    }

    pub fn report(&self, id: SessionId) -> (SessionReport, Option<ServerReport>) {
        let (owner, application_name) = (self.owner(), self.login.application_name());
        let server = match &self.phase {
            Phase::Relaying { server, .. } | Phase::Lingering { server, .. } => Some(server),
            _ => None,
        };
        let (client, local) = self.client.addresses();
        let ledger = &self.relay.books.ledger;
        let (activity, waits_since) = match &self.phase {
            _ if !ledger.logged_in() => (Activity::LoggingIn, None),
            Phase::Waiting { since, .. } => (Activity::Waiting, Some(*since)),
            Phase::Between { .. } => (Activity::Waiting, None),
            _ => (Activity::Active, None),
        };
        let report = SessionReport {
            id: id.number(),
            owner: owner.clone(),
            activity,
            replication: ledger.is_replication(),
            client,
            local,
            connected: self.connected,
            waits_since,
            server: server.map(|server| u64::from(server.slot)),
            application_name: application_name.clone(),
            tls: self.client.tls(),
        };
        (report, server.map(|server| server.report(Some(id), owner, application_name)))
    }

    /// Somebody wants the session to end; `false` when it is over.
    pub fn kill(&mut self, around: &mut Around<'_>) -> bool {
        match self.phase {
            Phase::Relaying { .. } => self.cut(CutCause::Killed, around),
            Phase::Between { .. } | Phase::Resting | Phase::Waiting { .. } => {
                self.strand(&Refusal::cut(CutCause::Killed), around)
            }
            Phase::Leaving { .. } => true,
            Phase::Lingering { .. } => false,
        }
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
                if stage >= Stage::Draining =>
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
        if let Some((until, overdue)) = self.next_limit(around.shared)
            && until <= Instant::now()
        {
            return self.is_overdue(overdue, around);
        }
        match &self.phase {
            Phase::Relaying { .. } => {
                let late = self.login_until.is_some_and(|until| until <= Instant::now());
                !late && self.look(around)
            }
            Phase::Waiting { since, until, .. }
                if *until <= Instant::now() && !around.shared.desk.pauses(|| self.owner().database) =>
            {
                let (waited, pool_size) = (since.elapsed(), around.shared.config.pool_size);
                Counters::add(&around.shared.counters.queue_timeouts);
                let refusal = match self.is_held(around.shared) {
                    true => Refusal::cut(CutCause::Stranded { waited, reason: HELD.to_owned() }),
                    false => Refusal::PoolTimeout { waited, pool_size },
                };
                self.strand(&refusal, around)
            }
            Phase::Waiting { .. } | Phase::Resting => self.rest(around),
            Phase::Between { .. } => true,
            // A client that takes nothing within the time learns it from the closed connection.
            Phase::Leaving { .. } | Phase::Lingering { .. } => false,
        }
    }

    /// A switchover keeps it from a server.
    fn is_held(&self, shared: &Shared) -> bool {
        let topology = shared.topology.borrow();
        let reads = self.way() == Port::ReadOnly && !topology.replicas.is_empty();
        topology.held_until().is_some() && !reads
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
        for pool in [self.pool, self.other_pool()].into_iter().flatten() {
            pools.leave(pool);
        }
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
