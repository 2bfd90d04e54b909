//! The loop of one worker.
//!
//! What it is: events, mails and deadlines, each brought to the session that it is for. What it is not: what a session does
//! with them. Invariants: a place is given to another session only after the batch of events that was read before; a session
//! that panics ends alone.

use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::guide::Guide;
use super::pools::{Limits, Pools};
use super::report::{Report, split_id};
use super::session::{Around, Session, Side};
use super::{Adopted, Mail, Mailbox, Order, SessionId};
use crate::tally::Accounts;
use crate::topology::Topology;
use crate::{Shared, Stage};

/// Events of one batch. More wait in the kernel.
const EVENTS_MAX: usize = 256;
/// One read. Linux hands out loopback data in pieces of up to 64 KiB, but four reads cost little beside the copying.
const READ_MAX: usize = 16 * 1024;
/// The bell's events; no session has this place.
const BELL: u64 = u64::MAX;

pub struct Engine {
    /// Among the workers.
    number: usize,
    places: Vec<Place>,
    free: Vec<u32>,
    /// Places that are free from the next batch on.
    freed: Vec<u32>,
    common: Common,
    /// What was seen of them last.
    topology: watch::Receiver<Topology>,
    stage: watch::Receiver<Stage>,
    published: bool,
    /// No session has a deadline before.
    next: Option<Instant>,
    quits: bool,
}

/// What the sessions of a worker use in turn.
struct Common {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    runtime: Handle,
    epoll: OwnedFd,
    buffer: Vec<u8>,
    pools: Pools,
    accounts: Accounts,
    guide: Guide,
    /// Sessions that have more to do than they could do in their turn.
    again: Vec<SessionId>,
}

impl Common {
    fn around(&mut self, id: SessionId) -> Around<'_> {
        Around {
            id,
            shared: &self.shared,
            mailbox: &self.mailbox,
            runtime: &self.runtime,
            epoll: self.epoll.as_fd(),
            buffer: &mut self.buffer,
            pools: &mut self.pools,
            accounts: &mut self.accounts,
            guide: &mut self.guide,
            again: &mut self.again,
        }
    }
}

#[derive(Default)]
struct Place {
    generation: u32,
    session: Option<Box<Session>>,
}

impl Engine {
    pub fn new(
        number: usize,
        shared: Arc<Shared>,
        mailbox: Arc<Mailbox>,
        runtime: Handle,
    ) -> io::Result<Engine> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let config = &shared.config;
        let limits = Limits {
            // A session stays with its worker, and so do the servers.
            size: config.pool_size.div_ceil(config.threads.max(1)),
            min: config.pool_min.div_ceil(config.threads.max(1)),
            reserve: config.pool_reserve.div_ceil(config.threads.max(1)),
            idle: config.server_idle_timeout,
            lifetime: config.server_lifetime,
        };
        epoll::add(&epoll, &mailbox.bell, EventData::new_u64(BELL), EventFlags::IN)?;
        let common = Common {
            guide: Guide::default(),
            mailbox,
            runtime,
            epoll,
            buffer: vec![0; READ_MAX],
            pools: Pools::new(limits),
            accounts: Accounts::default(),
            again: Vec::new(),
            shared,
        };
        Ok(Engine {
            number,
            places: Vec::new(),
            free: Vec::new(),
            freed: Vec::new(),
            topology: common.shared.topology.clone(),
            stage: common.shared.stage.subscribe(),
            published: true,
            next: None,
            quits: false,
            common,
        })
    }

    pub fn run(mut self) {
        let mut events = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        while !self.quits {
            let timeout = self.timeout();
            let ready = match epoll::wait(&self.common.epoll, &mut events, timeout.as_ref()) {
                Ok((ready, _)) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "a worker of the proxy cannot wait for its sessions, which end");
                    break;
                }
            };
            self.common.pools.now = Instant::now();
            // A server that has ended is closed before a client of the same batch could be lent it.
            for event in &*ready {
                self.ready_if_free(event.data.u64(), event.flags);
            }
            // What was published before these bytes came is known before they are looked at.
            self.look_if_changed();
            for event in ready {
                match event.data.u64() {
                    BELL => self.read_mail(),
                    data => self.ready(data, event.flags),
                }
            }
            for session in std::mem::take(&mut self.common.again) {
                self.visit(session, Session::step);
            }
            self.mind_deadlines();
            self.free.append(&mut self.freed);
            self.common.pools.turn();
        }
        for place in 0..self.places.len() as u32 {
            self.end(place);
        }
    }

    fn look_if_changed(&mut self) {
        let topology = self.topology.has_changed();
        // That nobody publishes any more is news once.
        let was_published = std::mem::replace(&mut self.published, topology.is_ok());
        if !topology.unwrap_or(was_published) && !self.stage.has_changed().unwrap_or(false) {
            return;
        }
        self.topology.mark_unchanged();
        self.stage.mark_unchanged();
        self.common.pools.look(&self.topology.borrow(), &mut self.common.again);
        for id in self.present() {
            self.visit(id, Session::look);
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let left = match self.common.again.is_empty() {
            false => Duration::ZERO,
            // A little later rather than a little before, which would be a turn for nothing.
            true => self.deadline()?.saturating_duration_since(Instant::now()) + Duration::from_millis(1),
        };
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() })
    }

    fn ready_if_free(&mut self, data: u64, flags: EventFlags) {
        let slot = (data >> 1) as u32;
        if data != BELL && Side::of(data) == Side::Server && self.common.pools.user(slot).is_none() {
            self.common.pools.heard(slot, flags, &mut self.common.buffer, &mut self.common.again);
        }
    }

    fn ready(&mut self, data: u64, flags: EventFlags) {
        let (number, side) = ((data >> 1) as u32, Side::of(data));
        let session = match side {
            Side::Client => self
                .places
                .get(number as usize)
                .map(|place| SessionId { place: number, generation: place.generation }),
            Side::Server => self.common.pools.user(number),
        };
        match session {
            Some(id) => self.visit(id, |session, around| {
                session.note(side, flags);
                session.step(around)
            }),
            None => self.common.pools.heard(number, flags, &mut self.common.buffer, &mut self.common.again),
        }
    }

    /// Nothing has to be done before, as far as nothing is heard.
    fn deadline(&self) -> Option<Instant> {
        [self.next, self.common.pools.next].into_iter().flatten().min()
    }

    /// Lets a session act; `false` of it is its end.
    fn visit(&mut self, id: SessionId, act: impl FnOnce(&mut Session, &mut Around<'_>) -> bool) {
        let Some(place) = self.places.get_mut(id.place as usize) else { return };
        let Some(session) = place.session.as_mut().filter(|_| place.generation == id.generation) else {
            return;
        };
        let mut around = self.common.around(id);
        let goes_on = catch_unwind(AssertUnwindSafe(|| act(session, &mut around))).unwrap_or_else(|_| {
            tracing::error!("a session of the proxy panicked; only that session ended");
            false
        });
        if goes_on {
            self.next = [self.next, session.deadline(&self.common.shared)].into_iter().flatten().min();
        } else {
            self.end(id.place);
        }
    }

    fn end(&mut self, number: u32) {
        let place = &mut self.places[number as usize];
        let id = SessionId { place: number, generation: place.generation };
        if let Some(session) = place.session.take() {
            self.freed.push(number);
            session.end(id, &mut self.common.pools, &mut self.common.again);
            self.common.shared.workers.ended(&self.common.mailbox);
        }
    }

    /// All sessions that are there now.
    fn present(&self) -> Vec<SessionId> {
        let id = |(number, place): (usize, &Place)| {
            place.session.as_ref().map(|_| SessionId { place: number as u32, generation: place.generation })
        };
        self.places.iter().enumerate().filter_map(id).collect()
    }

    fn mind_deadlines(&mut self) {
        let now = Instant::now;
        if self.deadline().is_none_or(|next| now() < next) {
            return;
        }
        if self.common.pools.next.is_some_and(|next| next <= now()) {
            self.common.pools.mind_age(&mut self.common.again);
        }
        self.next = None;
        for id in self.present() {
            self.visit(id, |session, around| match session.deadline(around.shared) {
                Some(deadline) if deadline <= now() => session.time_out(around),
                _ => true,
            });
        }
    }

    fn adopt(&mut self, adopted: Adopted) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() as u32 - 1
        });
        let generation = self.places[place as usize].generation.wrapping_add(1);
        let id = SessionId { place, generation };
        match Session::new(adopted, &mut self.common.around(id)) {
            Ok((session, unseen)) => {
                self.places[place as usize] = Place { generation, session: Some(Box::new(session)) };
                self.visit(id, |session, around| session.begin(unseen, around));
            }
            Err(error) => {
                tracing::warn!(%error, "a session ends: its sockets cannot be watched");
                self.freed.push(place);
                self.common.shared.workers.ended(&self.common.mailbox);
            }
        }
    }

    fn report(&self) -> Report {
        let mut report = Report {
            servers: self.common.pools.report(),
            tallies: self.common.accounts.list().to_vec(),
            ..Report::default()
        };
        for id in self.present() {
            let session = self.places.get(id.place as usize).and_then(|place| place.session.as_ref());
            if let Some(session) = session {
                let (session, server) = session.report(id);
                report.sessions.push(session);
                report.servers.extend(server);
            }
        }
        report
    }

    fn obey(&mut self, order: &Order) {
        match order {
            Order::Resume => self.common.pools.wake_all(&mut self.common.again),
            Order::Reconnect(database) => {
                self.common.pools.renew(database.as_deref(), &mut self.common.again)
            }
            Order::MakeRoom(crowd) => self.common.pools.make_room_for(crowd, &mut self.common.again),
            Order::Kill(database) => {
                self.kill(|_, session| database.as_ref().is_none_or(|d| *d == session.owner().database));
                self.common.pools.renew(database.as_deref(), &mut self.common.again);
            }
            Order::KillSession(number) => {
                let (worker, number) = split_id(*number);
                if worker == self.number {
                    self.kill(|id, _| id.number() == number);
                }
            }
        }
    }

    fn kill(&mut self, is_meant: impl Fn(SessionId, &Session) -> bool) {
        for id in self.present() {
            self.visit(id, |session, around| !is_meant(id, session) || session.kill(around));
        }
    }

    fn read_mail(&mut self) {
        for mail in self.common.mailbox.empty() {
            match mail {
                Mail::Adopt(adopted) => self.adopt(*adopted),
                Mail::Look => self.look_if_changed(),
                Mail::LookAtReplicas => {
                    let Common { shared, guide, again, .. } = &mut self.common;
                    guide.look(&shared.freshness, again);
                }
                Mail::Wake(id) => self.visit(id, Session::step),
                Mail::Relocated(id, found) => {
                    self.visit(id, |session, around| session.relocated(*found, around));
                }
                Mail::Report(answer) => {
                    // Who has asked may not wait any more.
                    let _ = answer.send(self.report());
                }
                Mail::Order(order) => self.obey(&order),
                Mail::Quit => self.quits = true,
            }
        }
    }
}
