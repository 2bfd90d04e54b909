//! Data directories made from others: clone and rewind, step by step.
//!
//! Invariant: an id never outlives what it stood for, and what is half made says so on disk until it is whole.

use brain::{NodeName, Term, Upstream};

use crate::exec::{Next, Op};
use crate::sabotage::Sabotage;
use crate::server::Process;
use crate::wal::Wal;
use crate::world::World;

/// A rewound server streams within this: its start takes 3 s at most here, its connection some 100 ms.
const REWOUND_US_MAX: u64 = 5_000_000;

/// What a data directory is made from.
#[derive(Clone, Copy)]
enum From {
    Node(usize),
    /// A host of the origin.
    Host(usize),
}

impl World {
    /// The source of a copy: up, reachable, and which run of it. A replica may be copied as well.
    fn source(&self, node: usize, source: &NodeName) -> Option<(From, u64)> {
        let found = self.reached(node, source).filter(|(from, _)| {
            let server = &self.nodes[*from].server;
            server.writes() || server.up() && server.complete
        });
        self.or_host(node, source, found)
    }

    /// The source of a rewind is a primary.
    fn writer(&self, node: usize, source: &NodeName) -> Option<(From, u64)> {
        let found = self.reached(node, source).filter(|(from, _)| self.nodes[*from].server.writes());
        self.or_host(node, source, found)
    }

    fn or_host(&self, node: usize, source: &NodeName, found: Option<(usize, u64)>) -> Option<(From, u64)> {
        let host = || self.origin_source(node, source).map(|(host, run)| (From::Host(host), run));
        found.map(|(from, epoch)| (From::Node(from), epoch)).or_else(host)
    }

    fn log_of(&self, from: From) -> Option<&Wal> {
        match from {
            From::Node(from) => self.nodes[from].server.wal.as_ref(),
            From::Host(host) => self.origin_log(host),
        }
    }

    fn reached(&self, node: usize, source: &NodeName) -> Option<(usize, u64)> {
        let from = self.index_of(source)?;
        let server = &self.nodes[from].server;
        let reachable = self.net.stream(node, from) && self.net.stream(from, node);
        (from != node && reachable && !server.frozen).then_some((from, server.epoch))
    }

    pub(crate) fn do_clone(&mut self, node: usize, op: &mut Op, term: Term, source: &NodeName) -> Next {
        match op.step {
            0 => Next::Step(1, self.fsync(node)),
            1 if self.refuses(node, term) => Next::Failed("refused: the promise is higher"),
            1 => {
                self.promise(node, term, true);
                if source.is_origin() {
                    // As the words are written before the work begins. For one that copies within the cluster the model has
                    // it later, when the source has been found.
                    self.forsake(node);
                }
                let Some((_, epoch)) = self.source(node, source) else {
                    return Next::Failed("the source is not reachable");
                };
                op.mark = epoch;
                Next::Step(2, self.dice.millis(100..1_500))
            }
            2 => {
                if self.source(node, source).is_none_or(|(_, epoch)| epoch != op.mark) {
                    return Next::Failed("the source went away");
                }
                if !source.is_origin() {
                    self.forsake(node);
                }
                self.nodes[node].server.half_made = true;
                Next::Step(3, self.dice.within(1_000..20_000))
            }
            _ => {
                let Some((from, _)) = self.source(node, source).filter(|(_, epoch)| *epoch == op.mark) else {
                    return Next::Failed("the source went away");
                };
                let aside = self.sabotage != Some(Sabotage::AsideDeleted);
                self.copy(from, node, Some(aside));
                let durable = &mut self.nodes[node].durable;
                (durable.needs_clone, durable.rewound) = (false, false);
                self.check_new_directory(node);
                Next::Done
            }
        }
    }

    /// The old server ends and the old id dies first: an id never outlives what it stood for.
    fn forsake(&mut self, node: usize) {
        let keep = self.sabotage == Some(Sabotage::CloneKeepsMember);
        self.give_up(node);
        let member = self.new_member(node);
        let host = &mut self.nodes[node];
        host.server.crash();
        if !keep || host.durable.member.is_none() {
            host.durable.member = Some(member);
        }
        host.durable.needs_clone = true;
    }

    /// The data directory is needed by no takeover any more: it is rewound or replaced.
    fn give_up(&mut self, node: usize) {
        if let Some(what) = crate::checkers::given_up(self, node) {
            self.violate("I7", node, what);
        }
    }

    /// The data directory becomes a copy of another; the old one stands `aside`, or only what it has kept is left of it.
    fn copy(&mut self, from: From, to: usize, aside: Option<bool>) {
        let wal = self.log_of(from).map(Wal::copy_flushed);
        if let (Some(old), Some(new)) = (&self.nodes[to].server.wal, &wal)
            && let Some(what) = crate::checkers::replaced(old, new, &self.nodes[to].kept, aside)
        {
            self.violate("I7", to, what);
        }
        if aside == Some(true) {
            self.set_aside(to);
        }
        let host = &mut self.nodes[to];
        host.server.roles = wal.as_ref().is_some_and(Wal::has_roles);
        host.server.wal = wal;
        host.server.half_made = false;
        host.server.slots.clear();
    }

    /// To rewind is to follow: the promise and the mark come first, and the server is started following its source.
    pub(crate) fn do_rewind(&mut self, node: usize, op: &mut Op, term: Term, source: &NodeName) -> Next {
        let (id, now) = (self.next_id(), self.now_us);
        let refused = self.refuses(node, term);
        match op.step {
            0 | 1 if refused => Next::Failed("refused: the promise is higher"),
            0 => Next::Step(1, self.fsync(node)),
            1 => {
                self.promise(node, term, true);
                self.give_up(node);
                let host = &mut self.nodes[node];
                host.durable.rewound = true;
                host.server.stop_clean(id);
                // Who has a slot here holds a beginning of WAL that is about to be another.
                host.server.slots.clear();
                Next::Step(2, self.dice.millis(20..200))
            }
            2 => {
                let Some((_, epoch)) = self.writer(node, source) else {
                    return Next::Failed("the source is not reachable");
                };
                op.mark = epoch;
                self.nodes[node].server.half_made = true;
                Next::Step(3, self.dice.millis(50..600))
            }
            3 => {
                let Some((from, _)) = self.writer(node, source).filter(|(_, epoch)| *epoch == op.mark) else {
                    return Next::Failed("the source went away");
                };
                let theirs = self.log_of(from).map(Wal::history);
                let own = self.nodes[node].server.wal.as_ref().map(Wal::history);
                let begins =
                    own.as_ref().zip(theirs.as_ref()).is_none_or(|(own, theirs)| own.begins_as(theirs));
                // "no rewind required": the same timeline id is taken for the same timeline.
                if theirs.map(|history| history.current) != own.map(|history| history.current) {
                    self.keep_diverged(from, node);
                    self.copy(from, node, None);
                } else if !begins && self.sabotage != Some(Sabotage::NamesakeRewound) {
                    self.nodes[node].durable.needs_clone = true;
                    return Next::Failed("its timeline has the id of another one");
                }
                op.mark_us = now;
                self.nodes[node].server.half_made = false;
                self.nodes[node].server.pointed_us = now;
                let upstream = Upstream { node: source.clone(), term };
                match self.start_server(node, false, Some(upstream)) {
                    Next::Step(_, delay) => Next::Step(4, delay),
                    other => other,
                }
            }
            _ => self.await_rewound(node, op, refused),
        }
    }

    /// What the rewind will discard is copied beside the data directory first.
    fn keep_diverged(&mut self, from: From, node: usize) {
        if self.sabotage == Some(Sabotage::DivergedDropped) {
            return;
        }
        let (Some(source), Some(own)) = (self.log_of(from), &self.nodes[node].server.wal) else { return };
        let diverged = own.beyond(&source.copy_flushed());
        self.nodes[node].kept.extend(diverged);
    }

    /// A rewound server is whole once it streams; one that cannot is stopped, to be rewound to the next primary.
    fn await_rewound(&mut self, node: usize, op: &Op, refused: bool) -> Next {
        let late = self.now_us - op.mark_us > REWOUND_US_MAX;
        let server = &mut self.nodes[node].server;
        if server.process == Process::Down {
            return Next::Failed("it did not start");
        }
        if server.up() && server.receiver.as_ref().is_some_and(|receiver| receiver.connected) {
            self.nodes[node].durable.rewound = false;
            return Next::Done;
        }
        if refused || late {
            server.crash();
            return Next::Failed("its source did not let it stream");
        }
        Next::Step(4, 20_000)
    }
}
