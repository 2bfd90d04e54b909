//! Clients: writers at every server that admits them, readers through the proxies, and people who cancel.
//!
//! What PostgreSQL shows: a commit becomes visible when its wait for replication ends, whatever ended it, and all that a
//! server has replayed when it is promoted. What it is not: SQL; a read is the newest commit that a new snapshot sees.
//! Invariant: a read goes the way a proxy would send it, by what that proxy's own agent knows.

use crate::checkers::Acknowledged;
use crate::event::Event;
use crate::sabotage::Sabotage;
use crate::server::Waiting;
use crate::trace::Detail;
use crate::wal::Kind;
use crate::world::World;

/// So many of a hundred moments see somebody cancel or terminate a commit that waits.
const CANCEL_PERCENT: u64 = 2;

impl World {
    /// Clients write to every server that admits them, whatever it is: a stale primary gets its chances.
    pub fn client(&mut self, node: usize) {
        let pause = self.dice.millis(15..60);
        let proxy = self.dice.index(self.nodes.len());
        let cancels = self.dice.percent(CANCEL_PERCENT);
        self.after(pause, Event::Client { node });
        let server = &self.nodes[node].server;
        if !server.writes() || server.frozen || server.stopping {
            return;
        }
        if cancels {
            self.interrupt(node);
        }
        let server = &self.nodes[node].server;
        if server.files.quarantined {
            return;
        }
        if self.parks(proxy) {
            return;
        }
        let server = &self.nodes[node].server;
        if server.waiting.len() < 64 {
            self.write(node, Kind::Commit);
        }
        if self.routes(proxy, node) {
            self.read(node, proxy);
        } else if self.nodes[node].agent.is_none() || self.nodes[node].agent_frozen {
            // A session that needs no proxy, or was there before: with its agent dead or hung, the fencer alone ends it.
            self.check_read(node, node, Vec::new());
        }
    }

    /// The proxy on `proxy` would send a session to `node` as the primary, and gets through to it.
    fn routes(&mut self, proxy: usize, node: usize) -> bool {
        let now = self.clock(proxy);
        let reached = self.net.stream(proxy, node) && self.net.stream(node, proxy);
        let name = self.nodes[node].name.clone();
        let host = &mut self.nodes[proxy];
        let Some(agent) = host.agent.as_mut().filter(|_| !host.agent_frozen && reached) else { return false };
        let view = &mut agent.view;
        view.now = now;
        if proxy == node {
            return brain::stays_open(view);
        }
        let Some(record) = view.record().filter(|record| record.node == name && view.opened()) else {
            return false;
        };
        view.fresh_peers()
            .any(|status| status.node == name && status.record_term == record.term && status.open)
    }

    fn read(&mut self, node: usize, proxy: usize) {
        let server = &self.nodes[node].server;
        let born = server.born;
        let seen = server.visible.into_iter().chain(server.bared.iter().copied());
        let seen: Vec<Acknowledged> = seen.map(|(index, id)| Acknowledged { id, index, born }).collect();
        self.check_read(node, proxy, seen);
    }

    /// Somebody ends the wait of a commit: by SQL, or by a cancel request that the proxy does not forward meanwhile.
    fn interrupt(&mut self, node: usize) {
        let (way, forwards) = (self.dice.index(3), self.sabotage == Some(Sabotage::CancelForwarded));
        let waits = |waiting: &Waiting| waiting.kind == Kind::Commit;
        let server = &mut self.nodes[node].server;
        let Some(place) = server.waiting.iter().position(waits).filter(|_| way < 2 || forwards) else {
            return;
        };
        let Some(waiting) = server.waiting.remove(place) else { return };
        if way == 2 {
            server.bared.push((waiting.end - 1, waiting.id));
            return self.note(
                Detail::Decisions,
                node,
                format_args!("a cancel ends the wait of #{}", waiting.id),
            );
        }
        // By SQL: the commit is visible, which the invariant excepts, and the client must not be told that it is done.
        self.checkers.cancelled += 1;
        let how = if way == 0 { "cancelled" } else { "terminated" };
        self.note(Detail::Decisions, node, format_args!("the wait of #{} is {how} by SQL", waiting.id));
        if way == 0 && self.sabotage == Some(Sabotage::CancelAcknowledged) {
            self.acknowledge(node, &waiting);
        }
    }
}
