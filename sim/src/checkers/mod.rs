//! The invariants as programs: one file each, over what the whole world really did.
//!
//! What they are not: part of any node; they see all logs and all clocks. A checker never changes the world.

mod cascades;
mod durable;
mod everything_ends;
mod expendable_agent;
mod no_lie;
mod nothing_destroyed;
mod one_writer;
mod origin_wal;
mod promises;
mod read_forever;
mod requests_end;
mod standby_cluster;
mod standby_rest;
mod writes_return;

pub use cascades::strayed;
pub use everything_ends::at_rest;
pub use nothing_destroyed::{given_up, replaced, unexplained};
pub use promises::unpromised;

use std::collections::BTreeSet;

use brain::{MemberId, Operation, Term};

use crate::agent::Agent;
use crate::event::Event;
use crate::plan::Kind;
use crate::server::Waiting;
use crate::trace::Detail;
use crate::world::World;

/// The checkers look at the whole world this often, microseconds.
const CHECK_US: u64 = 100_000;

/// A commit that a client was told is done.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    pub id: u64,
    /// Its place in every log that holds it.
    pub index: usize,
    /// The promotion under which it was written.
    pub born: Term,
}

/// A server became primary; what its log held at that moment.
#[derive(Clone, Debug)]
pub struct Promotion {
    pub term: Term,
    pub node: usize,
    pub log: Vec<u64>,
    pub opened: bool,
}

impl Promotion {
    fn holds(&self, commit: &Acknowledged) -> bool {
        self.log.get(commit.index) == Some(&commit.id)
    }
}

#[derive(Default)]
pub struct Checkers {
    pub ledger: Vec<Acknowledged>,
    /// What clients read from a primary and no acknowledgement covers yet.
    pub reads: Vec<Acknowledged>,
    /// The highest term that has acknowledged a commit.
    newest: Term,
    /// Waits for replication that were ended by SQL.
    pub cancelled: u64,
    /// Stale reads of primaries whose clock stood still or drifts beyond the margin.
    pub stale_reads: u64,
    /// When the fencer cut the clients of each node.
    cuts: Vec<(usize, u64)>,
    ids: BTreeSet<MemberId>,
    pub promotions: Vec<Promotion>,
    /// When the first fault may strike: some time after the first open term.
    pub storm_us: Option<u64>,
    pub healed_us: Option<u64>,
    /// Writes stay away because the data quorum is gone.
    pub excused: bool,
    /// Somebody had a node take over although too few answered: what was acknowledged before may be lost.
    pub forced: bool,
    /// All full nodes were in the set in force when the first fault struck.
    pub whole: bool,
    /// The term in which the origin was left last.
    pub left: Option<Term>,
    pub turns: origin_wal::Turns,
    pub requests: requests_end::RequestsEnd,
    writes: writes_return::WritesReturn,
    ends: everything_ends::EverythingEnds,
}

impl Checkers {
    /// When a commit of a recorded primary was acknowledged last.
    pub fn acknowledged_us(&self) -> u64 {
        self.writes.acknowledged_us
    }
}

impl World {
    /// A walsender released a client's commit.
    pub fn acknowledge(&mut self, node: usize, waiting: &Waiting) {
        let born = self.nodes[node].server.born;
        let commit = Acknowledged { id: waiting.id, index: waiting.end - 1, born };
        if origin_wal::comes_late(self, &commit) {
            self.checkers.turns.left_behind.push(commit);
            return;
        }
        if let Some((invariant, what)) = one_writer::on_acknowledged(&self.checkers.promotions, &commit) {
            self.violate(invariant, node, what);
        }
        if let Some(what) = no_lie::on_acknowledged(self, node, &commit) {
            self.violate("I8", node, what);
        }
        self.checkers.newest = self.checkers.newest.max(born);
        self.checkers.ledger.push(commit);
        let (id, index) = (commit.id, commit.index);
        self.note(
            Detail::Messages,
            node,
            format_args!("acknowledged #{id} at {}", crate::wal::lsn(index + 1)),
        );
        let recorded = self.recorded_primary() == Some(node);
        self.checkers.writes.on_acknowledged(waiting.since_us, self.now_us, recorded);
        if recorded {
            self.trip.on_acknowledged(waiting.since_us, self.now_us);
        }
        self.begin_storm();
    }

    /// The cluster does for the first time what it is for: faults and requests come after a while.
    fn begin_storm(&mut self) {
        if self.checkers.storm_us.is_none() {
            self.checkers.storm_us = Some(self.now_us + self.plan.warm_us);
            self.schedule_faults();
            self.schedule_requests();
        }
    }

    /// A client has read from a primary, through a proxy: the newest commits that it saw.
    pub fn check_read(&mut self, node: usize, proxy: usize, seen: Vec<Acknowledged>) {
        if let Some(what) = expendable_agent::stale(self, node, proxy, self.checkers.newest) {
            if self.clock_excused(node) || self.clock_excused(proxy) {
                self.checkers.stale_reads += 1;
                return;
            }
            return self.violate("I6", node, what);
        }
        for seen in seen {
            let known = |ledger: &[Acknowledged]| ledger.last().is_some_and(|last| last.id == seen.id);
            if known(&self.checkers.ledger) || known(&self.checkers.reads) {
                continue;
            }
            if origin_wal::comes_late(self, &seen) {
                continue;
            }
            if let Some(what) = read_forever::on_read(&self.checkers.promotions, &seen) {
                return self.violate("I3", node, what);
            }
            self.checkers.reads.push(seen);
        }
    }

    /// Clocks of this run drift beyond the margin, or this machine or its server stood still a moment ago.
    pub fn clock_excused(&self, node: usize) -> bool {
        let host = &self.nodes[node];
        self.plan.drift.is_some() || host.paused_us.is_some() || host.excused_until_us > self.now_us
    }

    /// Other nodes whose data directory is there and holds the commit.
    pub fn holders(&self, node: usize, commit: &Acknowledged) -> impl Iterator<Item = usize> {
        let holds = move |other: &usize| {
            let wal = self.nodes[*other].server.wal.as_ref().filter(|_| *other != node);
            wal.is_some_and(|wal| wal.holds(commit.index, commit.id))
        };
        (0..self.nodes.len()).filter(holds)
    }

    /// A disk was lost or has gone back in this run, so one data directory fewer holds what it held.
    pub fn disk_was_lost(&self) -> bool {
        self.plan.faults.iter().any(|f| matches!(f.kind, Kind::LoseDisk | Kind::GoBack) && f.struck)
    }

    /// A data directory was created or copied.
    pub fn check_new_directory(&mut self, node: usize) {
        let Some(member) = self.nodes[node].durable.member.clone() else { return };
        if let Some(what) = nothing_destroyed::id_used_again(&mut self.checkers.ids, &member) {
            self.violate("I7", node, what);
        }
    }

    /// Leases of these nodes were given, or could have been broken.
    pub fn check_leases(&mut self, nodes: impl Iterator<Item = usize>) {
        if let Some((holder, what)) = promises::lease_and_takeover(self, nodes) {
            self.violate("I1", holder, what);
        }
    }

    /// A node's promise is on disk.
    pub fn check_promise(&mut self, node: usize, term: Term) {
        self.check_leases(0..self.nodes.len());
        if let Some(what) = writes_return::needless_campaign(self, node, term) {
            self.violate("I4", node, what);
        }
    }

    /// The fencer has cut the clients of a server, or, later, stops it.
    pub fn check_fencer(&mut self, node: usize, stops: bool) {
        let cut = self.checkers.cuts.iter().position(|(cut, _)| *cut == node);
        if !stops {
            let now_us = self.now_us;
            match cut {
                Some(place) => self.checkers.cuts[place].1 = now_us,
                None => self.checkers.cuts.push((node, now_us)),
            }
            return;
        }
        // A machine that stood still is another matter: nobody was there to come back. Nor is it an error to end what is
        // being stopped.
        let keeps = |agent: &Agent| agent.view.busy != Some(Operation::Stop);
        let agent = self.nodes[node].agent.as_ref().is_some_and(keeps)
            && !self.nodes[node].agent_frozen
            && self.nodes[node].excused_until_us <= self.now_us
            && !self.nodes[node].server.frozen;
        let cut_us = cut.map(|place| self.checkers.cuts[place].1);
        if let Some(what) = expendable_agent::stopped(agent, cut_us, self.now_us) {
            self.violate("I6", node, what);
        }
    }

    /// A server has left recovery for a term.
    pub fn check_promotion(&mut self, node: usize, term: Term) {
        let log = self.nodes[node].server.wal.as_ref().map(crate::wal::Wal::identities).unwrap_or_default();
        let promotion = Promotion { term, node, log, opened: false };
        if let Some(what) = durable::on_promoted(&self.checkers.ledger, &promotion) {
            self.violate("I2", node, what);
        }
        if let Some(what) = read_forever::on_promoted(&self.checkers.reads, &promotion) {
            self.violate("I3", node, what);
        }
        if let Some(what) = standby_cluster::promoted_behind_head(self, term) {
            self.violate("I1", node, what);
        }
        self.checkers.promotions.push(promotion);
    }

    /// A node does what a request asks for.
    pub fn check_obeyed(&mut self, node: usize, request: u64) {
        if let Some(what) = self.checkers.requests.on_obeyed(node, request) {
            self.violate("I5", node, what);
        }
    }

    /// The store has a new revision, written by `node`.
    pub fn store_changed(&mut self, node: usize) {
        let store = self.store.newest().clone();
        self.watch();
        self.unseat();
        if let Some((invariant, at, what)) = requests_end::on_change(self, node) {
            self.violate(invariant, at, what);
        }
        if let Some(what) = standby_cluster::left_unasked(self) {
            self.violate("I1", node, what);
        }
        if let Some((invariant, what)) = origin_wal::on_turn(self) {
            self.violate(invariant, node, what);
        }
        let (Some(record), Some(sync)) = (&store.primary, &store.sync) else { return };
        self.checkers.ends.on_record(self.now_us, record.value.term, self.checkers.healed_us);
        if let Some(what) = writes_return::needless_takeover(self) {
            self.violate("I4", node, what);
        }
        if sync.value.term == record.value.term {
            let latest = self.checkers.promotions.iter_mut().filter(|p| p.term <= record.value.term);
            if let Some(promotion) = latest.max_by_key(|promotion| promotion.term)
                && promotion.node == node
            {
                promotion.opened = true;
            }
        }
    }

    pub fn check(&mut self) {
        self.after(CHECK_US, Event::Check);
        writes_return::watch(self);
        if let Some((node, what)) = one_writer::two_leases(self) {
            return self.violate("I1", node, what);
        }
        if let Some((node, what)) = standby_cluster::writes_behind_head(self) {
            return self.violate("I1", node, what);
        }
        if self.checkers.turns.head && self.checkers.storm_us.is_none() && at_rest(self) {
            self.begin_storm();
        }
        if let Some(what) = writes_return::late(self) {
            if !writes_return::data_quorum(self) {
                (self.checkers.excused, self.finished) = (true, true);
                return;
            }
            return self.violate("I4", self.recorded_primary().unwrap_or(0), what);
        }
        if let Some((node, what)) = requests_end::holds_too_long(self) {
            return self.violate("I5", node, what);
        }
        if let Some((node, what)) = everything_ends::late(self) {
            return self.violate("I5", node, what);
        }
        if everything_ends::settled(self) {
            let primary = self.recorded_primary().unwrap_or(0);
            if let Some(what) = durable::at_end(self, primary) {
                self.violate("I2", primary, what);
            }
            if let Some(what) = read_forever::at_end(self, primary) {
                self.violate("I3", primary, what);
            }
            if let Some(what) = origin_wal::at_end(self) {
                self.violate("I7", primary, what);
            }
            let follows = self.checkers.turns.head
                && self.origin_serves(primary).is_some()
                && !standby_rest::barred(self);
            if let Some((node, what)) = origin_wal::strays(self).filter(|_| follows) {
                self.violate("I2", node, what);
            }
            self.finished = true;
        }
    }

    /// A node decides to write this into the store.
    pub fn check_commit(&mut self, node: usize, id: u64, commit: &brain::Commit) {
        if let Some(what) = origin_wal::left_behind(self, node, commit) {
            self.checkers.turns.decided.insert(id, what);
        }
    }

    /// And it is written: nothing has changed in between.
    pub fn check_committed(&mut self, node: usize, id: u64) {
        if let Some(what) = self.checkers.turns.decided.remove(&id) {
            self.violate("I2", node, what);
        }
    }
}
