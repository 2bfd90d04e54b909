//! Leases and what is read under them, each driven to the moment that its rule is made for.

use super::Cast;
use super::stage::{LONG, SECOND, Shape, Stage};
use crate::plan::Kind;

/// A candidate has lost the primary. A member that the primary counts on restarts its agent, which has forgotten that it
/// owes a lease, just as the candidate asks.
pub fn a_restarted_agent_owes(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let (old, candidate, member) = (stage.primary, stage.others[0], stage.others[1]);
    stage.strike(Kind::CutPeerLink, old, candidate, LONG);
    stage.wait(SECOND * 5 / 2);
    stage.strike(Kind::KillAgent, member, 0, 30_000 + cast.seed % 7 * 20_000);
    Some(stage)
}

/// A member has promised to a candidate and then hears the old primary again: it must not give it a lease.
pub fn who_has_promised_grants_nothing(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let (old, candidate, member) = (stage.primary, stage.others[0], stage.others[1]);
    stage.part(old, candidate);
    let parted = stage.strike(Kind::CutPeerLink, old, member, LONG);
    stage.world.late = Some((candidate, 900_000));
    stage.follows(candidate, "takeover.record", 5 * SECOND)?;
    stage.world.heal(parted);
    Some(stage)
}

/// Replication is cut until clients are sent away; what they leave behind is visible and on nobody's disk but the
/// primary's. A new agent has its lease at once, and must not admit readers to it.
pub fn what_a_fence_bares_is_not_read(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let old = stage.primary;
    stage.strike(Kind::CutPort, old, 0, LONG);
    stage.until(6 * SECOND, |world| world.nodes[old].server.files.quarantined)?;
    stage.strike(Kind::KillAgent, old, 0, 30_000);
    stage.wait(SECOND);
    stage.strike(Kind::KillNode, old, 0, LONG);
    Some(stage)
}

/// Replication is cut, commits wait, and clients lose patience; then the primary dies.
pub fn what_is_cancelled_is_not_read(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let old = stage.primary;
    stage.strike(Kind::CutPort, old, 0, LONG);
    stage.wait(SECOND * 18 / 10);
    stage.strike(Kind::KillNode, old, 0, LONG);
    Some(stage)
}

/// The primary's agent hangs, its server does not; a takeover goes by. Whoever still has a session there reads.
pub fn a_hung_agent_serves_no_reads(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    stage.strike(Kind::FreezeAgent, stage.primary, 0, 8 * SECOND);
    Some(stage)
}

/// One link between two agents is cut and nothing else: who is told by others that the primary is well stays calm.
pub fn a_cut_link_costs_nothing(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(4, 0, 1))?;
    stage.wait(7 * SECOND);
    stage.strike(Kind::CutPeerLink, stage.primary, stage.others[1], 8 * SECOND);
    Some(stage)
}
