//! The servers of one worker: who has each, and which are free for whom.
//!
//! What it is: pools of connections that were logged in with one and the same start-up packet, so that any session of it may
//! use any of them; and the queues of sessions that wait for one. What it is not: the judge of when a session may part from its
//! server (`relay::lent`), nor the way to a new one (`relocation`). Invariants: a server has one user or none; none is
//! lent that the topology of that moment does not allow; who waits longest is served first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::SessionId;
use super::report::ServerReport;
use super::socket::{Discarded, Socket};
use crate::backend::{Choice, Role};
use crate::cancel::Target;
use crate::ceilings::Crowd;
use crate::routes::{Moment, Seen};
use crate::servers::Seat;
use crate::shares::Prepared;
use crate::tally::{Owner, startup_value};
use crate::ties::{Laid, Parameters};
use crate::topology::{Backend, Topology};

/// So many free servers are looked through for one that is as the session left its last.
const LOOKED_THROUGH: usize = 8;
/// After this a server is asked before it is lent whether it has closed: the event may not have been read yet.
const FRESH: Duration = Duration::from_millis(500);

/// A replica that no server could be opened on is not tried again before, while there are others.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// A replica gets its share of a pool's servers one at a time, the next no sooner: one that has just come has cold caches.
const SHARE_PACE: Duration = Duration::from_millis(200);

/// While servers stay that are idle, their age is minded so often.
const MIND_AGAIN: Duration = Duration::from_secs(1);

/// How servers are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Servers of one pool of this worker.
    pub size: usize,
    /// Of these, such as stay though nobody uses them.
    pub min: usize,
    /// So many more for those who have waited long enough.
    pub reserve: usize,
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
    /// Where its server is, by place in the pool's list.
    node: usize,
    free: Option<Box<Server>>,
}

struct Pool {
    key: Arc<[u8]>,
    /// Sessions that may use it.
    sessions: usize,
    /// Servers, those that are lent or being opened included.
    open: usize,
    /// Of these, being opened.
    opening: usize,
    nodes: Vec<Node>,
    /// Servers that were lent so far.
    lent: u64,
    /// Slots of those that nobody uses; the last was used last.
    free: Vec<u32>,
    queue: VecDeque<SessionId>,
    /// Servers from before are not lent again.
    renewed: Option<Instant>,
    /// As most servers report them: one copy for all.
    parameters: Arc<Parameters>,
}

/// A pool's servers at one address.
struct Node {
    address: String,
    open: usize,
    /// Of these, lent.
    busy: usize,
    /// When one was lent last, by the pool's count.
    last: u64,
    /// When one was to be opened there to begin with.
    tried: Option<Instant>,
}

/// What a session gets that asks for a server.
pub enum Taken {
    Server(Box<Server>),
    /// It is to open one itself, best of all at this address.
    Open(Option<String>),
    /// It is woken when its turn comes.
    Wait,
    /// There are servers enough, but none has what the session must see.
    Elsewhere,
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
    /// It has waited long enough for one of the reserve.
    pub is_patient: bool,
    /// The limits above the pools allow one more server.
    pub may_open: &'a dyn Fn() -> bool,
    /// As it is now: it may be newer than what the free servers were looked at by.
    pub topology: &'a Topology,
    /// Where it may read, best of all on one that is less used; none for who writes.
    pub replicas: &'a [Backend],
    /// No server could be opened at this address lately.
    pub is_out: &'a dyn Fn(&str) -> bool,
    pub seen: &'a Seen,
    /// It must see everything up to then.
    pub since: Moment,
}

/// Where a pool should have one more server.
struct Lack {
    address: String,
    /// It has one there already, and takes another's place.
    is_for_share: bool,
}

impl Wanted<'_> {
    fn is_usable(&self, server: &Server) -> bool {
        let serves = match server.choice.role {
            Role::Primary => !self.held,
            Role::Replica => self.seen.serves(&server.choice.backend.address, self.since),
        };
        serves && server.choice.is_right(self.topology)
    }

    /// There is one at least to open a server on.
    fn has_room(&self) -> bool {
        let serves = |replica: &Backend| self.seen.serves(&replica.address, self.since);
        !self.held || self.replicas.iter().any(serves)
    }
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
        self.slots[slot as usize] = Slot { user: Some(user), ..Slot::default() };
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
                    opening: 0,
                    nodes: Vec::new(),
                    lent: 0,
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

    /// A session of the pool brings a server, which it uses.
    pub fn bring(&mut self, number: u32, server: &Server) {
        if let Some(pool) = self.pool(number) {
            pool.open += 1;
        }
        self.enter(number, server);
    }

    /// The session that was to open a server for `pool` has it, and uses it.
    pub fn opened(&mut self, number: u32, server: &Server) {
        // It is counted since it was to be opened.
        if let Some(pool) = self.pool(number) {
            pool.opening -= 1;
        }
        self.enter(number, server);
    }

    fn enter(&mut self, number: u32, server: &Server) {
        let Some(pool) = self.pool(number) else { return };
        let node = pool.node(&server.choice.backend.address);
        pool.nodes[node].open += 1;
        pool.lend(node);
        let slot = &mut self.slots[server.slot as usize];
        (slot.pool, slot.node) = (Some(number), node);
    }

    /// The session that was to open a server for `pool` does not.
    pub fn not_opened(&mut self, pool: u32, woken: &mut Vec<SessionId>) {
        if let Some(pool) = self.pool(pool) {
            pool.open -= 1;
            pool.opening -= 1;
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
        let reserve = if wanted.is_patient { self.limits.reserve } else { 0 };
        let (session, size, now) = (wanted.session, self.limits.size + reserve, self.now);
        let Pools { slots, pools, .. } = self;
        let Some(pool) = pools.get_mut(number as usize).and_then(Option::as_mut) else { return Taken::Wait };
        let is_next = pool.queue.front().is_none_or(|first| *first == session);
        if wanted.paused || !is_next {
            return pool.enqueue(wanted);
        }
        let lacks = pool.lacks_one_of(slots, wanted, size, now);
        // One more can be opened, or one that is closed for it makes room.
        let lacks = lacks.filter(|lack| lack.is_for_share || pool.open >= size || (wanted.may_open)());
        let found = if lacks.is_some() { None } else { self.find(number, wanted) };
        if let Some(lack) = &lacks {
            self.make_room(number, if lack.is_for_share { 0 } else { size }, woken);
        }
        let Some(pool) = self.pool(number) else { return Taken::Wait };
        let taken = match found {
            Some(server) => Taken::Server(server),
            None if !wanted.has_room() => return pool.enqueue(wanted),
            // Who would wait for a place above waits here, where servers are given back.
            None if pool.open < size && pool.open > pool.opening && !(wanted.may_open)() => {
                return pool.enqueue(wanted);
            }
            None if pool.open < size => {
                pool.open += 1;
                pool.opening += 1;
                if let Some(lack) = &lacks {
                    let node = pool.node(&lack.address);
                    pool.nodes[node].tried = Some(now);
                }
                Taken::Open(lacks.map(|lack| lack.address))
            }
            // All that are free are of no use to this session.
            None if !pool.free.is_empty() && wanted.since > Moment::default() => Taken::Elsewhere,
            None if !pool.free.is_empty() && !wanted.held => {
                self.make_room(number, size, woken);
                return self.take(number, wanted, woken);
            }
            None => return pool.enqueue(wanted),
        };
        if pool.queue.front() == Some(&session) {
            pool.queue.pop_front();
            woken.extend(pool.queue.front());
        }
        taken
    }

    /// Closes a free server if the pool has `size` of them: where it has most, the one that was used longest ago.
    fn make_room(&mut self, number: u32, size: usize, woken: &mut Vec<SessionId>) {
        let Pools { slots, pools, .. } = self;
        let pool = pools.get(number as usize).and_then(Option::as_ref).filter(|pool| pool.open >= size);
        let spare = pool.and_then(|pool| {
            // Of equals the first is taken.
            pool.free.iter().rev().max_by_key(|slot| pool.nodes[slots[**slot as usize].node].open).copied()
        });
        if let Some(spare) = spare {
            self.close_free(spare, woken);
        }
    }

    /// The best of those that are free, lent to the session.
    fn find(&mut self, number: u32, wanted: &Wanted<'_>) -> Option<Box<Server>> {
        let now = self.now;
        loop {
            let Pools { slots, pools, .. } = self;
            let pool = pools.get_mut(number as usize)?.as_mut()?;
            let at = pool.best(slots, wanted)?;
            let slot = pool.free.remove(at);
            let place = &mut slots[slot as usize];
            let mut server = place.free.take()?;
            if now.duration_since(server.free_since) > FRESH && server.socket.has_ended() {
                pool.open -= 1;
                pool.nodes[place.node].open -= 1;
                *place = Slot::default();
                self.vacated.push(slot);
                continue;
            }
            place.user = Some(wanted.session);
            pool.lend(place.node);
            return Some(server);
        }
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
        // One of the reserve stays as long as somebody waits.
        let is_surplus =
            pool.open > limits.size + limits.reserve || pool.open > limits.size && pool.queue.is_empty();
        if is_old || is_surplus || now.duration_since(server.opened_at) > limits.lifetime {
            return self.close(slot, woken);
        }
        (server.free_since, server.last) = (now, last);
        let place = &mut self.slots[slot as usize];
        (place.user, place.free) = (None, Some(server));
        let node = place.node;
        if let Some(pool) = self.pool(number) {
            pool.nodes[node].busy -= 1;
            pool.free.push(slot);
            woken.extend(pool.queue.front());
        }
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
        let Slot { user, pool, node, .. } = std::mem::take(place);
        self.vacated.push(slot);
        let Some(number) = pool else { return };
        if let Some(pool) = self.pool(number) {
            pool.open -= 1;
            pool.nodes[node].open -= 1;
            pool.nodes[node].busy -= usize::from(user.is_some());
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

    /// Closes the server of this crowd that has been free for longest.
    pub fn make_room_for(&mut self, crowd: &Crowd, woken: &mut Vec<SessionId>) {
        let Pools { slots, pools, .. } = self;
        let pools = pools.iter().flatten().filter(|pool| !pool.free.is_empty());
        let meant = pools.filter(|pool| crowd.has(&Owner::of(&pool.key[1..])));
        let since = |slot: &u32| slots[*slot as usize].free.as_ref().map(|server| server.free_since);
        let oldest = meant.flat_map(|pool| &pool.free).min_by_key(|slot| since(slot));
        if let Some(oldest) = oldest.copied() {
            self.close_free(oldest, woken);
        }
    }

    /// All who wait look again.
    pub fn wake_all(&self, woken: &mut Vec<SessionId>) {
        woken.extend(self.pools.iter().flatten().flat_map(|pool| &pool.queue));
    }

    /// Closes the servers of `database`, or of all: free ones now, others when they are given back.
    pub fn renew(&mut self, database: Option<&str>, woken: &mut Vec<SessionId>) {
        let now = Instant::now();
        let mut renewed = Vec::new();
        for pool in self.pools.iter_mut().flatten() {
            if database.is_none_or(|database| Owner::of(&pool.key[1..]).database == database) {
                pool.renewed = Some(now);
                renewed.append(&mut pool.free);
            }
        }
        renewed.into_iter().for_each(|slot| self.close(slot, woken));
    }

    /// Closes what may not be used any more, and wakes who waits: there may be others to open.
    pub fn look(&mut self, topology: &Topology, woken: &mut Vec<SessionId>) {
        self.close_where(woken, |server| !server.choice.is_right(topology));
        woken.extend(self.pools.iter().flatten().filter_map(|pool| pool.queue.front()));
    }

    /// Closes what nobody has used for long. To be called when `next` has come.
    pub fn mind_age(&mut self, woken: &mut Vec<SessionId>) {
        let (now, Limits { min, idle, lifetime, .. }) = (self.now, self.limits);
        self.close_where(woken, |server| now.duration_since(server.opened_at) > lifetime);
        // Those that were used longest ago come first.
        let is_idle = |slot: &&u32| {
            let server = self.slots[**slot as usize].free.as_ref();
            server.is_some_and(|server| now.duration_since(server.free_since) >= idle)
        };
        let mut idle_ones = Vec::new();
        for pool in self.pools.iter().flatten() {
            let kept = if pool.sessions > 0 { min } else { 0 };
            idle_ones.extend(pool.free.iter().filter(is_idle).take(pool.open.saturating_sub(kept)));
        }
        idle_ones.into_iter().for_each(|slot: u32| self.close_free(slot, woken));
        let since = self.slots.iter().filter_map(|slot| Some(slot.free.as_ref()?.free_since)).min();
        // Those that stay are looked at again after as long.
        self.next = since.map(|since| (since + idle).max(now + idle.min(MIND_AGAIN)));
    }

    fn close_where(&mut self, woken: &mut Vec<SessionId>, ends: impl Fn(&Server) -> bool) {
        let ended = |(_, slot): &(usize, &Slot)| slot.free.as_deref().is_some_and(&ends);
        let ended: Vec<u32> =
            self.slots.iter().enumerate().filter(ended).map(|(slot, _)| slot as u32).collect();
        ended.into_iter().for_each(|slot| self.close_free(slot, woken));
    }
}

impl Pool {
    /// The place of the servers at `address` in the list.
    fn node(&mut self, address: &str) -> usize {
        self.nodes.iter().position(|node| node.address == address).unwrap_or_else(|| {
            self.nodes.push(Node { address: address.to_owned(), open: 0, busy: 0, last: 0, tried: None });
            self.nodes.len() - 1
        })
    }

    fn lend(&mut self, node: usize) {
        self.lent += 1;
        self.nodes[node].busy += 1;
        self.nodes[node].last = self.lent;
    }

    /// Where the session may read and this pool has no server, or two less than where it has a free one; only where there is a
    /// choice, and none is about to be opened.
    fn lacks_one_of(&self, slots: &[Slot], wanted: &Wanted<'_>, size: usize, now: Instant) -> Option<Lack> {
        if wanted.replicas.len() < 2 || self.opening > 0 || self.free.is_empty() {
            return None;
        }
        let spare = self.free.iter().map(|slot| self.nodes[slots[*slot as usize].node].open).max()?;
        let has_place = self.open < size || wanted.replicas.len() <= size;
        let lack = |replica: &Backend| {
            let node = self.nodes.iter().find(|node| node.address == replica.address);
            let open = node.map_or(0, |node| node.open);
            let rests = if open == 0 { TRY_AGAIN } else { SHARE_PACE };
            let rested =
                node.and_then(|node| node.tried).is_none_or(|tried| now.duration_since(tried) >= rests);
            let lacks = if open == 0 { has_place } else { self.open <= size && open + 1 < spare };
            (lacks && rested).then(|| Lack { address: replica.address.clone(), is_for_share: open > 0 })
        };
        let fit =
            |lack: &Lack| wanted.seen.serves(&lack.address, wanted.since) && !(wanted.is_out)(&lack.address);
        wanted.replicas.iter().filter_map(lack).find(fit)
    }

    /// The free server of the least busy node, of these the node that was asked longest ago; there one that is laid out as the
    /// session needs it, of those that were used last.
    fn best(&self, slots: &[Slot], wanted: &Wanted<'_>) -> Option<usize> {
        let usable = |at: &usize| {
            let server = slots[self.free[*at] as usize].free.as_deref();
            server.is_some_and(|server| wanted.is_usable(server))
        };
        let node_of = |at: usize| slots[self.free[at] as usize].node;
        let last = match self.nodes.len() {
            1 => (0..self.free.len()).rev().find(usable)?,
            _ => (0..self.free.len()).rev().filter(usable).min_by_key(|at| {
                let node = &self.nodes[node_of(*at)];
                // One of a primary is there from a time when no replica was fit.
                let is_of_replica = wanted.replicas.iter().any(|replica| replica.address == node.address);
                (!is_of_replica, node.busy, node.last)
            })?,
        };
        let is_alike = |at: &usize| {
            let server = slots[self.free[*at] as usize].free.as_deref();
            node_of(*at) == node_of(last)
                && server.is_some_and(|server| server.laid.is_same(wanted.laid))
                && usable(at)
        };
        let from = self.free.len().saturating_sub(LOOKED_THROUGH);
        (from..self.free.len()).rev().find(is_alike).or(Some(last))
    }

    fn enqueue(&mut self, wanted: &Wanted<'_>) -> Taken {
        if !wanted.waits {
            self.queue.push_back(wanted.session);
        }
        Taken::Wait
    }
}
