//! The proof of the checkers: every deliberate fault is caught, and by what.
//!
//! What it is: one row per fault with a witness, the run that is known to catch it. A changed rule may move a witness; then
//! the seeds from 0 are searched, up to the row's budget. Invariant: a fault without a row, or that its budget does not
//! catch, fails the proof.

use crate::crash_steps::{self, Operation};
use crate::mutant::Mutant;
use crate::scenarios::Scenario;
use crate::trace::Detail;
use crate::world::{ORIGIN_FROM, Violation};

/// A run, and how many like it may be tried before the fault counts as missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Witness {
    /// The first of the seeds from 0 that catches the fault.
    Seed(u64),
    /// The same of the seeds in which an origin is followed, counted from their first.
    Behind(u64),
    /// A seed that came upon it by chance, too far from the first to be looked for.
    Met(u64),
    /// A seed of a scenario.
    Scenario(&'static str, u64),
    /// A seed of the crash steps of an operation.
    CrashSteps(&'static str, u64),
}

pub struct Row {
    pub fault: &'static str,
    pub witness: Witness,
    /// The invariant that the witness finds broken.
    pub invariant: &'static str,
}

/// How the search for a witness begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Search {
    /// With the recorded one.
    Recorded,
    /// With the first seed, as if none were recorded.
    First,
}

/// Found: the witness, and what it breaks.
pub struct Caught {
    pub witness: Witness,
    pub violation: Violation,
}

/// A witness that has moved is looked for among at least so many seeds, and four times as many as it took before.
const SEEDS_MIN: u64 = 200;
/// A seed of crash steps is some five hundred runs.
const CRASH_SEEDS: u64 = 3;

impl Row {
    /// How many seeds may be tried.
    pub fn budget(&self) -> u64 {
        match self.witness {
            Witness::Seed(seed) | Witness::Behind(seed) => SEEDS_MIN.max(seed * 4),
            Witness::Met(_) => 0,
            Witness::Scenario(name, _) => Scenario::named(name).map_or(0, |scenario| scenario.seeds),
            Witness::CrashSteps(..) => CRASH_SEEDS,
        }
    }

    fn with_seed(&self, seed: u64) -> Witness {
        match self.witness {
            Witness::Seed(_) => Witness::Seed(seed),
            Witness::Behind(_) => Witness::Behind(seed),
            Witness::Met(_) => Witness::Met(seed),
            Witness::Scenario(name, _) => Witness::Scenario(name, seed),
            Witness::CrashSteps(name, _) => Witness::CrashSteps(name, seed),
        }
    }

    /// Runs the witness, then others of its kind, until one catches the fault.
    pub fn prove(&self, search: Search) -> Option<Caught> {
        let mutant = Mutant::named(self.fault)?;
        let by_chance = matches!(self.witness, Witness::Met(_));
        let recorded = (search == Search::Recorded || by_chance).then_some(self.witness);
        let others = (0..self.budget()).map(|seed| self.with_seed(seed));
        recorded
            .into_iter()
            .chain(others)
            .find_map(|witness| witness.run(Some(mutant)).map(|violation| Caught { witness, violation }))
    }
}

impl Witness {
    /// What this run breaks, with the fault or with true code.
    pub fn run(self, mutant: Option<Mutant>) -> Option<Violation> {
        match self {
            Witness::Seed(seed) | Witness::Met(seed) => crate::run(seed, Detail::Nothing, mutant).violation,
            Witness::Behind(seed) => crate::run(ORIGIN_FROM + seed, Detail::Nothing, mutant).violation,
            Witness::Scenario(name, seed) => Scenario::named(name)?.run(seed, Detail::Nothing, mutant)?.0,
            Witness::CrashSteps(name, seed) => {
                crash_steps::first_broken(Operation::named(name)?, seed, mutant)
            }
        }
    }
}

impl std::fmt::Display for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Witness::Seed(seed) => write!(f, "seed {seed}"),
            Witness::Behind(seed) => write!(f, "seed {}", ORIGIN_FROM + seed),
            Witness::Met(seed) => write!(f, "seed {seed}, met by chance"),
            Witness::Scenario(name, seed) => write!(f, "scenario {name}, seed {seed}"),
            Witness::CrashSteps(name, seed) => write!(f, "crash steps of {name}, seed {seed}"),
        }
    }
}

/// The head of the table, as the documents show it.
pub const TABLE_HEAD: &str =
    "| fault | where | what is broken | caught by | invariant |\n|---|---|---|---|---|";

/// A row of the table, as the documents show it.
pub fn table_row(mutant: Mutant, witness: Witness, invariant: &str) -> String {
    // A bar would end the cell.
    let what = mutant.what().replace('|', "\\|");
    format!("| {} | {} | {what} | {witness} | {invariant} |", mutant.name(), mutant.place())
}
