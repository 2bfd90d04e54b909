//! The invariants as programs: one file each, over what the whole world really did.
//!
//! What they are not: part of any node; they see all logs and all clocks. A checker never changes the world.

mod durable;
mod everything_ends;
mod one_writer;
mod writes_return;

use brain::Term;

use crate::event::Event;
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
    pub promotions: Vec<Promotion>,
    /// When the first fault may strike: some time after the first open term.
    pub storm_us: Option<u64>,
    pub healed_us: Option<u64>,
    /// Writes stay away because the data quorum is gone.
    pub excused: bool,
    writes: writes_return::WritesReturn,
    ends: everything_ends::EverythingEnds,
}

impl World {
    /// A walsender released a client's commit.
    pub fn acknowledge(&mut self, node: usize, waiting: &Waiting) {
        let born = self.nodes[node].server.born;
        let commit = Acknowledged { id: waiting.id, index: waiting.end - 1, born };
        if let Some((invariant, what)) = one_writer::on_acknowledged(&self.checkers.promotions, &commit) {
            self.violate(invariant, node, what);
        }
        self.checkers.ledger.push(commit);
        let (id, index) = (commit.id, commit.index);
        self.note(
            Detail::Messages,
            node,
            format_args!("acknowledged #{id} at {}", crate::wal::lsn(index + 1)),
        );
        let recorded = self.recorded_primary() == Some(node);
        self.checkers.writes.on_acknowledged(waiting.since_us, self.now_us, recorded);
        if self.checkers.storm_us.is_none() {
            self.checkers.storm_us = Some(self.now_us + self.plan.warm_us);
            self.schedule_faults();
        }
    }

    /// A server has left recovery for a term.
    pub fn check_promotion(&mut self, node: usize, term: Term) {
        let log = self.nodes[node].server.wal.as_ref().map(crate::wal::Wal::identities).unwrap_or_default();
        let promotion = Promotion { term, node, log, opened: false };
        if let Some(what) = durable::on_promoted(&self.checkers.ledger, &promotion) {
            self.violate("I2", node, what);
        }
        self.checkers.promotions.push(promotion);
    }

    /// The store has a new revision, written by `node`.
    pub fn store_changed(&mut self, node: usize) {
        let store = self.store.newest().clone();
        self.watch();
        let (Some(record), Some(sync)) = (&store.primary, &store.sync) else { return };
        self.checkers.ends.on_record(self.now_us, record.value.term, self.checkers.healed_us);
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
        if let Some((node, what)) = one_writer::two_leases(self) {
            return self.violate("I1", node, what);
        }
        if let Some(what) = writes_return::late(self) {
            if !writes_return::data_quorum(self) {
                (self.checkers.excused, self.finished) = (true, true);
                return;
            }
            return self.violate("I4", self.recorded_primary().unwrap_or(0), what);
        }
        if let Some((node, what)) = everything_ends::late(self) {
            return self.violate("I5", node, what);
        }
        if everything_ends::settled(self) {
            let primary = self.recorded_primary().unwrap_or(0);
            if let Some(what) = durable::at_end(self, primary) {
                self.violate("I2", primary, what);
            }
            self.finished = true;
        }
    }
}
