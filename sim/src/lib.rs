//! A whole cluster from one seed: the real brain over modelled PostgreSQL, network, disk and clock.
//!
//! What it is: a discrete event simulation. A seed draws a cluster, its faults and every delay; the checkers look at
//! what really happened. What it is not: PostgreSQL; `docs/concepts/simulation.md` lists what is modelled and what not.
//! Invariant: one seed, one run, byte for byte.

mod agent;
mod checkers;
mod copies;
pub mod crash_steps;
mod dialogue;
mod dice;
mod event;
mod exec;
mod faults;
mod fencer;
mod lease;
mod life;
mod look;
mod members;
mod mutant;
mod net;
mod operations;
mod origin;
mod plan;
pub mod proof;
mod replication;
mod requests;
mod sabotage;
mod scenarios;
mod seats;
mod server;
mod sessions;
mod store;
mod trace;
mod wal;
pub mod witnesses;
mod words;
mod world;
pub mod worlds;

pub use mutant::Mutant;
pub use scenarios::{SCENARIOS, Scenario};
pub use trace::Detail;
pub use world::Violation;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub seed: u64,
    pub violation: Option<Violation>,
    /// Commits that clients were told are done.
    pub acknowledged: usize,
    /// Promotions in the run.
    pub promotions: usize,
    pub virtual_us: u64,
    /// The data quorum was gone at the end, so I4 asks nothing.
    pub excused: bool,
    /// Stale reads that a clock beyond its margin, or one that stood still, is to blame for.
    pub stale_reads: u64,
    /// Waits for replication that were ended by SQL.
    pub cancelled: u64,
    /// Empty unless asked for.
    pub trace: String,
}

/// The seeds of a run that names none: in every other one people ask for something, or nodes leave and join, or both; in every
/// eighth it follows an origin, or comes to.
pub fn nth_seed(number: u64) -> u64 {
    match number % 8 {
        1 | 5 => world::PEOPLE_FROM + number / 4,
        3 => world::MEMBERS_FROM + number / 8,
        6 => world::ORIGIN_FROM + number / 8,
        7 => world::ALL_FROM + number / 8,
        _ => number / 2,
    }
}

/// Runs one seed.
pub fn run(seed: u64, detail: Detail, mutant: Option<Mutant>) -> Report {
    brain::mutation::with(mutant.and_then(Mutant::in_brain), || {
        run_here(seed, detail, mutant.and_then(Mutant::in_executor))
    })
}

fn run_here(seed: u64, detail: Detail, sabotage: Option<sabotage::Sabotage>) -> Report {
    let mut world = world::World::new(seed, detail, sabotage);
    world.run();
    Report {
        seed,
        violation: world.violation.take(),
        acknowledged: world.checkers.ledger.len(),
        promotions: world.checkers.promotions.len(),
        virtual_us: world.now_us,
        excused: world.checkers.excused,
        stale_reads: world.checkers.stale_reads,
        cancelled: world.checkers.cancelled,
        trace: world.trace.into_text(),
    }
}
