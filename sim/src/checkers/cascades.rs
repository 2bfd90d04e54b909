//! I2 for what a replica passes on: a node that takes WAL under a term takes none that a lower term wrote beyond what the
//! primary of its own term began with.

use wire::Timeline;

use super::Promotion;
use crate::wal::Record;
use crate::world::World;

/// The term that a timeline was recorded for.
fn term_of(world: &World, timeline: Timeline) -> Option<brain::Term> {
    let timelines = &world.store.newest().timelines.as_ref()?.value;
    timelines.iter().rev().find(|recorded| recorded.timeline == timeline).map(|recorded| recorded.term)
}

/// WAL that comes to `node`, from the record `from` on, is no part of the history of the term under which it comes.
/// A source may be ahead of that term, as any host that was followed may have become the primary of the next.
pub fn strayed(world: &World, node: usize, from: usize, records: &[Record]) -> Option<String> {
    let server = &world.nodes[node].server;
    let receiver = server.receiver.as_ref().filter(|_| server.files.slotted)?;
    let source = world.index_of(&receiver.upstream.node)?;
    if world.nodes[source].server.primary {
        return None;
    }
    // Behind a head the WAL is the origin's, which is no term's here.
    if world.checkers.turns.head {
        return None;
    }
    let term = receiver.upstream.term;
    let earlier = world.checkers.promotions.iter().filter(|promotion| promotion.term <= term);
    let primary: &Promotion = earlier.max_by_key(|promotion| promotion.term)?;
    // It was a head's term: whoever still streams in it when that head is promoted takes the origin's WAL.
    if world.checkers.turns.heads.iter().any(|head| head.term == primary.term) {
        return None;
    }
    let stray = records.iter().enumerate().find(|(offset, record)| {
        let Some(written) = term_of(world, record.timeline) else { return false };
        match primary.log.get(from + offset) {
            Some(id) => written <= term && *id != record.id,
            None => written < primary.term,
        }
    });
    stray.map(|(offset, record)| {
        format!(
            "follows n{} in term {term} and takes WAL of timeline {} at {}, which is no part of that term's history",
            source + 1,
            record.timeline,
            crate::wal::lsn(from + offset)
        )
    })
}
