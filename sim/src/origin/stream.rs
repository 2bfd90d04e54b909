//! WAL of the origin to a node that is pointed at it, and the ways to its hosts for copies and rewinds.
//!
//! A receiver's connection names all hosts and asks for a primary: it is let in by the first that answers as one, whether
//! deposed or not, beginning with the one that was primary when it was pointed.

use brain::{Complaint, NodeName};

use super::Role;
use crate::event::Event;
use crate::server::Receiver;
use crate::wal::{Wal, lsn, segment_start};
use crate::world::World;

/// libpq waits so long for a host from which nothing comes.
const CONNECT_TIMEOUT_US: u64 = 2_000_000;

/// A walsender of the origin.
pub struct Feed {
    pub connection: u64,
    pub node: usize,
    pub host: usize,
    sent: usize,
    arrival_us: u64,
}

impl World {
    /// The order in which a receiver tries the hosts.
    fn hosts_in_order(&self, first: usize) -> Vec<usize> {
        let count = self.origin.as_ref().map_or(0, |origin| origin.hosts.len());
        let others = (0..count).filter(|host| *host != first);
        (first < count).then_some(first).into_iter().chain(others).collect()
    }

    /// A host is there, and answers as a primary.
    fn admits(&self, node: usize, host: usize) -> bool {
        let primary = self.origin.as_ref().is_some_and(|origin| origin.hosts[host].log().is_some());
        primary && self.origin_answers(node, host)
    }

    /// Hosts that are silent before one that answers cost libpq its timeout each.
    pub fn origin_handshake(&self, node: usize, first: usize) -> u64 {
        let silent = |host: &usize| {
            let frozen = self.origin.as_ref().is_some_and(|origin| origin.hosts[*host].frozen);
            frozen || !self.origin_line(node, *host)
        };
        let tried = self.hosts_in_order(first);
        let before = tried.iter().take_while(|host| !self.admits(node, **host));
        before.filter(|host| silent(host)).count() as u64 * CONNECT_TIMEOUT_US
    }

    /// A receiver is at the origin's door.
    pub fn connect_to_origin(&mut self, node: usize, receiver: &Receiver) -> Result<(), &'static str> {
        let complain = |world: &mut World, words: &'static str, copy_helps: bool| {
            let complaint = Complaint { words: words.to_owned(), copy_helps };
            world.nodes[node].server.complaint = Some(complaint);
            Err(words)
        };
        let tried = self.hosts_in_order(receiver.first);
        let found = tried.into_iter().find(|host| self.admits(node, *host));
        let (Some(host), Some(origin)) = (found, &self.origin) else { return Err("no primary answers") };
        if origin.refuses {
            return complain(self, "no pg_hba.conf entry", false);
        }
        let own = &self.nodes[node].server;
        let (Some(wal), Some(far)) = (own.wal.as_ref(), origin.hosts[host].log()) else {
            return Err("no data");
        };
        let (end, start) = (own.length(), segment_start(own.length()));
        let position = wal.position(end);
        let known = far.timeline() == wal.timeline()
            || far.history().contains(position.timeline, position.lsn, lsn(far.flushed));
        if !known {
            return complain(self, "the timeline is not in this server's history", true);
        }
        if start > far.flushed {
            return Err("the starting point is ahead of the WAL");
        }
        if start < origin.kept_from {
            return complain(self, "the requested WAL segment has already been removed", true);
        }
        let now = self.now_us;
        let server = &mut self.nodes[node].server;
        server.complaint = None;
        if let Some(receiver) = &mut server.receiver {
            (receiver.connected, receiver.write, receiver.heard_us) = (true, start, now);
        }
        let connection = receiver.connection;
        if let Some(origin) = &mut self.origin {
            origin.feeds.retain(|feed| feed.node != node);
            origin.feeds.push(Feed { connection, node, host, sent: start, arrival_us: now });
        }
        self.feed_all(host);
        Ok(())
    }

    /// What each walsender of this host has not sent yet goes on its way.
    pub fn feed_all(&mut self, host: usize) {
        let count = self.origin.as_ref().map_or(0, |origin| origin.feeds.len());
        for place in 0..count {
            let hop = self.hop();
            let Some(origin) = &self.origin else { return };
            let (feed, it) = (&origin.feeds[place], &origin.hosts[host]);
            if feed.host != host || !it.answers() || !self.origin_line(feed.node, host) {
                continue;
            }
            let Some(wal) = it.log().filter(|wal| wal.flushed > feed.sent) else { continue };
            let (node, connection, from) = (feed.node, feed.connection, feed.sent);
            let (records, upto) = (wal.range(from, wal.flushed), wal.flushed);
            let arrival_us = (self.now_us + hop).max(feed.arrival_us + 1);
            let epoch = self.nodes[node].server.epoch;
            if let Some(origin) = &mut self.origin {
                (origin.feeds[place].sent, origin.feeds[place].arrival_us) = (upto, arrival_us);
            }
            self.at(arrival_us, Event::Arrive { node, epoch, connection, from, records });
        }
    }

    /// What a receiver that is pointed at the origin notices every 100 ms.
    pub fn house_at_origin(&mut self, node: usize, connection: u64) {
        let now = self.now_us;
        let Some(origin) = &self.origin else { return };
        let feed = origin.feeds.iter().find(|feed| feed.connection == connection);
        let linked = feed.is_some_and(|feed| self.origin_line(node, feed.host));
        let frozen = feed.is_some_and(|feed| origin.hosts[feed.host].frozen);
        let speaks = linked && !frozen;
        let Some(receiver) = &mut self.nodes[node].server.receiver else { return };
        let silent = now.saturating_sub(receiver.heard_us) > self.plan.receiver_timeout_us;
        if speaks {
            receiver.heard_us = now;
        } else if feed.is_none() || silent {
            self.nodes[node].server.receiver = None;
            if let Some(origin) = &mut self.origin {
                origin.feeds.retain(|feed| feed.connection != connection);
            }
        }
    }

    /// The host that a node's agent takes for the origin's primary, as it would point at it or copy it.
    pub fn origin_target(&self, node: usize) -> Option<usize> {
        let view = &self.nodes[node].agent.as_ref()?.view;
        let seen = view.origin.primary().map(|(address, _)| address.to_owned());
        super::Origin::host_of(&seen.or_else(|| view.origin_hosts().first().cloned())?)
    }

    /// A host to copy from or to rewind to, and its run; nothing is taken from one that lets nobody in.
    pub fn origin_source(&self, node: usize, source: &NodeName) -> Option<(usize, u64)> {
        let host = self.origin_target(node).filter(|_| source.is_origin())?;
        let origin = self.origin.as_ref().filter(|origin| !origin.refuses)?;
        let it = origin.hosts.get(host)?;
        (self.origin_answers(node, host) && matches!(it.role, Role::Primary(_))).then_some((host, it.run))
    }

    pub fn origin_log(&self, host: usize) -> Option<&Wal> {
        self.origin.as_ref()?.hosts.get(host)?.log()
    }
}
