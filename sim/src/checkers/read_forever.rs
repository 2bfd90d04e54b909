//! I3: what a client read from a primary, through a proxy, is in every later primary. Excepted are commits whose wait was
//! ended by SQL; each of those is counted.

use super::{Acknowledged, Promotion};
use crate::world::World;

/// Something that was read is not in the log of a new primary.
pub fn on_promoted(reads: &[Acknowledged], promotion: &Promotion) -> Option<String> {
    let lost = reads.iter().find(|seen| seen.born < promotion.term && !promotion.holds(seen))?;
    Some(format!(
        "promoted for term {} without commit #{} that a client read in term {}",
        promotion.term, lost.id, lost.born
    ))
}

/// A primary of a lower term shows what a higher one, promoted meanwhile, does not hold.
pub fn on_read(promotions: &[Promotion], seen: &Acknowledged) -> Option<String> {
    let missing = promotions.iter().find(|p| p.term > seen.born && !p.holds(seen))?;
    Some(format!("shows commit #{} of term {}, which term {} is without", seen.id, seen.born, missing.term))
}

/// At the end the primary holds all that was ever read.
pub fn at_end(world: &World, primary: usize) -> Option<String> {
    let wal = world.nodes[primary].server.wal.as_ref()?;
    let lost = world.checkers.reads.iter().filter(|seen| !wal.holds(seen.index, seen.id)).count();
    (lost > 0).then(|| format!("ends without {lost} commit(s) that clients read"))
}
