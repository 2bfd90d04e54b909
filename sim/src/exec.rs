//! The executors of `brain::Action`: each a list of steps that take time, and a crash may come between any two.
//!
//! What it is not: a decider. An executor refuses a term below the node's promise, finds done what is done, and gives
//! up at its deadline. Invariant: one operation at a time works on a server.

use std::rc::Rc;

use brain::{Action, Applied, MemberId, NodeName, Operation, Term, Upstream};

use crate::event::Event;
use crate::sabotage::Sabotage;
use crate::server::{Names, Process};
use crate::trace::Detail;
use crate::wal::{Kind, lsn};
use crate::world::World;

/// An operation gives up after this: the longest, a clone, takes some 2 s here.
pub const OPERATION_US_MAX: u64 = 12_000_000;
/// The step of a copy that has failed, and how long it takes.
const PAUSE: u8 = 99;
const PAUSE_US: u64 = 400_000;
/// A walsender that has not come to a reload by then is terminated (DESIGN 5).
const LAGGARD_US: u64 = 200_000;

#[derive(Debug)]
pub struct Op {
    id: u64,
    pub operation: Operation,
    action: Action,
    step: u8,
    pub started_us: u64,
    /// An index into the log, an epoch or a moment: what a step left for the next.
    mark: u64,
    mark_us: u64,
}

enum Next {
    /// Go on with this step after so many microseconds.
    Step(u8, u64),
    Done,
    Failed(&'static str),
}

fn operation_of(action: &Action) -> Option<(Operation, Term)> {
    Some(match action {
        Action::Commit(_) | Action::Promise { .. } | Action::Revoke { .. } => return None,
        Action::Initdb => (Operation::Initdb, Term(u64::MAX)),
        Action::StartDetached => (Operation::Start, Term(u64::MAX)),
        Action::Stop => (Operation::Stop, Term(u64::MAX)),
        Action::Detach { term } => (Operation::Detach, *term),
        Action::Follow { term, .. } => (Operation::Follow, *term),
        Action::Clone { term, .. } => (Operation::Clone, *term),
        Action::Rewind { term, .. } => (Operation::Rewind, *term),
        Action::Promote { term, .. } => (Operation::Promote, *term),
        Action::Prepare { term } => (Operation::Prepare, *term),
        Action::ApplySync { term, .. } => (Operation::ApplySync, *term),
        Action::Quarantine { .. } => (Operation::Gate, Term(u64::MAX)),
        Action::Admit { term } => (Operation::Gate, *term),
        Action::Slots { term, .. } => (Operation::Slots, *term),
    })
}

impl World {
    pub fn execute(&mut self, node: usize, action: &Action) {
        match action {
            Action::Commit(commit) => return self.send_commit(node, commit),
            Action::Promise { term } => return self.start_promise(node, *term),
            _ => {}
        }
        let Some((operation, term)) = operation_of(action) else { return };
        let (id, started_us) = (self.next_id(), self.now_us);
        let delay = self.dice.within(500..6_000);
        if term < self.nodes[node].durable.promise {
            return;
        }
        let Some(agent) = self.agent(node) else { return };
        if agent.op.is_some() {
            return;
        }
        let boot = agent.boot;
        let action = action.clone();
        agent.op = Some(Op { id, operation, action, step: 0, started_us, mark: 0, mark_us: 0 });
        agent.view.busy = Some(operation);
        self.after(delay, Event::OpStep { node, boot, id });
    }

    fn start_promise(&mut self, node: usize, term: Term) {
        let Some(agent) = self.agent(node) else { return };
        if agent.promising.is_some() {
            return;
        }
        agent.promising = Some(term);
        let boot = agent.boot;
        let delay = self.fsync(node);
        self.after(delay, Event::Promised { node, boot, term });
    }

    pub fn promised(&mut self, node: usize, term: Term) {
        if let Some(agent) = self.agent(node) {
            agent.promising = None;
        }
        let synced = self.sabotage != Some(Sabotage::PromiseVolatile);
        self.promise(node, term, synced);
        self.turn(node);
    }

    /// The promise is on disk; with a sabotaged executor it only looks so.
    fn promise(&mut self, node: usize, term: Term, synced: bool) {
        let node = &mut self.nodes[node];
        node.durable.promise = node.durable.promise.max(term);
        if synced {
            node.promise_synced = node.durable.promise;
        }
    }

    pub fn op_step(&mut self, node: usize, id: u64) {
        let now = self.now_us;
        let Some(agent) = self.agent(node) else { return };
        let Some(mut op) = agent.op.take_if(|op| op.id == id) else { return };
        let boot = agent.boot;
        let late = now - op.started_us > OPERATION_US_MAX;
        let next = if op.step == PAUSE {
            Next::Failed("the source is not usable")
        } else if late {
            Next::Failed("its deadline has passed")
        } else {
            self.advance(node, &mut op)
        };
        match next {
            Next::Step(step, delay) => {
                op.step = step;
                if let Some(agent) = self.agent(node) {
                    agent.op = Some(op);
                }
                self.after(delay, Event::OpStep { node, boot, id });
            }
            Next::Done => self.end_op(node, &op, "done"),
            Next::Failed(_)
                if op.step != PAUSE && matches!(op.operation, Operation::Clone | Operation::Rewind) =>
            {
                // The source is asked again after a pause, not in a loop.
                op.step = PAUSE;
                if let Some(agent) = self.agent(node) {
                    agent.op = Some(op);
                }
                self.after(PAUSE_US, Event::OpStep { node, boot, id });
            }
            Next::Failed(reason) => self.end_op(node, &op, reason),
        }
    }

    fn end_op(&mut self, node: usize, op: &Op, how: &str) {
        self.note(Detail::Decisions, node, format_args!("  {} {how}", op.action.name()));
        self.refresh(node);
        self.turn(node);
    }

    fn advance(&mut self, node: usize, op: &mut Op) -> Next {
        match op.action.clone() {
            Action::Initdb => self.do_initdb(node, op),
            Action::StartDetached => self.do_start(node, op),
            Action::Stop => self.do_stop(node, op),
            Action::Detach { term } => self.do_detach(node, op, term),
            Action::Follow { term, node: upstream } => self.do_follow(node, op, term, upstream),
            Action::Clone { term, node: source } => self.do_clone(node, op, term, &source),
            Action::Rewind { term, node: source } => self.do_rewind(node, op, term, &source),
            Action::Promote { term, timeline, set } => {
                self.do_promote(node, op, term, timeline, Rc::new(Names { term, set }))
            }
            Action::Prepare { .. } => self.do_prepare(node),
            Action::ApplySync { term, set } => self.do_apply(node, op, Names { term, set }),
            Action::Quarantine { .. } => self.do_gate(node, op, true),
            Action::Admit { .. } => self.do_gate(node, op, false),
            Action::Slots { members, .. } => {
                self.nodes[node].server.slots = members;
                Next::Done
            }
            Action::Commit(_) | Action::Promise { .. } | Action::Revoke { .. } => Next::Done,
        }
    }

    fn do_initdb(&mut self, node: usize, op: &Op) -> Next {
        if op.step == 0 {
            return Next::Step(1, self.dice.millis(50..300));
        }
        let member = self.new_member(node);
        let first = self.next_id();
        let host = &mut self.nodes[node];
        if host.server.wal.is_some() {
            return Next::Failed("there is a data directory already");
        }
        host.durable.member = Some(member);
        host.server.append_on(first, Kind::Filler, wire::Timeline::FIRST);
        host.server.wal.iter_mut().for_each(|wal| wal.flushed = wal.len());
        Next::Done
    }

    fn new_member(&mut self, node: usize) -> MemberId {
        let incarnation = format!("{:06x}", self.dice.word() & 0xFF_FFFF);
        MemberId::new(&self.nodes[node].name, &incarnation)
    }

    /// Starts a stopped server as a standby of nobody; step 1 waits for it. Clones and rewinds end here too.
    fn do_start(&mut self, node: usize, op: &Op) -> Next {
        let slow = self.dice.percent(5);
        let ready = if slow { self.dice.millis(500..3_000) } else { self.dice.millis(20..250) };
        let server = &mut self.nodes[node].server;
        match server.process {
            Process::Up => Next::Done,
            Process::Starting => Next::Step(1, 20_000),
            Process::Down if op.step > 0 => Next::Failed("it did not start"),
            Process::Down if server.wal.is_none() => Next::Failed("there is no data directory"),
            Process::Down => {
                server.files.upstream = None;
                server.files.names = Names::nobody();
                server.files.quarantined = true;
                server.process = Process::Starting;
                server.epoch += 1;
                let epoch = server.epoch;
                self.after(ready, Event::Ready { node, epoch });
                Next::Step(1, 20_000)
            }
        }
    }

    fn do_stop(&mut self, node: usize, op: &Op) -> Next {
        let id = self.next_id();
        let hangs = self.dice.percent(15);
        let pause = self.dice.millis(5..150);
        let server = &mut self.nodes[node].server;
        match (server.process, op.step) {
            (Process::Down, _) => Next::Done,
            (Process::Up, 0) => {
                server.end_sessions();
                Next::Step(1, pause)
            }
            (Process::Up, 1) if server.frozen || hangs => Next::Step(2, 500_000),
            (Process::Up, 1) => {
                server.stop_clean(id);
                Next::Done
            }
            _ => {
                server.crash();
                Next::Done
            }
        }
    }

    fn do_detach(&mut self, node: usize, op: &Op, term: Term) -> Next {
        let quick = self.dice.within(500..40_000);
        let promise = self.nodes[node].durable.promise;
        let lie = self.sabotage == Some(Sabotage::ReceiverKept);
        let server = &mut self.nodes[node].server;
        if op.step == 0 {
            if term < promise {
                return Next::Failed("refused: the promise is higher");
            }
            server.files.upstream = None;
            return Next::Step(1, 1_000 + quick / 10);
        }
        let epoch = server.epoch;
        match server.receiver.as_mut() {
            Some(receiver) if lie => {
                // Startup ends it later, when it comes to the reload.
                receiver.dying = true;
                let connection = receiver.connection;
                server.receiver_hidden = true;
                self.after(3_500_000, Event::ReceiverDies { node, epoch, connection });
                Next::Done
            }
            Some(receiver) => {
                let connection = receiver.connection;
                receiver.dying = true;
                self.after(quick, Event::ReceiverDies { node, epoch, connection });
                Next::Step(2, 15_000)
            }
            None => Next::Done,
        }
    }

    fn do_follow(&mut self, node: usize, op: &Op, term: Term, upstream: NodeName) -> Next {
        let promise = self.nodes[node].durable.promise;
        if op.step == 0 {
            return Next::Step(1, self.fsync(node));
        }
        if term < promise {
            return Next::Failed("refused: the promise is higher");
        }
        if op.step == 1 {
            self.promise(node, term, true);
            let now = self.now_us;
            let server = &mut self.nodes[node].server;
            server.files.upstream = Some(Upstream { node: upstream, term });
            server.pointed_us = now;
            let slow = self.dice.percent(15);
            return Next::Step(2, if slow { self.dice.millis(5..300) } else { self.dice.within(500..5_000) });
        }
        let epoch = self.nodes[node].server.epoch;
        self.after(1_000, Event::Reload { node, epoch });
        Next::Done
    }

    /// The source of a copy: up, reachable, and which run of it.
    fn source(&self, node: usize, source: &NodeName) -> Option<(usize, u64)> {
        let from = self.index_of(source)?;
        let server = &self.nodes[from].server;
        let reachable = self.net.stream(node, from) && self.net.stream(from, node);
        (from != node && reachable && server.writes() && !server.frozen).then_some((from, server.epoch))
    }

    fn do_clone(&mut self, node: usize, op: &mut Op, term: Term, source: &NodeName) -> Next {
        let keep = self.sabotage == Some(Sabotage::CloneKeepsMember);
        match op.step {
            0 => Next::Step(1, self.fsync(node)),
            1 if term < self.nodes[node].durable.promise => Next::Failed("refused: the promise is higher"),
            1 => {
                self.promise(node, term, true);
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
                // The old server ends and the old id dies first: an id never outlives what it stood for.
                let member = self.new_member(node);
                let host = &mut self.nodes[node];
                host.server.crash();
                if !keep || host.durable.member.is_none() {
                    host.durable.member = Some(member);
                }
                host.durable.needs_clone = true;
                Next::Step(3, self.dice.within(1_000..20_000))
            }
            _ => {
                let Some((from, _)) = self.source(node, source).filter(|(_, epoch)| *epoch == op.mark) else {
                    return Next::Failed("the source went away");
                };
                self.copy(from, node);
                Next::Done
            }
        }
    }

    /// The data directory becomes a copy of another.
    fn copy(&mut self, from: usize, to: usize) {
        let wal = self.nodes[from].server.wal.as_ref().map(crate::wal::Wal::copy_flushed);
        let host = &mut self.nodes[to];
        host.server.roles = wal.as_ref().is_some_and(crate::wal::Wal::has_roles);
        host.server.wal = wal;
        host.server.slots.clear();
        host.durable.needs_clone = false;
    }

    fn do_rewind(&mut self, node: usize, op: &mut Op, term: Term, source: &NodeName) -> Next {
        let id = self.next_id();
        match op.step {
            0 if term < self.nodes[node].durable.promise => Next::Failed("refused: the promise is higher"),
            0 => {
                self.nodes[node].server.stop_clean(id);
                Next::Step(1, self.dice.millis(20..200))
            }
            1 => {
                let Some((_, epoch)) = self.source(node, source) else {
                    return Next::Failed("the source is not reachable");
                };
                op.mark = epoch;
                self.nodes[node].durable.needs_clone = true;
                Next::Step(2, self.dice.millis(50..600))
            }
            2 => {
                let Some((from, _)) = self.source(node, source).filter(|(_, epoch)| *epoch == op.mark) else {
                    return Next::Failed("the source went away");
                };
                if self.nodes[from].server.timeline() == self.nodes[node].server.timeline() {
                    // "no rewind required": the same timeline id is taken for the same timeline.
                    self.nodes[node].durable.needs_clone = false;
                } else {
                    self.copy(from, node);
                }
                op.step = 0;
                match self.do_start(node, op) {
                    Next::Step(_, delay) => Next::Step(3, delay),
                    other => other,
                }
            }
            _ => match self.do_start(node, op) {
                Next::Step(_, delay) => Next::Step(3, delay),
                other => other,
            },
        }
    }

    fn do_promote(
        &mut self,
        node: usize,
        op: &Op,
        term: Term,
        timeline: wire::Timeline,
        names: Rc<Names>,
    ) -> Next {
        let local = self.sabotage == Some(Sabotage::LocalTimeline);
        let promise = self.nodes[node].durable.promise;
        let server = &mut self.nodes[node].server;
        let standby = server.up() && !server.primary && server.receiver.is_none();
        match op.step {
            0 if term < promise || !standby => Next::Failed("refused"),
            0 => Next::Step(1, self.fsync(node)),
            1 if !standby => Next::Failed("the standby has gone"),
            1 => {
                self.nodes[node].durable.promoted = term;
                Next::Step(2, self.fsync(node))
            }
            2 if !standby => Next::Failed("the standby has gone"),
            2 => {
                server.end_sessions();
                server.files.quarantined = true;
                server.files.names = names.clone();
                server.promoting = true;
                let epoch = server.epoch;
                let known = server.wal.iter().flat_map(|wal| wal.timelines()).max();
                let timeline = if local { known.unwrap_or(timeline).next() } else { timeline };
                self.after(0, Event::Reload { node, epoch });
                let slow = self.dice.percent(5);
                let taken = if slow { self.dice.millis(200..4_000) } else { self.dice.millis(10..150) };
                let at_us = (self.now_us + taken).max(self.nodes[node].server.stuck_until_us);
                self.at(at_us, Event::Promoted { node, epoch, term, timeline });
                Next::Step(3, 10_000)
            }
            _ if server.writes() => {
                let lsn = lsn(server.flushed());
                if let Some(agent) = self.agent(node) {
                    agent.applied = Some(Applied { term, set: names.set.clone(), lsn });
                }
                Next::Done
            }
            _ if !standby => Next::Failed("the standby has gone"),
            _ => Next::Step(3, 10_000),
        }
    }

    fn do_prepare(&mut self, node: usize) -> Next {
        let id = self.next_id();
        let server = &mut self.nodes[node].server;
        if !server.writes() || server.frozen {
            return Next::Failed("the server does not write");
        }
        if !server.roles {
            server.append(id, Kind::Roles);
            server.roles = true;
            self.start_flush(node);
        }
        Next::Done
    }

    /// Brings a set in force: reload, wait until every walsender has come to it, only then measure.
    fn do_apply(&mut self, node: usize, op: &mut Op, names: Names) -> Next {
        let now = self.now_us;
        let server = &mut self.nodes[node].server;
        if !server.writes() || server.frozen && op.step == 0 {
            return Next::Failed("the server does not write");
        }
        let epoch = server.epoch;
        match op.step {
            0 => {
                server.files.names = Rc::new(names.clone());
                op.mark = server.flushed() as u64;
                if self.sabotage == Some(Sabotage::ReloadLost) {
                    return self.in_force(node, names, op.mark as usize);
                }
                let delay = self.dice.within(300..8_000);
                self.after(delay, Event::Reload { node, epoch });
                if let Some(agent) = self.agent(node) {
                    agent.applied = None;
                }
                Next::Step(1, delay)
            }
            1 if *server.names != names => Next::Step(1, 5_000),
            1 => {
                if self.sabotage == Some(Sabotage::SkipWalsenders) {
                    let flushed = self.nodes[node].server.flushed();
                    return self.in_force(node, names, flushed);
                }
                let early = self.sabotage == Some(Sabotage::MeasureEarly);
                let id = self.next_id();
                let end = self.nodes[node].server.append(id, Kind::Filler);
                if !early {
                    op.mark = end as u64;
                }
                op.mark_us = now;
                self.start_flush(node);
                Next::Step(2, 3_000)
            }
            _ => {
                let late = now - op.mark_us > LAGGARD_US;
                let reached = op.mark as usize;
                let (mut laggards, mut wake) = (Vec::new(), Vec::new());
                for sender in &server.senders {
                    if sender.sent < reached && sender.candidate {
                        laggards.push(sender.connection);
                    }
                    wake.push(sender.connection);
                }
                if laggards.is_empty() && server.flushed() >= reached {
                    let early = self.sabotage == Some(Sabotage::MeasureEarly);
                    let measured = if early { reached } else { server.flushed() };
                    return self.in_force(node, names, measured);
                }
                for connection in laggards.into_iter().filter(|_| late) {
                    let delay = self.dice.within(500..30_000);
                    self.after(delay, Event::SenderDies { node, epoch, connection });
                }
                for connection in wake {
                    self.after(500, Event::Pump { node, epoch, connection });
                }
                Next::Step(2, 8_000)
            }
        }
    }

    fn in_force(&mut self, node: usize, names: Names, measured: usize) -> Next {
        if let Some(agent) = self.agent(node) {
            agent.applied = Some(Applied { term: names.term, set: names.set, lsn: lsn(measured) });
        }
        Next::Done
    }

    fn do_gate(&mut self, node: usize, op: &Op, close: bool) -> Next {
        if op.step == 0 {
            return Next::Step(1, self.dice.within(500..15_000));
        }
        let server = &mut self.nodes[node].server;
        if server.frozen {
            return Next::Step(1, 50_000);
        }
        server.files.quarantined = close || !server.writes();
        if server.files.quarantined {
            server.end_sessions();
        }
        Next::Done
    }
}
