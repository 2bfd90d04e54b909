//! Changes of the sync set, each driven to the moment that its order is made for.

use brain::Operation;

use super::Cast;
use super::stage::{LONG, SECOND, Shape, Stage, settled};
use crate::plan::Kind;
use crate::world::World;

/// While a lost member is being removed it comes back for a moment, acknowledges a commit alone by the old set, and is gone.
/// The remaining member has flushed all up to the beginning of the change, and not that commit (A3).
pub fn a_set_is_measured_when_it_is_in_force(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let (old, stays, goes) = (stage.primary, stage.others[0], stage.others[1]);
    stage.world.plan.lag_us[stays] = 40_000;
    let lost = stage.strike(Kind::CutPort, goes, 0, LONG);
    // Its change has begun, and no process has read it yet.
    stage.until(8 * SECOND, |world| {
        let op = world.nodes[old].agent.as_ref().and_then(|agent| agent.op.as_ref());
        op.is_some_and(|op| op.operation == Operation::ApplySync && op.step == 1)
    })?;
    let begun = stage.world.nodes[old].server.flushed();
    let frozen = stage.strike(Kind::FreezeAgentUnfenced, old, 0, LONG);
    stage.world.heal(lost);
    stage.world.start_receiver(goes);
    let connection = stage.world.nodes[goes].server.receiver.as_ref()?.connection;
    stage.world.connect(goes, connection);
    let known = stage.world.checkers.ledger.len();
    // A commit written after the beginning of the change is acknowledged, by nobody but the returned member.
    let alone = |world: &World| {
        let held = world.nodes[stays].server.length().max(begun);
        world.checkers.ledger.iter().skip(known).any(|commit| commit.index >= held)
    };
    stage.until(20_000, alone)?;
    stage.strike(Kind::KillPostgres, goes, 0, LONG);
    let away = stage.strike(Kind::FreezeAgentUnfenced, goes, 0, LONG);
    stage.until(SECOND / 5, |world| world.nodes[stays].server.length() >= begun)?;
    stage.strike(Kind::CutPort, stays, 0, LONG);
    // What is on its way to it is lost with its connection.
    stage.world.nodes[stays].server.receiver = None;
    Some(()).filter(|()| alone(&stage.world))?;
    // Its walsender ends, and it does not come back to stream again.
    stage.wait(SECOND / 5);
    stage.strike(Kind::CutPort, goes, 0, LONG);
    stage.world.heal(away);
    stage.world.heal(frozen);
    stage.until(SECOND, |world| settled(world, old) == 1);
    stage.strike(Kind::KillNode, old, 0, LONG);
    Some(stage)
}

/// A member acknowledges alone and dies; the one that remains is far behind. Until it has caught up, the takeover must ask
/// the dead one too.
pub fn a_removal_waits_for_the_others(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let (old, stays, goes) = (stage.primary, stage.others[0], stage.others[1]);
    stage.world.plan.lag_us[stays] = 1_450_000;
    stage.wait(SECOND * 2);
    stage.strike(Kind::KillPostgres, goes, 0, 1_000);
    stage.strike(Kind::FreezeAgent, goes, 0, 12 * SECOND);
    // The change is in force, and the store has it if it ever will before the flush.
    stage.until(3 * SECOND, |world| {
        let applied = world.nodes[old].agent.as_ref().and_then(|agent| agent.applied.as_ref());
        applied.is_some_and(|applied| applied.set.members.len() == 1)
    })?;
    stage.wait(20_000);
    stage.strike(Kind::KillPostgres, old, 0, 1_000);
    stage.strike(Kind::FreezeAgent, old, 0, 10 * SECOND);
    Some(stage)
}

/// A removal that the store knows and PostgreSQL does not: the lost member comes back and acknowledges alone.
pub fn a_removal_is_in_force_before_it_is_recorded(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let (old, stays, goes) = (stage.primary, stage.others[0], stage.others[1]);
    let lost = stage.strike(Kind::CutPort, goes, 0, LONG);
    // Whichever comes first by the rules: the store's word, or the change in PostgreSQL.
    stage.until(8 * SECOND, |world| {
        let stored = world.store.newest().sync.as_ref().map_or(0, |sync| sync.value.set.members.len());
        let op = world.nodes[old].agent.as_ref().and_then(|agent| agent.op.as_ref());
        stored == 1 || op.is_some_and(|op| op.operation == Operation::ApplySync)
    })?;
    stage.strike(Kind::FreezeAgentUnfenced, old, 0, 6 * SECOND);
    stage.strike(Kind::CutPort, stays, 0, LONG);
    stage.world.nodes[stays].server.receiver = None;
    stage.world.heal(lost);
    stage.wait(SECOND * 3 / 2);
    stage.strike(Kind::KillNode, old, 0, LONG);
    stage.strike(Kind::KillPostgres, goes, 0, 1_000);
    stage.strike(Kind::FreezeAgent, goes, 0, 12 * SECOND);
    Some(stage)
}

/// A node is removed, wiped and added again before the network has delivered its agent's last words and ended its old
/// connection: what it flushed before is no more, and counts for nothing.
pub fn the_last_words_of_a_removed_node_are_late(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(4, 0, 2))?;
    let (primary, late) = (stage.primary, stage.others[1]);
    stage.world.change_members(|_, _| {}, 0);
    // What the removed node has flushed, and only one other has.
    stage.world.plan.lag_us[late] = SECOND / 5;
    stage.wait(SECOND);
    stage.strike(Kind::SlowNet, 0, 0, 3 * SECOND);
    stage.wait(SECOND / 5);
    stage.world.remove_member(0);
    stage.until(3 * SECOND, |world| (0..4).any(|node| !world.belongs(node)))?;
    stage.wait(SECOND / 40);
    stage.world.add_member(true);
    stage.until(SECOND, |world| settled(world, primary) == 3);
    stage.strike(Kind::KillNode, primary, 0, 5 * SECOND);
    Some(stage)
}
