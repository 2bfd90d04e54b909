//! Data directories that went back, were rewritten or are replaced, each at the moment that matters.

use brain::Term;

use super::Cast;
use super::stage::{LONG, SECOND, Shape, Stage};
use crate::plan::Kind;

/// A primary comes back from a power cut without its last writes, which its standbys have; while their agents hang it is
/// the only candidate, and must not go on alone.
pub fn a_returned_primary_is_not_whole(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 2, 1))?;
    for other in stage.others.clone() {
        stage.strike(Kind::FreezeAgent, other, 0, 4 * SECOND);
    }
    stage.strike(Kind::GoBack, stage.primary, 0, 200_000 + cast.seed % 5 * 100_000);
    Some(stage)
}

/// The winner of a takeover loses its last writes in a power cut before it is promoted. With k = 2 one disk may.
pub fn a_winner_that_went_back_is_not_promoted(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 2))?;
    let old = stage.primary;
    stage.strike(Kind::KillNode, old, 0, LONG);
    let recorded = |world: &crate::world::World| {
        let record = world.store.newest().primary.as_ref();
        record.is_some_and(|record| record.value.term > Term(1))
    };
    stage.until(8 * SECOND, recorded)?;
    let winner = stage.world.recorded_primary().filter(|winner| *winner != old)?;
    stage.world.go_back(winner);
    stage.world.start_agent(winner);
    Some(stage)
}

/// Somebody promotes a standby by hand while the primary's PostgreSQL dies: its branch was recorded by nobody.
pub fn a_promotion_by_hand_wins_nothing(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let (old, member) = (stage.primary, stage.others[1]);
    let timeline = stage.world.nodes[member].server.timeline().next();
    stage.world.promote_by_hand(member, timeline);
    stage.wait(SECOND * 3 / 10);
    stage.strike(Kind::KillPostgres, old, 0, 1_000);
    Some(stage)
}

/// A data directory that cannot be repaired is copied anew: under a new id, and the old one stands aside.
pub fn a_copy_is_new_and_the_old_stands_aside(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let member = stage.others[0];
    stage.strike(Kind::KillPostgres, member, 0, 1_000);
    stage.world.nodes[member].durable.needs_clone = true;
    stage.until(40 * SECOND, |world| !world.nodes[member].durable.needs_clone)?;
    Some(stage)
}
