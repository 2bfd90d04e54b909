//! What a server does by itself: it comes up, ends its recovery, loses its processes, writes and flushes.
//!
//! Replication between servers is `replication`; what an agent does to its server is `operations`.

use brain::Term;
use wire::Timeline;

use crate::event::Event;
use crate::sabotage::Sabotage;
use crate::server::{Process, Waiting};
use crate::trace::Detail;
use crate::wal::Kind;
use crate::world::World;

impl World {
    pub fn server_ready(&mut self, node: usize) {
        let slow = self.dice.percent(10);
        let read = if slow { self.dice.millis(200..2_000) } else { self.dice.millis(1..150) };
        let back = self.dice.index(crate::wal::SEGMENT_RECORDS * 2);
        let server = &mut self.nodes[node].server;
        if server.process != Process::Starting {
            return;
        }
        if server.disk_full {
            server.crash();
            return;
        }
        server.process = Process::Up;
        if self.sabotage == Some(Sabotage::StartWritable) && server.was_primary {
            let (end, id) = (server.length(), server.wal.as_ref().and_then(crate::wal::Wal::last_commit));
            (server.primary, server.visible, server.replayed) = (true, id, end);
            server.complete = true;
            server.names = server.files.names.clone();
            return;
        }
        server.primary = false;
        server.complete = false;
        server.replayed = server.length().saturating_sub(back).max(1);
        server.names = server.files.names.clone();
        server.roles = server.wal.as_ref().is_some_and(crate::wal::Wal::has_roles);
        let epoch = server.epoch;
        self.after(read, Event::Complete { node, epoch });
    }

    pub fn server_promoted(&mut self, node: usize, term: Term, timeline: Timeline) {
        let id = self.next_id();
        let server = &mut self.nodes[node].server;
        if !server.up() || server.primary {
            return;
        }
        server.receiver = None;
        server.promoting = false;
        server.primary = true;
        server.born = term;
        server.end_of_recovery = server.length();
        if server.disk_full {
            server.crash();
            return;
        }
        server.append_on(id, Kind::Filler, timeline);
        server.wal.iter_mut().for_each(|wal| wal.flushed = wal.len());
        server.visible = server.wal.as_ref().and_then(crate::wal::Wal::last_commit);
        server.files.close();
        self.note(Detail::Decisions, node, format_args!("promoted for term {term} on timeline {timeline}"));
        self.check_promotion(node, term);
    }

    /// Somebody promotes this standby by hand; PostgreSQL takes the next timeline that it knows of.
    pub fn promote_by_hand(&mut self, node: usize, timeline: Timeline) {
        let id = self.next_id();
        // What it shows meanwhile is the doing of whoever promoted it.
        self.nodes[node].excused_until_us = self.now_us + 5_000_000;
        let server = &mut self.nodes[node].server;
        server.receiver = None;
        server.primary = true;
        server.append_on(id, Kind::Filler, timeline);
        server.wal.iter_mut().for_each(|wal| wal.flushed = wal.len());
        self.note(Detail::Decisions, node, format_args!("promoted by hand onto timeline {timeline}"));
    }

    pub fn receiver_dies(&mut self, node: usize, connection: u64) {
        let server = &mut self.nodes[node].server;
        if server.receiver.as_ref().is_some_and(|receiver| receiver.connection == connection) {
            server.receiver = None;
            server.receiver_hidden = false;
        }
    }

    pub fn sender_dies(&mut self, node: usize, connection: u64) {
        let now = self.now_us;
        let dies =
            |sender: &crate::server::Sender| sender.connection == connection && sender.frozen_until_us <= now;
        self.nodes[node].server.senders.retain(|sender| !dies(sender));
    }

    /// A backend writes a record and waits for k flushes.
    pub fn write(&mut self, node: usize, kind: Kind) {
        let (id, since_us) = (self.next_id(), self.now_us);
        let panics = self.dice.percent(30);
        let server = &mut self.nodes[node].server;
        if server.disk_full && panics {
            // The WAL writer finds no space: PANIC, and nobody restarts it but the agent.
            server.crash();
            return self.note(Detail::Decisions, node, format_args!("PANIC: no space left for WAL"));
        }
        let end = server.append(id, kind);
        let local = !server.sync_defined;
        server.waiting.push_back(Waiting { end, id, kind, since_us, local });
        self.start_flush(node);
    }

    /// The disk takes what was written so far; one fsync at a time.
    pub fn start_flush(&mut self, node: usize) {
        let delay = self.fsync(node);
        let server = &mut self.nodes[node].server;
        let upto = server.length();
        if server.flushing || !server.writes() || upto <= server.flushed() {
            return;
        }
        server.flushing = true;
        let epoch = server.epoch;
        self.after(delay, Event::Flush { node, epoch, upto });
    }

    pub fn flushed(&mut self, node: usize, upto: usize) {
        let server = &mut self.nodes[node].server;
        server.flushing = false;
        if let Some(wal) = &mut server.wal {
            wal.flushed = wal.flushed.max(upto.min(wal.len()));
        }
        if server.waiting.iter().any(|waiting| waiting.kind == Kind::Probe && waiting.end <= upto) {
            self.probe_written(node);
        }
        let released = self.nodes[node].server.release_local();
        self.go_on(node, released);
        let server = &self.nodes[node].server;
        let connections: Vec<u64> = server.senders.iter().map(|sender| sender.connection).collect();
        for connection in connections {
            self.pump(node, connection);
        }
        self.start_flush(node);
    }
}
