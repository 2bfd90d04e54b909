//! The servers of one worker: who has each, and which are free for whom.
//!
//! What it is: pools of connections that were logged in with one and the same start-up packet, so that any session of it may
//! use any of them; and the queues of sessions that wait for one. What it is not: the judge of when a session may part from its
//! server (`relay::lent`), nor the way to a new one (`relocation`). Invariants: a server has one user or none; one that is free
//! may be used, as far as the topology was known when it was last looked at; who waits longest is served first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::SessionId;
use super::report::ServerReport;
use super::socket::{Discarded, Socket};
use crate::backend::{Choice, Role};
use crate::cancel::Target;
use crate::servers::Seat;
use crate::shares::Prepared;
use crate::tally::{Owner, startup_value};
use crate::ties::{Laid, Parameters};
use crate::topology::Topology;

/// So many free servers are looked through for one that is as the session left its last.
const LOOKED_THROUGH: usize = 8;
/// After this a server is asked before it is lent whether it has closed: the event may not have been read yet.
const FRESH: Duration = Duration::from_millis(500);

/// How servers are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Servers of one pool of this worker.
    pub size: usize,
    pub idle: Duration,
    pub lifetime: Duration,
}

/// A connection to a server, logged in.
pub struct Server {
    pub socket: Socket,
    pub slot: u32,
    pub choice: Choice,
    pub seat: Seat,
    pub target: Target,
    pub laid: Laid,
    pub parameters: Arc<Parameters>,
    /// Statements, while it is free.
    pub prepared: Prepared,
    opened_at: Instant,
    free_since: Instant,
    /// Who had it last, and left its unnamed statement there.
    last: Option<SessionId>,
}

impl Server {
    pub fn new(
        socket: Socket,
        slot: u32,
        choice: Choice,
        seat: Seat,
        target: Target,
        now: Instant,
    ) -> Server {
        Server {
            socket,
            slot,
            choice,
            seat,
            target,
            laid: Laid::default(),
            parameters: Arc::default(),
            prepared: Prepared::default(),
            opened_at: now,
            free_since: now,
            last: None,
        }
    }

    pub fn report(&self, user: Option<SessionId>, owner: Owner, application_name: String) -> ServerReport {
        ServerReport {
            id: u64::from(self.slot),
            owner,
            session: user.map(SessionId::number),
            node: self.choice.backend.node.clone(),
            address: Arc::clone(self.target.address()),
            local: self.socket.addresses().1,
            opened: self.opened_at,
            pid: self.target.pid(),
            prepared: self.prepared.len(),
            tls: self.socket.tls(),
            application_name,
        }
    }

    /// Nobody else has used it since this session did.
    pub fn was_of(&self, session: SessionId) -> bool {
        self.last == Some(session)
    }
}

#[derive(Default)]
struct Slot {
    user: Option<SessionId>,
    pool: Option<u32>,
    free: Option<Box<Server>>,
}

struct Pool {
    key: Arc<[u8]>,
    /// Sessions that may use it.
    sessions: usize,
    /// Servers, those that are lent or being opened included.
    open: usize,
    /// Slots of those that nobody uses; the last was used last.
    free: Vec<u32>,
    queue: VecDeque<SessionId>,
    /// Servers from before are not lent again.
    renewed: Option<Instant>,
    /// As most servers report them: one copy for all.
    parameters: Arc<Parameters>,
}

/// What a session gets that asks for a server.
pub enum Taken {
    Server(Box<Server>),
    /// It is to open one itself.
    Open,
    /// It is woken when its turn comes.
    Wait,
}

/// What a session asks for.
pub struct Wanted<'a> {
    pub session: SessionId,
    /// What would best lie on the server.
    pub laid: &'a Laid,
    /// No primary, now.
    pub held: bool,
    /// No server at all, now.
    pub paused: bool,
    /// It is in the queue already.
    pub waits: bool,
}

pub struct Pools {
    limits: Limits,
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    /// Vacant from the next batch of events on.
    vacated: Vec<u32>,
    pools: Vec<Option<Pool>>,
    by_key: HashMap<Arc<[u8]>, u32>,
    /// No free server is too old before.
    pub next: Option<Instant>,
    /// Now, as far as the present batch of events goes.
    pub now: Instant,
}

impl Pools {
    pub fn new(limits: Limits) -> Pools {
        Pools {
            limits,
            slots: Vec::new(),
            vacant: Vec::new(),
            vacated: Vec::new(),
            pools: Vec::new(),
            by_key: HashMap::new(),
            next: None,
            now: Instant::now(),
        }
    }

    /// A place for a server of `user`.
    pub fn slot(&mut self, user: SessionId) -> u32 {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Slot { user: Some(user), pool: None, free: None };
        slot
    }

    /// For whom an event of the server in `slot` is.
    pub fn user(&self, slot: u32) -> Option<SessionId> {
        self.slots.get(slot as usize)?.user
    }

    /// The batch of events is over.
    pub fn turn(&mut self) {
        self.vacant.append(&mut self.vacated);
    }

    /// A server that is not lent has something to say: nothing that anybody could use.
    pub fn heard(&mut self, slot: u32, flags: EventFlags, buffer: &mut [u8], woken: &mut Vec<SessionId>) {
        let Some(server) = self.slots.get_mut(slot as usize).and_then(|slot| slot.free.as_mut()) else {
            return;
        };
        server.socket.note(flags);
        if server.socket.discard(buffer) != Discarded::Nothing {
            tracing::debug!(node = server.choice.backend.node, "a server that nobody used has ended");
            self.close_free(slot, woken);
        }
    }

    /// Makes a session one of the pool of `key`.
    pub fn join(&mut self, key: &[u8]) -> u32 {
        let number = match self.by_key.get(key) {
            Some(number) => *number,
            None => {
                let key: Arc<[u8]> = key.into();
                let number = self.pools.iter().position(Option::is_none).unwrap_or_else(|| {
                    self.pools.push(None);
                    self.pools.len() - 1
                });
                self.pools[number] = Some(Pool {
                    key: Arc::clone(&key),
                    sessions: 0,
                    open: 0,
                    free: Vec::new(),
                    queue: VecDeque::new(),
                    renewed: None,
                    parameters: Arc::default(),
                });
                self.by_key.insert(key, number as u32);
                number as u32
            }
        };
        if let Some(pool) = self.pool(number) {
            pool.sessions += 1;
        }
        number
    }

    /// A session of the pool brings the server in `slot`.
    pub fn bring(&mut self, number: u32, slot: u32) {
        self.slots[slot as usize].pool = Some(number);
        if let Some(pool) = self.pool(number) {
            pool.open += 1;
        }
    }

    /// The session that was to open a server for `pool` has it in `slot`.
    pub fn opened(&mut self, pool: u32, slot: u32) {
        // It is counted since it was to be opened.
        self.slots[slot as usize].pool = Some(pool);
    }

    /// The session that was to open a server for `pool` does not.
    pub fn not_opened(&mut self, pool: u32, woken: &mut Vec<SessionId>) {
        if let Some(pool) = self.pool(pool) {
            pool.open -= 1;
            woken.extend(pool.queue.front());
        }
    }

    /// The session waits no more.
    pub fn unqueue(&mut self, number: u32, session: SessionId, woken: &mut Vec<SessionId>) {
        let Some(pool) = self.pool(number) else { return };
        pool.queue.retain(|waiting| *waiting != session);
        woken.extend(pool.queue.front());
    }

    /// A session of the pool has ended.
    pub fn leave(&mut self, number: u32) {
        if let Some(pool) = self.pool(number) {
            pool.sessions -= 1;
        }
        self.drop_if_unused(number);
    }

    fn drop_if_unused(&mut self, number: u32) {
        let unused = |pool: &mut Pool| pool.sessions == 0 && pool.open == 0;
        if self.pool(number).is_some_and(unused)
            && let Some(pool) = self.pools[number as usize].take()
        {
            self.by_key.remove(&pool.key);
        }
    }

    fn pool(&mut self, number: u32) -> Option<&mut Pool> {
        self.pools.get_mut(number as usize)?.as_mut()
    }

    /// A server that suits; who gets none at once and has not waited yet is put into the queue.
    pub fn take(&mut self, number: u32, wanted: &Wanted<'_>, woken: &mut Vec<SessionId>) -> Taken {
        let Wanted { session, laid, held, .. } = *wanted;
        let (now, size) = (self.now, self.limits.size);
        let Pools { slots, pools, .. } = self;
        let Some(pool) = pools.get_mut(number as usize).and_then(Option::as_mut) else { return Taken::Wait };
        if wanted.paused
            || pool.queue.front().is_some_and(|first| *first != session)
            || held && pool.free.is_empty()
        {
            return pool.enqueue(wanted);
        }
        let mut closed = Vec::new();
        let mut found = None;
        while found.is_none() {
            let server = |slot: u32| slots[slot as usize].free.as_deref();
            let usable = |slot: &u32| server(*slot).is_some_and(|s| !held || s.choice.role != Role::Primary);
            let from = pool.free.len().saturating_sub(LOOKED_THROUGH);
            let alike = |slot: &u32| usable(slot) && server(*slot).is_some_and(|s| s.laid.is_same(laid));
            let best = (from..pool.free.len())
                .rev()
                .find(|at| alike(&pool.free[*at]))
                .or_else(|| (0..pool.free.len()).rev().find(|at| usable(&pool.free[*at])));
            let Some(at) = best else { break };
            let slot = pool.free.remove(at);
            let place = &mut slots[slot as usize];
            let Some(mut server) = place.free.take() else { continue };
            if now.duration_since(server.free_since) > FRESH && server.socket.has_ended() {
                closed.push(slot);
                continue;
            }
            place.user = Some(session);
            found = Some(server);
        }
        pool.open -= closed.len();
        self.vacated.extend(closed);
        let Some(pool) = self.pool(number) else { return Taken::Wait };
        let taken = match found {
            Some(server) => Taken::Server(server),
            None if held || pool.open >= size => return pool.enqueue(wanted),
            None => {
                pool.open += 1;
                Taken::Open
            }
        };
        if pool.queue.front() == Some(&session) {
            pool.queue.pop_front();
            woken.extend(pool.queue.front());
        }
        taken
    }

    /// The copy that all have who were told the same, most of them at least.
    pub fn shared(&mut self, number: u32, parameters: &mut Arc<Parameters>) {
        let Some(pool) = self.pool(number).filter(|pool| !Arc::ptr_eq(&pool.parameters, parameters)) else {
            return;
        };
        if pool.parameters == *parameters {
            *parameters = Arc::clone(&pool.parameters);
        } else {
            pool.parameters = Arc::clone(parameters);
        }
    }

    /// A session has no use for its server any more; somebody else may have it. `last`: the session whose unnamed statement is
    /// there.
    pub fn give_back(
        &mut self,
        mut server: Box<Server>,
        last: Option<SessionId>,
        woken: &mut Vec<SessionId>,
    ) {
        let (now, limits) = (self.now, self.limits);
        let slot = server.slot;
        let Some(number) = self.slots[slot as usize].pool else { return self.close(slot, woken) };
        let Some(pool) = self.pool(number) else { return self.close(slot, woken) };
        let is_old = pool.renewed.is_some_and(|renewed| server.opened_at < renewed);
        if is_old || pool.open > limits.size || now.duration_since(server.opened_at) > limits.lifetime {
            return self.close(slot, woken);
        }
        (server.free_since, server.last) = (now, last);
        pool.free.push(slot);
        woken.extend(pool.queue.front());
        self.slots[slot as usize].user = None;
        self.slots[slot as usize].free = Some(server);
        let until = now + limits.idle;
        self.next = Some(self.next.map_or(until, |next| next.min(until)));
    }

    /// Closes a server that its user has no use for, nor anybody else.
    pub fn end(&mut self, server: Box<Server>, woken: &mut Vec<SessionId>) {
        let slot = server.slot;
        drop(server);
        self.close(slot, woken);
    }

    /// The server in `slot`, which its user has dropped, is no more.
    pub fn close(&mut self, slot: u32, woken: &mut Vec<SessionId>) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        let pool = std::mem::take(place).pool;
        self.vacated.push(slot);
        let Some(number) = pool else { return };
        if let Some(pool) = self.pool(number) {
            pool.open -= 1;
            woken.extend(pool.queue.front());
        }
        self.drop_if_unused(number);
    }

    fn close_free(&mut self, slot: u32, woken: &mut Vec<SessionId>) {
        let number = self.slots[slot as usize].pool;
        if let Some(pool) = number.and_then(|number| self.pool(number)) {
            pool.free.retain(|free| *free != slot);
        }
        self.close(slot, woken);
    }

    /// Those that nobody uses.
    pub fn report(&self) -> Vec<ServerReport> {
        let report = |slot: &Slot| {
            let (server, pool) = (slot.free.as_deref()?, self.pools.get(slot.pool? as usize)?.as_ref()?);
            let startup = &pool.key[1..];
            let name = startup_value(startup, "application_name").unwrap_or_default();
            Some(server.report(None, Owner::of(startup), name))
        };
        self.slots.iter().filter_map(report).collect()
    }

    /// All who wait look again.
    pub fn wake_all(&self, woken: &mut Vec<SessionId>) {
        woken.extend(self.pools.iter().flatten().flat_map(|pool| &pool.queue));
    }

    /// Closes the servers of `database`, or of all: free ones now, others when they are given back.
    pub fn renew(&mut self, database: Option<&str>, woken: &mut Vec<SessionId>) {
        let now = Instant::now();
        let mut renewed = Vec::new();
        for (number, pool) in self.pools.iter_mut().enumerate() {
            let Some(pool) = pool else { continue };
            if database.is_none_or(|database| Owner::of(&pool.key[1..]).database == database) {
                pool.renewed = Some(now);
                renewed.append(&mut pool.free);
                tracing::debug!(pool = number, "its servers are closed");
            }
        }
        renewed.into_iter().for_each(|slot| self.close(slot, woken));
    }

    /// Closes what may not be used any more, and wakes who waits: there may be others to open.
    pub fn look(&mut self, topology: &Topology, woken: &mut Vec<SessionId>) {
        self.close_where(woken, |server| server.choice.cut(topology).is_some());
        woken.extend(self.pools.iter().flatten().filter_map(|pool| pool.queue.front()));
    }

    /// Closes what nobody has used for long. To be called when `next` has come.
    pub fn mind_age(&mut self, woken: &mut Vec<SessionId>) {
        let (now, Limits { idle, lifetime, .. }) = (self.now, self.limits);
        self.close_where(woken, |server| {
            now.duration_since(server.free_since) >= idle || now.duration_since(server.opened_at) > lifetime
        });
        let since = self.slots.iter().filter_map(|slot| Some(slot.free.as_ref()?.free_since)).min();
        self.next = since.map(|since| since + idle);
    }

    fn close_where(&mut self, woken: &mut Vec<SessionId>, ends: impl Fn(&Server) -> bool) {
        let ended = |(_, slot): &(usize, &Slot)| slot.free.as_deref().is_some_and(&ends);
        let ended: Vec<u32> =
            self.slots.iter().enumerate().filter(ended).map(|(slot, _)| slot as u32).collect();
        ended.into_iter().for_each(|slot| self.close_free(slot, woken));
    }
}

impl Pool {
    fn enqueue(&mut self, wanted: &Wanted<'_>) -> Taken {
        if !wanted.waits {
            self.queue.push_back(wanted.session);
        }
        Taken::Wait
    }
}
