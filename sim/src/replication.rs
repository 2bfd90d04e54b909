//! WAL from one server to another: connecting, sending, receiving, replying, releasing waiters, dying.
//!
//! What it models of PostgreSQL: a receiver starts at the beginning of the segment in which its WAL ends and overwrites
//! without a look; it follows a host, whatever that host is now; a slot admits one walsender; a silent peer is given
//! up only after a timeout; a receiver that is told to stop by its configuration stops when replay comes to it.

use brain::Term;

use crate::event::Event;
use crate::sabotage::Sabotage;
use crate::server::{Pending, Process, Receiver, Sender, Waiting};
use crate::trace::Detail;
use crate::wal::{Kind, Record, lsn, segment_start};
use crate::world::World;

/// `wal_retrieve_retry_interval`: 100 ms, and the pace of keepalives.
pub const HOUSE_US: u64 = 100_000;

impl World {
    /// What a server's processes do by themselves every 100 ms.
    pub fn house(&mut self, node: usize) {
        let jitter = self.dice.within(0..20_000);
        self.after(HOUSE_US + jitter, Event::House { node });
        if !self.nodes[node].server.up() || self.nodes[node].server.frozen {
            return;
        }
        self.house_senders(node);
        self.house_receiver(node);
        self.start_flush(node);
    }

    fn house_senders(&mut self, node: usize) {
        let now = self.now_us;
        let mut index = 0;
        while index < self.nodes[node].server.senders.len() {
            let sender = &self.nodes[node].server.senders[index];
            let (peer, connection) = (sender.node, sender.connection);
            let linked = self.net.stream(node, peer) && self.net.stream(peer, node);
            let far = &self.nodes[peer].server;
            let alive = far.receiver.as_ref().is_some_and(|receiver| receiver.connection == connection);
            let stopped = sender.frozen_until_us > now;
            let silent = now.saturating_sub(sender.heard_us) > self.plan.sender_timeout_us;
            if !stopped && (sender.ended || silent || linked && !alive) {
                self.nodes[node].server.senders.remove(index);
                continue;
            }
            self.pump(node, connection);
            index += 1;
        }
    }

    fn house_receiver(&mut self, node: usize) {
        let now = self.now_us;
        let server = &self.nodes[node].server;
        if server.primary {
            return;
        }
        let Some(receiver) = &server.receiver else {
            if server.complete && server.stuck_until_us <= now && server.files.upstream.is_some() {
                self.start_receiver(node);
            }
            return;
        };
        let connection = receiver.connection;
        let moved = server.files.upstream.as_ref() != Some(&receiver.upstream)
            || server.files.first != receiver.first;
        if moved && !receiver.dying {
            // The reload was missed while replay was stuck: startup stops it when it next wants WAL.
            self.retire_receiver(node);
            return;
        }
        if !receiver.connected {
            return;
        }
        if receiver.upstream.node.is_origin() {
            return self.house_at_origin(node, connection);
        }
        let Some(up) = self.index_of(&receiver.upstream.node) else { return };
        let linked = self.net.stream(up, node) && self.net.stream(node, up);
        let far = &self.nodes[up].server;
        let alive = far.senders.iter().any(|sender| sender.connection == connection);
        let speaks = linked && alive && !far.frozen;
        let silent = now.saturating_sub(receiver.heard_us) > self.plan.receiver_timeout_us;
        if linked && !alive && !far.frozen || silent && !speaks {
            self.nodes[node].server.receiver = None;
            return;
        }
        if speaks && let Some(receiver) = &mut self.nodes[node].server.receiver {
            receiver.heard_us = now;
        }
        self.reply(node);
    }

    /// Startup asks for a receiver with the configuration that it has read.
    pub fn start_receiver(&mut self, node: usize) {
        let server = &self.nodes[node].server;
        let Some(upstream) = server.files.upstream.clone().filter(|_| !server.promoting) else { return };
        let first = server.files.first;
        let more = if upstream.node.is_origin() { self.origin_handshake(node, first) } else { 0 };
        let connection = self.next_id();
        let receiver = Receiver {
            connection,
            upstream,
            first,
            connected: false,
            write: 0,
            reply_us: 0,
            heard_us: self.now_us,
            dying: false,
        };
        self.nodes[node].server.receiver = Some(receiver);
        let epoch = self.nodes[node].server.epoch;
        let handshake = self.dice.within(2_000..15_000);
        self.after(handshake + more, Event::Connect { node, epoch, connection });
    }

    /// The receiver is at its upstream's door.
    pub fn connect(&mut self, node: usize, connection: u64) {
        let Some(receiver) = self.nodes[node].server.receiver.clone() else { return };
        if receiver.connection != connection {
            return;
        }
        if let Err(reason) = self.try_connect(node, &receiver) {
            self.note(Detail::Messages, node, format_args!("receiver: {reason}"));
            self.nodes[node].server.receiver = None;
        }
    }

    fn try_connect(&mut self, node: usize, receiver: &Receiver) -> Result<(), &'static str> {
        let own = &self.nodes[node].server;
        // libpq reads the credential now: one that was taken away is not found.
        if own.files.upstream.as_ref() != Some(&receiver.upstream) {
            return Err("no credential");
        }
        if receiver.upstream.node.is_origin() {
            return self.connect_to_origin(node, receiver);
        }
        let up = self.index_of(&receiver.upstream.node).ok_or("unknown host")?;
        let far = &self.nodes[up].server;
        if up == node || !self.net.stream(node, up) || !self.net.stream(up, node) {
            return Err("no route");
        }
        if far.process != Process::Up || far.frozen || !far.roles {
            return Err("refused");
        }
        let member = self.nodes[node].durable.member.clone().ok_or("no member id")?;
        // What is fetched from a standby needs no slot; who takes WAL from one for good has its slot there.
        if (far.primary || own.files.slotted) && !far.slots.contains(&member) {
            return Err("no slot");
        }
        if far.senders.iter().any(|sender| sender.member == member) {
            return Err("the slot is taken");
        }
        let (end, start) = (own.length(), segment_start(own.length()));
        let Some((wal, far_wal)) = own.wal.as_ref().zip(far.wal.as_ref()) else { return Err("no data") };
        let position = wal.position(end);
        let known = far_wal.timeline() == wal.timeline()
            || far_wal.history().contains(position.timeline, position.lsn, lsn(far.sendable()));
        if !known {
            return Err("the upstream's history does not contain this timeline");
        }
        if start > far.sendable() {
            return Err("the starting point is ahead of the upstream's WAL");
        }
        self.attach(node, up, receiver.connection, member, start);
        Ok(())
    }

    fn attach(&mut self, node: usize, up: usize, connection: u64, member: brain::MemberId, start: usize) {
        let now = self.now_us;
        let pointed =
            self.nodes[node].server.files.upstream.as_ref().map_or(Term(0), |upstream| upstream.term);
        let nameless = self.sabotage == Some(Sabotage::NameWithoutTerm);
        let term = if nameless { self.nodes[up].server.names.term } else { pointed };
        if let Some(receiver) = &mut self.nodes[node].server.receiver {
            (receiver.connected, receiver.write, receiver.heard_us) = (true, start, now);
        }
        let far = &mut self.nodes[up].server;
        let names = far.names.clone();
        let candidate = names.lists(&member, term);
        far.senders.push(Sender {
            connection,
            node,
            member,
            term,
            names,
            pending: None,
            candidate,
            sent: start,
            flush: None,
            streaming: false,
            frozen_until_us: 0,
            ended: false,
            arrival_us: now,
            heard_us: now,
        });
        self.pump(up, connection);
    }

    /// One pass of a walsender's loop, as far as sending goes.
    pub fn pump(&mut self, node: usize, connection: u64) {
        let now = self.now_us;
        let limit = self.nodes[node].server.sendable();
        let delay = self.hop();
        let server = &mut self.nodes[node].server;
        let Some(sender) = server.senders.iter_mut().find(|sender| sender.connection == connection) else {
            return;
        };
        sender.reach_reload(now);
        let stopped = sender.ended
            || sender.frozen_until_us > now
            || sender.pending.as_ref().is_some_and(|p| p.reading_replies);
        let peer = sender.node;
        if stopped || !self.net.stream(node, peer) {
            return;
        }
        sender.streaming |= sender.sent >= limit;
        if sender.sent >= limit {
            return;
        }
        let from = sender.sent;
        sender.sent = limit;
        sender.streaming = true;
        sender.arrival_us = (now + delay + self.plan.lag_us[peer]).max(sender.arrival_us + 1);
        let at_us = sender.arrival_us;
        let Some(wal) = &server.wal else { return };
        let records = wal.range(from, limit);
        let epoch = self.nodes[peer].server.epoch;
        self.at(at_us, Event::Arrive { node: peer, epoch, connection, from, records });
    }

    /// WAL arrives, is written and flushed.
    pub fn arrive(&mut self, node: usize, connection: u64, from: usize, records: Vec<Record>) {
        let now = self.now_us;
        let server = &mut self.nodes[node].server;
        let Some(receiver) = server.receiver.as_mut().filter(|receiver| receiver.connection == connection)
        else {
            return;
        };
        receiver.heard_us = now;
        if server.disk_full && self.dice.percent(30) {
            // A walreceiver that cannot write its segment panics, and the whole standby with it.
            server.crash();
            return;
        }
        let term = receiver.upstream.term;
        let promise = self.nodes[node].durable.promise;
        if let Some(what) = crate::checkers::unpromised(term, promise) {
            self.violate("I2", node, what);
        }
        if let Some(what) = crate::checkers::strayed(self, node, from, &records) {
            self.violate("I2", node, what);
        }
        let server = &mut self.nodes[node].server;
        let (Some(wal), Some(receiver)) = (server.wal.as_mut(), server.receiver.as_mut()) else { return };
        let end = from + records.len();
        let mut replaced = None;
        for (offset, record) in records.into_iter().enumerate() {
            server.roles |= record.kind == Kind::Roles;
            if wal.overwrite(from + offset, record) {
                replaced = Some(from + offset);
            }
        }
        receiver.write = receiver.write.max(end);
        if let Some(index) = replaced {
            let what = format!("WAL at {} was overwritten by another record", lsn(index));
            self.violate("I2", node, what);
        }
        self.reply(node);
    }

    /// The receiver tells its upstream how far it has flushed.
    fn reply(&mut self, node: usize) {
        let delay = self.hop();
        let now = self.now_us;
        let server = &mut self.nodes[node].server;
        let Some(receiver) = server.receiver.as_mut().filter(|receiver| receiver.connected) else { return };
        let (connection, flush) = (receiver.connection, receiver.write);
        let at_us = (now + delay).max(receiver.reply_us + 1);
        let upstream = receiver.upstream.node.clone();
        let Some(up) = self.index_of(&upstream) else { return };
        if !self.net.stream(node, up) {
            return;
        }
        if let Some(receiver) = &mut self.nodes[node].server.receiver {
            receiver.reply_us = at_us;
        }
        let epoch = self.nodes[up].server.epoch;
        self.at(at_us, Event::Reply { node: up, epoch, connection, flush });
    }

    /// A walsender reads a reply, and releases by its own configuration.
    pub fn on_reply(&mut self, node: usize, connection: u64, flush: usize) {
        let now = self.now_us;
        let server = &mut self.nodes[node].server;
        let epoch = server.epoch;
        let Some(sender) = server.senders.iter_mut().find(|sender| sender.connection == connection) else {
            return;
        };
        sender.reach_reload(now);
        let held = sender.pending.as_ref().filter(|pending| !pending.reading_replies).map(|p| p.at_us);
        if let Some(at_us) = held.into_iter().chain([sender.frozen_until_us]).filter(|at| *at > now).max() {
            // It stays in the socket until the loop comes to it.
            self.at(at_us, Event::Reply { node, epoch, connection, flush });
            return;
        }
        sender.heard_us = now;
        sender.flush = sender.flush.max(Some(flush));
        let fewer = usize::from(self.sabotage == Some(Sabotage::OneFlushFewer));
        if !server.primary {
            return;
        }
        if let Some(end) = server.releasable(connection, fewer) {
            self.release(node, end);
        }
    }

    /// Waiters up to `end` go on: this is the moment of acknowledgement.
    pub fn release(&mut self, node: usize, end: usize) {
        let released = self.nodes[node].server.release(end);
        self.go_on(node, released);
    }

    /// The checkpointer reads its configuration, as it is by now, and copies what it says about k into what backends
    /// look at.
    pub fn define_sync(&mut self, node: usize) {
        let server = &mut self.nodes[node].server;
        server.sync_defined = server.names.set.k > 0;
        if server.primary {
            let released = server.release_local();
            self.go_on(node, released);
        }
    }

    pub fn go_on(&mut self, node: usize, released: Vec<Waiting>) {
        for waiting in released {
            match waiting.kind {
                Kind::Commit => self.acknowledge(node, &waiting),
                _ => self.probe_flushed(node, waiting.since_us),
            }
        }
    }

    /// The postmaster reads the files and signals its children.
    pub fn reload(&mut self, node: usize) {
        let now = self.now_us;
        let server = &mut self.nodes[node].server;
        let (names, epoch) = (server.files.names.clone(), server.epoch);
        server.names = names.clone();
        let defined = names.set.k > 0;
        if server.sync_defined != defined {
            let slow = self.dice.percent(20);
            let delay = if slow { self.dice.millis(20..1_000) } else { self.dice.within(100..8_000) };
            self.at(now + delay, Event::SyncDefined { node, epoch });
        }
        let server = &mut self.nodes[node].server;
        let mut wake = Vec::new();
        for sender in &mut server.senders {
            let slow = self.dice.percent(5);
            let delay = if slow { self.dice.millis(50..1_500) } else { self.dice.within(0..4_000) };
            // Who already sends comes to its configuration next, whatever else is signalled meanwhile.
            let sending = sender.pending.as_ref().is_some_and(|pending| !pending.reading_replies);
            let reading_replies = self.dice.percent(50) && !sending;
            let at_us = now + delay;
            sender.pending = Some(Pending { names: names.clone(), at_us, reading_replies });
            wake.push((at_us, sender.connection));
        }
        for (at_us, connection) in wake {
            self.at(at_us, Event::Pump { node, epoch, connection });
        }
        let server = &self.nodes[node].server;
        let upstream = server.files.upstream.as_ref();
        let first = server.files.first;
        let moved = |receiver: &Receiver| upstream != Some(&receiver.upstream) || first != receiver.first;
        if server.receiver.as_ref().is_some_and(moved) {
            self.retire_receiver(node);
        } else if server.receiver.is_none() && server.complete && upstream.is_some() && !server.primary {
            self.start_receiver(node);
        }
    }

    /// Startup stops the receiver when it next wants WAL: at once, or when replay is free again.
    fn retire_receiver(&mut self, node: usize) {
        let quick = self.dice.within(1_000..60_000);
        let now = self.now_us;
        let server = &mut self.nodes[node].server;
        let epoch = server.epoch;
        let Some(receiver) = server.receiver.as_mut() else { return };
        receiver.dying = true;
        let connection = receiver.connection;
        let at_us = (now + quick).max(server.stuck_until_us);
        self.at(at_us, Event::ReceiverDies { node, epoch, connection });
    }
}
