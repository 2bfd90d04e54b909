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

/// A member's agent dies in the middle of a detach, and replay holds the receiver's end up: the new agent finds no upstream
/// in the files and a receiver that still acknowledges.
pub fn who_still_receives_answers_not(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    let (old, candidate, member) = (stage.primary, stage.others[0], stage.others[1]);
    stage.world.plan.lag_us[member] = 60_000;
    stage.strike(Kind::FreezeAgentUnfenced, old, 0, LONG);
    stage.wait(SECOND * 185 / 100);
    stage.part(old, candidate);
    let parted = stage.part(old, member);
    stage.strike(Kind::StickReplay, member, 0, 10 * SECOND);
    stage.world.late = Some((candidate, 900_000));
    let detaches = |world: &World| {
        let op = world.nodes[member].agent.as_ref().and_then(|agent| agent.op.as_ref());
        op.is_some_and(|op| op.operation == Operation::Detach && op.step == 1)
    };
    stage.until(5 * SECOND, detaches)?;
    stage.strike(Kind::KillAgent, member, 0, 20_000);
    stage.follows(candidate, "takeover.record", 5 * SECOND)?;
    stage.world.plan.lag_us[member] = 0;
    stage.world.heal(parted);
    Some(stage)
}

/// A member that has started again and takes WAL from nobody yet is heard by the candidate and hears it not: it has
/// promised nothing, and goes back to the old primary. Clocks that run twice as fast only make the candidate hurry.
pub fn who_has_not_promised_answers_not(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 2, 1))?;
    let (old, candidate, member) = (stage.primary, stage.others[0], stage.others[1]);
    let witnesses: Vec<usize> = (3..5).collect();
    for node in [candidate, member].iter().chain(&witnesses) {
        stage.hurry(*node);
    }
    stage.part(old, candidate);
    let parted = stage.strike(Kind::CutPeerLink, old, member, LONG);
    stage.strike(Kind::OneWay, candidate, member, LONG);
    for witness in witnesses {
        stage.part(old, witness);
        stage.part(member, witness);
    }
    stage.wait(SECOND * 7 / 10 + cast.seed * 7_001 % 200_000);
    stage.strike(Kind::KillPostgres, member, 0, 1_000);
    stage.until(SECOND, |world| {
        let record = world.store.newest().primary.as_ref();
        record.is_some_and(|record| record.value.term > Term(1))
    });
    stage.world.heal(parted);
    Some(stage)
}

/// A primary's change of the set is on its way while another is recorded: written afterwards, it would let a standby
/// acknowledge that the takeover did not ask.
pub fn a_deposed_primary_changes_no_set(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(4, 1, 1))?;
    let (old, others) = (stage.primary, stage.others.clone());
    let (candidate, member, spare) = (others[0], others[1], others[2]);
    let port = stage.strike(Kind::CutPort, spare, 0, LONG);
    stage.until(8 * SECOND, |world| settled(world, old) == 2)?;
    for node in [candidate, member] {
        stage.hurry(node);
    }
    for (one, other) in [(old, candidate), (old, member), (spare, candidate), (spare, member)] {
        stage.part(one, other);
    }
    stage.world.heal(port);
    stage.world.late = Some((old, 1_150_000 + cast.seed * 10_007 % 250_000));
    Some(stage)
}
