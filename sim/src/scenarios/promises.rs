//! Promises, answers and leases, each driven to the moment that its rule is made for.

use brain::{Grant, Operation, Term};

use super::Cast;
use super::stage::{LONG, SECOND, Shape, Stage, settled};
use crate::event::Event;
use crate::plan::Kind;
use crate::world::World;

/// A member's agent answers, dies and comes back before the takeover is recorded. Had it answered with a promise that is
/// not on disk, it would follow the old primary and acknowledge (DESIGN 4.2).
pub fn a_promise_outlives_its_agent(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let (old, candidate, member) = (stage.primary, stage.others[0], stage.others[1]);
    // What the member acknowledged before its answer, the candidate has too, and is ahead of it.
    stage.world.plan.lag_us[member] = 60_000;
    let frozen = stage.strike(Kind::FreezeAgentUnfenced, old, 0, LONG);
    stage.wait(SECOND * 185 / 100);
    stage.part(old, candidate);
    let parted = stage.part(old, member);
    stage.world.late = Some((candidate, 900_000));
    stage.follows(candidate, "takeover.record", 5 * SECOND)?;
    stage.strike(Kind::KillAgent, member, 0, 20_000);
    stage.world.heal(parted);
    stage.world.heal(frozen);
    Some(stage)
}

/// While a takeover's record is on its way, the old primary takes one more standby into the set, and that one alone
/// acknowledges (A2 of the protocol's checks).
pub fn a_takeover_is_recorded_against_the_set_it_counted(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(4, 1, 1))?;
    let (old, others) = (stage.primary, stage.others.clone());
    let (candidate, member, spare) = (others[0], others[1], others[2]);
    let port = stage.strike(Kind::CutPort, spare, 0, LONG);
    stage.until(8 * SECOND, |world| settled(world, old) == 2)?;
    for (one, other) in [(old, candidate), (old, member), (spare, candidate), (spare, member)] {
        stage.part(one, other);
    }
    stage.world.late = Some((candidate, 1_900_000));
    stage.follows(candidate, "takeover.record", 5 * SECOND)?;
    stage.world.heal(port);
    Some(stage)
}

/// A standby is on its way back to the old primary when it is asked for a promise: its last look shows that it takes WAL
/// from nobody, and a moment later it acknowledges.
pub fn who_is_being_pointed_does_not_answer(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let (old, member) = (stage.primary, stage.others[1]);
    // The member must not be ahead of the last word of the old primary, or it would not go back to it.
    let port = stage.strike(Kind::CutPort, member, 0, LONG);
    stage.wait(SECOND / 2);
    stage.strike(Kind::FreezeAgentUnfenced, old, 0, LONG);
    stage.wait(SECOND * 14 / 10 + cast.seed * 5_003 % 450_000);
    stage.strike(Kind::KillPostgres, member, 0, 1_000);
    stage.follows(member, "follow", SECOND / 2)?;
    stage.world.heal(port);
    let pointed = |world: &World| {
        let node = &world.nodes[member];
        let op = node.agent.as_ref().and_then(|agent| agent.op.as_ref());
        op.is_some_and(|op| op.operation == Operation::Follow)
            && node.durable.promise > Term(1)
            && world.store.newest().primary.as_ref().is_some_and(|record| record.value.term == Term(1))
    };
    stage.until(SECOND, pointed)?;
    Some(stage)
}

/// An answer to a heartbeat is on its way for most of `failure_timeout`, while replication goes on beside it. Its age counts
/// from the question: when it arrives, others may already promise (C5 of the protocol's checks).
pub fn an_old_answer_is_no_lease(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let (old, member) = (stage.primary, stage.others[1]);
    let agent = stage.world.nodes[old].agent.as_ref()?;
    let (boot, sequence) = (agent.boot, agent.sequence);
    let answers = stage.world.nodes[member].durable.member.clone()?;
    let grant = Grant { boot, sequence, term: Term(1), member: answers };
    stage.world.after(SECOND * 17 / 10, Event::Grant { node: old, grant });
    stage.strike(Kind::CutPeers, old, 0, LONG);
    Some(stage)
}
