//! I2: an acknowledged commit is in the history of every later primary.

use super::{Acknowledged, Promotion};
use crate::world::World;

/// Everything that lower terms have acknowledged must be in the log of a new primary.
pub fn on_promoted(ledger: &[Acknowledged], promotion: &Promotion) -> Option<String> {
    let lost: Vec<&Acknowledged> =
        ledger.iter().filter(|commit| commit.born < promotion.term && !promotion.holds(commit)).collect();
    let first = lost.first()?;
    Some(format!(
        "promoted for term {} without {} acknowledged commit(s); the first is #{} of term {}",
        promotion.term,
        lost.len(),
        first.id,
        first.born
    ))
}

/// At the end the primary holds every commit that was ever acknowledged.
pub fn at_end(world: &World, primary: usize) -> Option<String> {
    let wal = world.nodes[primary].server.wal.as_ref()?;
    let lost = world.checkers.ledger.iter().filter(|commit| !wal.holds(commit.index, commit.id));
    let count = lost.count();
    (count > 0).then(|| format!("ends without {count} acknowledged commit(s)"))
}
