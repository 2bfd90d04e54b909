//! Scenarios that aim: a calm cluster, and one interleaving, driven to the moment that a false executor is made for.
//!
//! Each runs over a few seeds; true executors pass all of them, the false one is caught by some.

use brain::{Grant, Operation, Term};

use crate::dice::Dice;
use crate::event::Event;
use crate::plan::{Fault, Kind, Plan, Target};
use crate::sabotage::Sabotage;
use crate::trace::Detail;
use crate::world::World;

const SECOND: u64 = 1_000_000;
/// Cuts last until the plan's end heals them.
const LONG: u64 = 200 * SECOND;

/// A calm cluster with no faults of its own.
struct Stage {
    world: World,
    primary: usize,
    /// The other full nodes, by name: the first of them is the first to stand as a candidate.
    others: Vec<usize>,
}

fn calm(seed: u64, full: usize, witnesses: usize) -> (Dice, Plan) {
    let mut dice = Dice::new(seed);
    let mut plan = Plan::draw(&mut dice);
    let name = |index: usize| brain::NodeName(format!("n{}", index + 1));
    plan.nodes = (0..full + witnesses).map(|index| (name(index), index < full)).collect();
    plan.settings.full = (0..full).map(name).collect();
    plan.settings.voters = (0..full + witnesses).map(name).collect();
    plan.settings.standbys = 1;
    plan.faults.clear();
    plan.single = false;
    (plan.warm_us, plan.storm_us) = (SECOND, 25 * SECOND);
    (plan.sender_timeout_us, plan.receiver_timeout_us) = (3 * SECOND, 3 * SECOND);
    plan.lag_us = vec![0; full + witnesses];
    plan.store_late_percent = 0;
    plan.look_us = 8_000;
    (dice, plan)
}

impl Stage {
    /// Runs until all standbys are in the set, in the store and in force; `None` when that takes too long.
    fn set(seed: u64, full: usize, witnesses: usize, sabotage: Option<Sabotage>) -> Option<Stage> {
        let (dice, plan) = calm(seed, full, witnesses);
        let world = World::of(dice, plan, Detail::Nothing, sabotage);
        let mut stage = Stage { world, primary: 0, others: Vec::new() };
        stage.until(30 * SECOND, |world| {
            world.recorded_primary().is_some_and(|p| settled(world, p) == full - 1)
        })?;
        stage.primary = stage.world.recorded_primary()?;
        stage.others = (0..full).filter(|node| *node != stage.primary).collect();
        stage.wait(SECOND / 2 + seed % 97 * 3_001);
        Some(stage)
    }

    fn until(&mut self, most_us: u64, mut reached: impl FnMut(&World) -> bool) -> Option<()> {
        let end_us = self.world.now_us + most_us;
        while !reached(&self.world) {
            if self.world.now_us > end_us || !self.world.step() {
                return None;
            }
        }
        Some(())
    }

    fn wait(&mut self, us: u64) {
        let end_us = self.world.now_us + us;
        self.until(us + 1, |world| world.now_us >= end_us);
    }

    /// Returns the fault's number, by which it can be healed before its time.
    fn strike(&mut self, kind: Kind, node: usize, peer: usize, lasts_us: u64) -> usize {
        let index = self.world.plan.faults.len();
        self.world.plan.faults.push(Fault {
            kind,
            target: Target::Node(node),
            at_us: 0,
            trigger: None,
            lasts_us,
            struck: false,
            active: None,
            peer,
        });
        self.world.strike(index);
        index
    }

    fn part(&mut self, one: usize, other: usize) -> usize {
        self.strike(Kind::CutPair, one, other, LONG)
    }

    fn follows(&mut self, node: usize, rule: &'static str, most_us: u64) -> Option<()> {
        self.until(most_us, |world| world.nodes[node].agent.as_ref().is_some_and(|agent| agent.rule == rule))
    }

    fn outcome(mut self) -> Option<&'static str> {
        self.world.run();
        self.world.violation.map(|violation| violation.invariant)
    }
}

/// How many members are in the set of the store, when it is the one in force.
fn settled(world: &World, primary: usize) -> usize {
    let stored = world.store.newest().sync.as_ref().map(|sync| &sync.value.set);
    let applied = world.nodes[primary].agent.as_ref().and_then(|agent| agent.applied.as_ref());
    match (stored, applied) {
        (Some(stored), Some(applied)) if applied.set == *stored => stored.members.len(),
        _ => 0,
    }
}

/// A scenario's end: `None` when the die did not bring the interleaving about, else the invariant that broke, if any.
type Scenario = fn(u64, Option<Sabotage>) -> Option<Option<&'static str>>;

/// True executors pass every seed and get where the scenario leads; the false one is caught by some.
fn aim(scenario: Scenario, sabotage: Sabotage, seeds: u64) {
    let mut reached = 0;
    for seed in 0..seeds {
        let end = scenario(seed, None);
        assert!(end.flatten().is_none(), "seed {seed} breaks {end:?} with true executors");
        reached += u64::from(end.is_some());
    }
    assert!(reached > 0, "no seed of {seeds} leads where it should");
    let ends: Vec<_> = (0..seeds).filter_map(|seed| scenario(seed, Some(sabotage)).flatten()).collect();
    println!("{}: {reached} of {seeds} seeds get there, {} catch: {ends:?}", sabotage.name(), ends.len());
    assert!(
        !ends.is_empty(),
        "{} is not caught by {seeds} seeds, {reached} of which get there",
        sabotage.name()
    );
}

/// A member's agent answers, dies and comes back before the takeover is recorded. Had it answered with a promise that is
/// not on disk, it would follow the old primary and acknowledge (DESIGN 4.2).
#[test]
fn a_promise_outlives_its_agent() {
    fn scenario(seed: u64, sabotage: Option<Sabotage>) -> Option<Option<&'static str>> {
        let mut stage = Stage::set(seed, 3, 0, sabotage)?;
        let (old, candidate, member) = (stage.primary, stage.others[0], stage.others[1]);
        // What the member acknowledged before its answer, the candidate has too, and is ahead of it.
        stage.world.plan.lag_us[member] = 60_000;
        let frozen = stage.strike(Kind::FreezeAgent, old, 0, LONG);
        stage.wait(SECOND * 185 / 100);
        stage.part(old, candidate);
        let parted = stage.part(old, member);
        stage.world.late = Some((candidate, 900_000));
        stage.follows(candidate, "takeover.record", 5 * SECOND)?;
        stage.strike(Kind::KillAgent, member, 0, 20_000);
        stage.world.heal(parted);
        stage.world.heal(frozen);
        Some(stage.outcome())
    }
    aim(scenario, Sabotage::PromiseVolatile, 60);
}

/// While a takeover's record is on its way, the old primary takes one more standby into the set, and that one alone
/// acknowledges (A2 of the protocol's checks).
#[test]
fn a_takeover_is_recorded_against_the_set_it_counted() {
    fn scenario(seed: u64, sabotage: Option<Sabotage>) -> Option<Option<&'static str>> {
        let mut stage = Stage::set(seed, 4, 1, sabotage)?;
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
        Some(stage.outcome())
    }
    aim(scenario, Sabotage::SyncUnchecked, 60);
}

/// A standby is on its way back to the old primary when it is asked for a promise: its last look shows that it takes WAL
/// from nobody, and a moment later it acknowledges.
#[test]
fn who_is_being_pointed_does_not_answer() {
    fn scenario(seed: u64, sabotage: Option<Sabotage>) -> Option<Option<&'static str>> {
        let mut stage = Stage::set(seed, 3, 0, sabotage)?;
        let (old, member) = (stage.primary, stage.others[1]);
        // The member must not be ahead of the last word of the old primary, or it would not go back to it.
        let port = stage.strike(Kind::CutPort, member, 0, LONG);
        stage.wait(SECOND / 2);
        stage.strike(Kind::FreezeAgent, old, 0, LONG);
        stage.wait(SECOND * 14 / 10 + seed * 5_003 % 450_000);
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
        Some(stage.outcome())
    }
    aim(scenario, Sabotage::BusyAnswers, 400);
}

/// An answer to a heartbeat is on its way for most of `failure_timeout`, while replication goes on beside it. Its age counts
/// from the question: when it arrives, others may already promise (C5 of the protocol's checks).
#[test]
fn an_old_answer_is_no_lease() {
    fn scenario(seed: u64, sabotage: Option<Sabotage>) -> Option<Option<&'static str>> {
        let mut stage = Stage::set(seed, 3, 0, sabotage)?;
        let (old, member) = (stage.primary, stage.others[1]);
        let agent = stage.world.nodes[old].agent.as_ref()?;
        let (boot, sequence) = (agent.boot, agent.sequence);
        let answers = stage.world.nodes[member].durable.member.clone()?;
        let grant = Grant { boot, sequence, term: Term(1), member: answers };
        stage.world.after(SECOND * 17 / 10, Event::Grant { node: old, grant });
        stage.strike(Kind::CutPeers, old, 0, LONG);
        Some(stage.outcome())
    }
    aim(scenario, Sabotage::LeaseFromAnswer, 120);
}

/// While a lost member is being removed it comes back for a moment, acknowledges a commit alone by the old set, and is gone.
/// The remaining member has flushed all up to the beginning of the change, and not that commit (A3).
#[test]
fn a_set_is_measured_when_it_is_in_force() {
    fn scenario(seed: u64, sabotage: Option<Sabotage>) -> Option<Option<&'static str>> {
        let mut stage = Stage::set(seed, 3, 0, sabotage)?;
        let (old, stays, goes) = (stage.primary, stage.others[0], stage.others[1]);
        stage.world.plan.lag_us[stays] = 40_000;
        let lost = stage.strike(Kind::CutPort, goes, 0, LONG);
        // Its change has begun, and no process has read it yet.
        stage.until(8 * SECOND, |world| {
            let op = world.nodes[old].agent.as_ref().and_then(|agent| agent.op.as_ref());
            op.is_some_and(|op| op.operation == Operation::ApplySync && op.step == 1)
        })?;
        let begun = stage.world.nodes[old].server.flushed();
        let frozen = stage.strike(Kind::FreezeAgent, old, 0, LONG);
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
        let away = stage.strike(Kind::FreezeAgent, goes, 0, LONG);
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
        Some(stage.outcome())
    }
    aim(scenario, Sabotage::MeasureEarly, 400);
}
