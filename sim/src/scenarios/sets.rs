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
