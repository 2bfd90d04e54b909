//! The steps of each operation, one function per action.
//!
//! What they are not: atomic; between two steps anything may happen, so each looks again. Invariant: durable words are
//! written before what they promise, and removed after.

use std::rc::Rc;

use brain::mutation::{Mutation, is_on};
use brain::{Applied, MemberId, NodeName, Term, Upstream};

use crate::event::Event;
use crate::exec::{Next, Op};
use crate::sabotage::Sabotage;
use crate::server::{Names, Process};
use crate::wal::{Kind, lsn};
use crate::world::World;

/// A walsender that has not come to a reload by then is terminated (DESIGN 5).
const LAGGARD_US: u64 = 200_000;

/// A fast stop that takes longer is made an immediate one.
const STOP_US_MAX: u64 = 5_000_000;

/// Looks, one every 50 ms, for a reload to be confirmed: 3 s, as the agent waits.
const GATE_LOOKS_MAX: u8 = 60;

impl World {
    pub(crate) fn do_initdb(&mut self, node: usize, op: &Op) -> Next {
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
        self.check_new_directory(node);
        Next::Done
    }

    pub(crate) fn new_member(&mut self, node: usize) -> MemberId {
        let incarnation = format!("{:06x}", self.dice.word() & 0xFF_FFFF);
        MemberId::new(&self.nodes[node].name, &incarnation)
    }

    /// Starts a stopped server as a standby of nobody; step 1 waits for it.
    pub(crate) fn do_start(&mut self, node: usize, op: &Op) -> Next {
        self.start_server(node, op.step > 0, None)
    }

    pub(crate) fn start_server(&mut self, node: usize, begun: bool, upstream: Option<Upstream>) -> Next {
        let slow = self.dice.percent(5);
        let ready = if slow { self.dice.millis(500..3_000) } else { self.dice.millis(20..250) };
        let writable = self.sabotage == Some(Sabotage::StartWritable);
        let first = self.origin_target(node).unwrap_or(0);
        let server = &mut self.nodes[node].server;
        match server.process {
            Process::Up => Next::Done,
            Process::Starting => Next::Step(1, 20_000),
            Process::Down if begun => Next::Failed("it did not start"),
            Process::Down if server.wal.is_none() => Next::Failed("there is no data directory"),
            Process::Down if server.half_made => {
                self.violate("I7", node, "a data directory that is half made is started".to_owned());
                Next::Failed("the data directory is half made")
            }
            Process::Down => {
                if upstream.as_ref().is_some_and(|upstream| upstream.node.is_origin()) {
                    server.files.first = first;
                }
                server.files.upstream = upstream;
                server.files.slotted = true;
                if !writable {
                    server.files.names = Names::nobody();
                    server.files.close();
                }
                server.process = Process::Starting;
                server.epoch += 1;
                let epoch = server.epoch;
                self.after(ready, Event::Ready { node, epoch });
                Next::Step(1, 20_000)
            }
        }
    }

    /// A fast stop: sessions end, the standbys get all WAL with the shutdown's record, or it is cut short.
    pub(crate) fn do_stop(&mut self, node: usize, op: &mut Op) -> Next {
        let id = self.next_id();
        let (hangs, now) = (self.dice.percent(self.plan.hang_percent), self.now_us);
        let pause = self.dice.millis(5..150);
        let server = &mut self.nodes[node].server;
        match (server.process, op.step) {
            (Process::Down, _) => Next::Done,
            (Process::Up, 0) => {
                server.end_sessions();
                server.stopping = true;
                Next::Step(1, pause)
            }
            (Process::Up, 1) if server.frozen || hangs => Next::Step(3, 500_000),
            (Process::Up, 1) if server.primary => {
                (op.mark, op.mark_us) = (server.append(id, Kind::Filler) as u64, now);
                self.start_flush(node);
                Next::Step(2, 2_000)
            }
            (Process::Up, 1) => {
                server.stop_clean(id);
                Next::Done
            }
            (Process::Up, 2) if now - op.mark_us < STOP_US_MAX && !server.parted(op.mark as usize) => {
                Next::Step(2, 3_000)
            }
            _ => {
                server.crash();
                Next::Done
            }
        }
    }

    pub(crate) fn do_detach(&mut self, node: usize, op: &Op, term: Term) -> Next {
        let quick = self.dice.within(500..40_000);
        let refused = self.refuses(node, term);
        let lie = self.sabotage == Some(Sabotage::ReceiverKept);
        let server = &mut self.nodes[node].server;
        if op.step == 0 {
            if refused {
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

    pub(crate) fn do_follow(
        &mut self,
        node: usize,
        op: &Op,
        term: Term,
        upstream: NodeName,
        slot: bool,
    ) -> Next {
        let refused = self.refuses(node, term);
        if op.step == 0 {
            return Next::Step(1, self.fsync(node));
        }
        if op.step > 1 {
            return Next::Done;
        }
        if refused {
            return Next::Failed("refused: the promise is higher");
        }
        if !is_on(Mutation::FollowUnpromised) {
            self.promise(node, term, true);
        }
        let now = self.now_us;
        let (first, at_origin) = (self.origin_target(node).unwrap_or(0), upstream.is_origin());
        let server = &mut self.nodes[node].server;
        server.files.upstream = Some(Upstream { node: upstream, term });
        server.files.slotted = slot;
        server.complaint = None;
        if at_origin {
            // A head's followers need their slots.
            server.files.first = first;
        } else {
            // Of a former primaryship, or for nodes that come anew: who reads is cut off, and a slot is dropped once nobody
            // does.
            server.senders.retain(|sender| sender.frozen_until_us > now);
            server.senders.iter_mut().for_each(|sender| sender.ended = true);
            let senders = &server.senders;
            server.slots.retain(|member| senders.iter().any(|sender| sender.member == *member));
        }
        server.pointed_us = now;
        let epoch = server.epoch;
        let slow = self.dice.percent(15);
        let span = if slow { self.dice.millis(5..600) } else { self.dice.within(1_500..8_000) };
        // From here to the end of the work the receiver may start at any moment, and the agent shows a detached server.
        let moment = self.dice.within(0..span);
        self.after(moment, Event::Reload { node, epoch });
        Next::Step(2, span)
    }

    /// An action of a term below the node's promise is stale.
    pub(crate) fn refuses(&self, node: usize, term: Term) -> bool {
        term < self.nodes[node].durable.promise && self.sabotage != Some(Sabotage::StaleAction)
    }

    pub(crate) fn do_promote(
        &mut self,
        node: usize,
        op: &Op,
        term: Term,
        timeline: wire::Timeline,
        names: Rc<Names>,
    ) -> Next {
        let local = self.sabotage == Some(Sabotage::LocalTimeline);
        let refused = self.refuses(node, term);
        let server = &mut self.nodes[node].server;
        let standby = server.up() && !server.primary && server.receiver.is_none();
        match op.step {
            0 if refused || !standby => Next::Failed("refused"),
            0 => Next::Step(1, self.fsync(node)),
            1 if !standby => Next::Failed("the standby has gone"),
            1 => {
                self.nodes[node].durable.win(term);
                Next::Step(2, self.fsync(node))
            }
            2 if !standby => Next::Failed("the standby has gone"),
            2 => {
                server.end_sessions();
                server.files.close();
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

    pub(crate) fn do_prepare(&mut self, node: usize) -> Next {
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
    pub(crate) fn do_apply(&mut self, node: usize, op: &mut Op, names: Names) -> Next {
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
                let slow = self.dice.percent(5);
                let delay = if slow { self.dice.millis(8..300) } else { self.dice.within(300..8_000) };
                self.after(delay, Event::Reload { node, epoch });
                if self.sabotage == Some(Sabotage::ForceRequested) {
                    return self.in_force(node, names, op.mark as usize);
                }
                if let Some(agent) = self.agent(node) {
                    agent.applied = None;
                }
                Next::Step(1, delay)
            }
            1 if *server.names != names => Next::Step(1, 5_000),
            1 if server.sync_defined != (names.set.k > 0)
                && self.sabotage != Some(Sabotage::FlagUnawaited) =>
            {
                // Backends look at what the checkpointer has copied: a checkpoint that begins now ends after that.
                Next::Step(1, 10_000)
            }
            1 => {
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

    pub(crate) fn do_gate(&mut self, node: usize, op: &Op, close: bool) -> Next {
        if op.step == 0 {
            return Next::Step(1, self.dice.within(500..15_000));
        }
        let server = &mut self.nodes[node].server;
        if op.step == 1 {
            server.files.unread = Some(close);
        }
        if server.frozen {
            return match op.step {
                GATE_LOOKS_MAX => Next::Failed("the reload was not confirmed in time"),
                looks => Next::Step(looks + 1, 50_000),
            };
        }
        server.read_files();
        Next::Done
    }
}
