//! Verdicts of one worker, on the texts of its sessions.

use std::collections::HashMap;
use std::sync::Arc;

use rand::random;
use routing::{Catalog, Limits, Reason, Verdicts};
use wire::{Effects, OnSession};

use super::Cell;

/// Databases whose verdicts one worker keeps: two megabytes each at most.
const JUDGES_MAX: usize = 32;

/// What a session has said of its texts by `SET pgherd.route`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Trust {
    #[default]
    Auto,
    /// All of them are for the primary.
    Primary,
    /// Where only the catalog knows no better they are reads.
    Replica,
}

#[derive(Default)]
pub struct Judges {
    by_database: HashMap<u64, Judge>,
}

impl Judges {
    pub fn of(&mut self, cell: &Cell) -> &mut Judge {
        if self.by_database.len() >= JUDGES_MAX && !self.by_database.contains_key(&cell.number) {
            self.by_database.clear();
        }
        let judge = self.by_database.entry(cell.number).or_insert_with(|| Judge::new(cell));
        if judge.edition != cell.edition() {
            // In this order: a catalog that comes in between is taken again.
            judge.edition = cell.edition();
            judge.catalog = cell.now();
        }
        judge
    }
}

pub struct Judge {
    edition: u64,
    catalog: Arc<Catalog>,
    verdicts: Verdicts,
}

impl Judge {
    fn new(cell: &Cell) -> Judge {
        Judge {
            edition: cell.edition(),
            catalog: cell.now(),
            verdicts: Verdicts::new(Limits::default(), random()),
        }
    }

    /// True when a replica may run `text`.
    pub fn is_read(&mut self, text: &[u8], trust: Trust) -> bool {
        let misses = self.verdicts.hits_and_misses().1;
        let verdict = self.verdicts.of(text, &self.catalog);
        let is_read = match trust {
            Trust::Auto => verdict.is_replica(),
            Trust::Primary => false,
            Trust::Replica => verdict.is_replica_on_trust(),
        };
        // Once for each text: what would keep the session with its server is no read, whatever the grammar calls it.
        let is_new = self.verdicts.hits_and_misses().1 > misses;
        if is_new && Effects::read(text, false).on_session != OnSession::Nothing {
            self.verdicts.correct(text, Reason::Binds);
            return false;
        }
        is_read
    }

    /// A replica has refused `text`.
    pub fn correct(&mut self, text: &[u8]) {
        self.verdicts.correct(text, Reason::Refused);
    }
}
