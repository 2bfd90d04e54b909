//! A session without a server: it gave its last one back, or that is gone; and the way to the next.
//!
//! Invariants: a session asks for a server only when its client wants something, and at most once at a time; what the client
//! says meanwhile is kept and not looked at.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rand::random;
use wire::message::{backend, put_frame};

use super::super::pools::{Server, Taken, Wanted};
use super::super::{Mail, Mailbox, SessionId};
use super::directed::Direction;
use super::{Around, Phase, Session, Unseen};
use crate::admission::Way;
use crate::auth::messages::Authentication;
use crate::backend::{Choice, Role};
use crate::books::Seeking;
use crate::cancel::{Released, Target};
use crate::doors::{self, Proof};
use crate::refusal::{CutCause, Refusal};
use crate::relay::Wants;
use crate::relocation::{Relocated, relocate};
use crate::ties::{Laid, Parameters, Replay};
use crate::{Counters, Port, Shared};

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

/// What a server says to who is let in, as far as it is known without one. The key is a form: the relay gives the client one
/// of its own.
pub(super) fn welcome(parameters: &Parameters) -> Vec<u8> {
    let mut out = Vec::new();
    Authentication::Ok.encode(&mut out);
    for (name, value) in parameters {
        put_frame(&mut out, backend::PARAMETER_STATUS, &[name, &[0][..], value, &[0]].concat());
    }
    let pid = random::<u32>() >> 1;
    put_frame(&mut out, backend::KEY_DATA, &[pid.to_be_bytes(), [0; 4]].concat());
    put_frame(&mut out, backend::READY_FOR_QUERY, b"I");
    out
}

impl Session {
    /// Begins without a server: the client is told that it is in.
    pub(super) fn come_in(&mut self, unseen: &Unseen, around: &mut Around<'_>) -> bool {
        let pool = self.join(around);
        if let Err(end) = self.relay.hear_server(&unseen.from_server, &mut self.client) {
            return self.ended(end, around);
        }
        around.pools.shared(pool, self.relay.books.ties.parameters());
        // Nobody has had the key yet, so no cancel is under way.
        let _ = self.relay.poll_part(&self.waker);
        self.relay.take_server_key();
        self.relay.keep_for_later(&unseen.from_client);
        self.measure(around);
        self.look(around)
    }

    /// Gives the server back when nothing of the session is left there.
    pub(super) fn part_when_done(&mut self, around: &mut Around<'_>) -> bool {
        if self.relay.is_kept_in_vain() {
            return self.leave_replica(around);
        }
        if self.relay.stays_with_primary() {
            self.stay();
            // What waits goes on.
            around.again.push(around.id);
        }
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
        let pool = match self.pool {
            Some(pool) => pool,
            None => self.bring(&mut server, around),
        };
        self.end_turn(server.choice.role, around.shared);
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
        self.vain = 0;
        self.ask_again(around);
        // What the client has said meanwhile has its turn after the other sessions'.
        if self.client.may_read() || !self.relay.up.unread.is_empty() {
            around.again.push(around.id);
        }
        true
    }

    /// Makes the server with which the session has logged in one of a pool.
    fn bring(&mut self, server: &mut Server, around: &mut Around<'_>) -> u32 {
        let key = self.relay.take_server_key();
        if !key.is_empty() {
            server.target = Target::new(server.seat.address(), &key);
        }
        let pool = self.join(around);
        around.pools.bring(pool, server);
        self.note_door(around);
        pool
    }

    /// A server has let the session in: it would its like. What it reports is told to them, unless the session has changed that.
    fn note_door(&mut self, around: &mut Around<'_>) {
        let (key, proof) = self.door();
        let ties = &mut self.relay.books.ties;
        if ties.laid().is_same(&Laid::default()) {
            around.shared.doors.seen(&key, proof, ties.parameters(), self.connected);
        }
    }

    fn door(&self) -> (Vec<u8>, Proof) {
        let proof = self.login.keys.clone().map_or(Proof::Nothing, Proof::Scram);
        (doors::key(self.port, &self.login.startup), proof)
    }

    /// Without a server: looks what the client wants, and gets one for that.
    pub(super) fn rest(&mut self, around: &mut Around<'_>) -> bool {
        if self.pool.is_none() {
            return false;
        }
        if matches!(self.phase, Phase::Waiting { .. }) && self.takes_back() {
            self.forgo(around);
        }
        // A slow client may not have the end of its last answer yet.
        if self.relay.down.write_out(&mut self.client).is_err() {
            return false;
        }
        loop {
            let mut read = match self.relay.is_full() {
                true => 0,
                false => match self.client.read(around.buffer) {
                    Ok(None) => 0,
                    Ok(Some(0)) | Err(_) => return false,
                    Ok(Some(read)) => read,
                },
            };
            let bytes = &around.buffer[..read];
            match self.relay.wants(bytes) {
                Wants::Server if self.directed.is_some() => {
                    self.relay.keep_for_later(bytes);
                    match self.direct(around) {
                        Direction::More if read == 0 => return true,
                        Direction::More => continue,
                        Direction::Later => return true,
                        Direction::Known => read = 0,
                    }
                }
                Wants::Server => {}
                Wants::Nothing => return false,
                Wants::More if read == 0 => return true,
                Wants::More => {
                    self.relay.keep_for_later(bytes);
                    continue;
                }
                Wants::Garbage => {
                    let refusal = Refusal::Protocol("invalid message length".to_owned());
                    return self.leave(Vec::new(), &refusal.response().encode(), around);
                }
            }
            let Some(pool) = self.pool else { return false };
            let bytes = &around.buffer[..read];
            let (waits, laid) = (matches!(self.phase, Phase::Waiting { .. }), self.relay.books.ties.laid());
            let reserve_at = self.reserve_at(around.shared);
            let paused = around.shared.desk.pauses(|| self.owner().database);
            let topology = around.shared.topology.borrow();
            let held_until = topology.held_until().map(tokio::time::Instant::into_std);
            let shared = around.shared;
            let may_open = || shared.server_ceilings.try_place(|| self.login.owner()).is_ok();
            let is_out = |address: &str| !shared.servers.may_try(address);
            let wanted = Wanted {
                is_out: &is_out,
                may_open: &may_open,
                session: around.id,
                laid: &laid,
                held: held_until.is_some(),
                paused,
                waits,
                topology: &topology,
                is_patient: waits && reserve_at.is_none(),
                replicas: if self.way() == Port::ReadOnly { &topology.replicas } else { &[] },
                seen: &around.guide.seen,
                since: self.must_see(),
            };
            let taken = around.pools.take(pool, &wanted, around.again);
            drop(topology);
            match taken {
                Taken::Server(server) => return self.go_on_with(server, read, around),
                Taken::Elsewhere => {
                    self.turn_to_primary(around);
                    continue;
                }
                Taken::Open(at) => {
                    self.relay.keep_for_later(bytes);
                    self.relay.hold_back(false);
                    self.search(None, at, around);
                    return true;
                }
                Taken::Wait => {
                    self.relay.keep_for_later(bytes);
                    self.relay.hold_back(held_until.is_some());
                    let (since, until) = match self.phase {
                        // A pause ends by somebody's word, not by the queue's deadline.
                        Phase::Waiting { since, .. } if paused => {
                            (since, Instant::now() + patience(around.shared))
                        }
                        Phase::Waiting { since, until, .. } => (since, until),
                        _ => (Instant::now(), Instant::now() + patience(around.shared)),
                    };
                    self.phase = Phase::Waiting { since, until, held_until, reserve_at };
                    self.relay.gate().wait(&self.waker);
                    if read == 0 {
                        return true;
                    }
                }
            }
        }
    }

    /// Its request was cancelled before a server had it. A read that a replica has failed is past that: it was asked already.
    fn takes_back(&mut self) -> bool {
        let asks_again = self.directed.as_ref().is_some_and(|directed| directed.asks_again());
        if !self.relay.gate().stop_waiting() || asks_again || !self.relay.cancel_request() {
            return false;
        }
        if let Some(directed) = &mut self.directed {
            directed.ask_nothing();
        }
        true
    }

    /// Until when it is for the reserve to wait; `None`: it has waited long enough, or there is none.
    fn reserve_at(&self, shared: &Shared) -> Option<Instant> {
        let since = match self.phase {
            Phase::Waiting { since, .. } => since,
            _ => Instant::now(),
        };
        let at = Some(since + shared.config.pool_reserve_after).filter(|_| shared.config.pool_reserve > 0);
        at.filter(|at| Instant::now() < *at)
    }

    /// Has a server of the pool for what the client has sent, the last of it in `around.buffer`.
    pub(super) fn go_on_with(
        &mut self,
        mut server: Box<Server>,
        read: usize,
        around: &mut Around<'_>,
    ) -> bool {
        let waited = match self.phase {
            Phase::Waiting { since, .. } => Some(around.pools.now.saturating_duration_since(since)),
            _ => None,
        };
        self.meter.assigned(waited, around.accounts);
        let (bytes, is_own) = (&around.buffer[..read], server.was_of(around.id));
        self.relay.hold_back(false);
        let parameters = Arc::clone(&server.parameters);
        if let Some(prepared) = self.relay.prepared() {
            *prepared = std::mem::take(&mut server.prepared);
        }
        self.begin_turn(server.choice.role, around.shared);
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

    /// Keeps what the client asks meanwhile; `false` when it leaves.
    pub(super) fn keep_early(&mut self, around: &mut Around<'_>) -> bool {
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

    /// Has a server looked for and made as the session left its last one; `was`: it had to leave that, `at`: best of all there.
    pub(super) fn search(&mut self, was: Option<Choice>, at: Option<String>, around: &mut Around<'_>) {
        let (shared, mailbox, id) = (Arc::clone(around.shared), Arc::clone(around.mailbox), around.id);
        let way = Way { port: self.way(), since: self.must_see(), prefers: at };
        let login = Arc::clone(&self.login);
        // One more server of the pool is made as the session's by what any of the pool is.
        let replay = was.as_ref().map_or_else(Replay::default, |_| self.relay.books.ties.replay());
        let search = Search { mailbox, id, found: None };
        let task = around.runtime.spawn(async move {
            let found = relocate(&shared, &way, &login, &replay).await;
            search.end_with(found);
        });
        if was.is_none() {
            self.relay.gate().wait(&self.waker);
        }
        let seeking = Seeking::new(&around.shared.counters);
        self.phase = Phase::Between { task: task.abort_handle(), was, _seeking: seeking };
    }

    /// The search for another server has ended.
    pub fn relocated(&mut self, found: Result<Relocated, Refusal>, around: &mut Around<'_>) -> bool {
        // Not before this was it let in.
        let began = around.pools.now;
        let Phase::Between { was, .. } = &mut self.phase else { return true };
        let was = was.take();
        let found = match found {
            Ok(found) => found,
            Err(refusal) => {
                if !matches!(refusal, Refusal::Crowded { .. }) {
                    around.shared.doors.shut(&doors::key(self.port, &self.login.startup));
                }
                return self.strand(&refusal, around);
            }
        };
        let same = was.as_ref().is_some_and(|was| found.at_once && found.choice.is_same_server(was));
        if same && self.relay.was_terminated() {
            // It was this session that had to end, and not its server.
            drop(found.stream);
            let last_words = std::mem::take(&mut self.relay.books.last_words);
            return self.part_with(&last_words, around);
        }
        let is_nearby = found.stream.is_nearby();
        let (node, target) =
            (found.choice.backend.node.clone(), Target::new(found.seat.address(), &found.welcome.key));
        let server = found
            .stream
            .into_parts()
            .and_then(|stream| around.server(stream, found.choice, found.seat, target.clone()));
        let server = match server {
            Ok(server) => server,
            Err(error) => {
                let refusal = Refusal::cut(CutCause::NotTaken { node, reason: error.to_string() });
                return self.strand(&refusal, around);
            }
        };
        if let Some(was) = &was {
            Counters::add(&around.shared.counters.moved);
            let (from, to) = (&was.backend.node, &node);
            tracing::debug!(from, to, "a session moved");
        }
        if let Some(pool) = self.pool {
            around.pools.opened(pool, &server);
        }
        let parameters = Arc::new(found.welcome.parameters);
        match was {
            Some(_) => self.relay.take_up(target, parameters),
            None if self.takes_back() || around.shared.desk.pauses(|| self.owner().database) => {
                let mut server = server;
                server.parameters = parameters;
                around.pools.give_back(server, None, around.again);
                self.phase = Phase::Resting;
                return self.rest(around);
            }
            None => {
                // What it reports is told to newcomers: not that it is a standby, to those of the auto port. A server that is
                // reached by its socket has not judged by the lines for hosts.
                if !is_nearby && (self.directed.is_none() || server.choice.role == Role::Primary) {
                    let (key, proof) = self.door();
                    around.shared.doors.seen(&key, proof, &parameters, began);
                }
                self.begin_turn(server.choice.role, around.shared);
                self.relay.borrow(target, parameters, &Laid::default(), false);
            }
        }
        self.phase = Phase::Relaying { server, held_until: None };
        match self.relay.hear_server(&found.rest, &mut self.client) {
            Ok(()) => self.look(around),
            Err(end) => self.ended(end, around),
        }
    }

    /// Ends a session that has no server.
    pub(super) fn strand(&mut self, refusal: &Refusal, around: &mut Around<'_>) -> bool {
        if let Phase::Between { task, .. } = &self.phase {
            task.abort();
        }
        self.forgo(around);
        Counters::add(&around.shared.counters.cuts);
        self.part(refusal, around)
    }

    /// Asks for no server any more.
    pub(super) fn forgo(&mut self, around: &mut Around<'_>) {
        match (&self.phase, self.pool) {
            (Phase::Between { .. }, Some(pool)) => around.pools.not_opened(pool, around.again),
            (Phase::Waiting { .. }, Some(pool)) => around.pools.unqueue(pool, around.id, around.again),
            _ => {}
        }
        self.relay.hold_back(false);
        self.relay.gate().stop_waiting();
        self.phase = Phase::Resting;
    }
}

/// How long a session waits for a server.
fn patience(shared: &Shared) -> Duration {
    shared.config.queue_timeout.max(shared.config.connect_timeout)
}
