//! Is what clients saw possible? A list-append history tells almost everything about itself.
//!
//! Each value is written once, so a list is the order of its writers, and who read what shows who came before whom:
//!
//! - `lists`: what must be there, what must not, in one order only (lost, phantom, aborted, duplicate, contradiction);
//! - `cycles`: no transaction may precede itself (Adya's G0, G1c, G-single, G2, found as Elle finds them);
//! - `moments`: what was acknowledged before is seen afterwards; replicas never go back; one writer at a time.
//!
//! What it is not: a solver; it asks nothing of clocks but the test's own monotonic one.
//! Invariant: it complains only of what no correct run can contain.

mod cycles;
mod lists;
mod moments;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{History, Level};

/// Anomalies of one class that are told one by one; more are counted.
const TOLD_MAX: usize = 5;

/// What is wrong, worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// An acknowledged append is not there at the end.
    LostAcknowledged,
    /// Something read through the primary is not there at the end.
    LostRead,
    /// A server acknowledged on an old timeline what was sent after a newer one had acknowledged.
    TwoWriters,
    /// A value that nobody wrote.
    Phantom,
    /// G1a: a value of a transaction that certainly failed.
    AbortedVisible,
    /// A value that is in its list twice.
    Duplicate,
    /// Two reads of a list that cannot both be right.
    OrderContradiction,
    /// G1b: a value that its own transaction had already followed by another.
    IntermediateRead,
    /// A transaction that does not see its own appends.
    Internal,
    /// A read through the primary without what had been acknowledged before it began.
    StaleRead,
    /// An append that stands before one that was acknowledged before it began.
    AppendOrder,
    /// A session of a replica saw less than before.
    ReplicaWentBack,
    /// A replica showed what is not there at the end.
    ReplicaLostRead,
    /// Nodes hold different lists when everything is over.
    NodesDiffer,
    /// A cycle of overwrites alone.
    G0,
    /// A cycle of overwrites and reads of them.
    G1c,
    /// A cycle with exactly one read that missed a write.
    GSingle,
    /// A cycle with several such reads: write skew.
    G2,
}

impl Class {
    /// READ COMMITTED promises nothing about reads of one transaction at different moments.
    fn allowed(self, level: Level) -> bool {
        level == Level::ReadCommitted && matches!(self, Class::GSingle | Class::G2)
    }

    fn words(self) -> &'static str {
        match self {
            Class::LostAcknowledged => "lost acknowledged append",
            Class::LostRead => "read, then lost",
            Class::TwoWriters => "two writers",
            Class::Phantom => "phantom value",
            Class::AbortedVisible => "aborted value visible (G1a)",
            Class::Duplicate => "duplicate value",
            Class::OrderContradiction => "contradicting orders",
            Class::IntermediateRead => "intermediate read (G1b)",
            Class::Internal => "own append not seen",
            Class::StaleRead => "stale read through the primary",
            Class::AppendOrder => "order against real time",
            Class::ReplicaWentBack => "replica went back",
            Class::ReplicaLostRead => "read on a replica, then lost",
            Class::NodesDiffer => "nodes differ at the end",
            Class::G0 => "G0 (cycle of overwrites)",
            Class::G1c => "G1c (cycle of reads and overwrites)",
            Class::GSingle => "G-single (read skew)",
            Class::G2 => "G2 (write skew)",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.words())
    }
}

/// Those of one class.
#[derive(Default, Debug)]
pub struct Found {
    pub count: usize,
    /// The first ones, in words.
    pub told: Vec<String>,
}

#[derive(Default, Debug)]
pub struct Report {
    pub violations: BTreeMap<Class, Found>,
    /// What the isolation level allows, and how often it was seen.
    pub allowed: BTreeMap<(Level, Class), Found>,
}

impl Report {
    fn add(&mut self, class: Class, level: Option<Level>, text: String) {
        let found = match level.filter(|level| class.allowed(*level)) {
            Some(level) => self.allowed.entry((level, class)).or_default(),
            None => self.violations.entry(class).or_default(),
        };
        found.count += 1;
        if found.told.len() < TOLD_MAX {
            found.told.push(text);
        }
    }
}

pub fn check(history: &History) -> Report {
    let mut report = Report::default();
    let book = lists::Book::new(history);
    book.check(&mut report);
    for level in Level::ALL {
        cycles::check(&book, level, &mut report);
    }
    moments::check(&book, &mut report);
    report
}
