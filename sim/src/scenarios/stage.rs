//! A calm cluster, and the means to drive it to one interleaving.

use crate::dice::Dice;
use crate::plan::{Kind, Plan};
use crate::sabotage::Sabotage;
use crate::trace::Detail;
use crate::world::{Violation, World};

pub const SECOND: u64 = 1_000_000;
/// Cuts last until the plan's end heals them.
pub const LONG: u64 = 200 * SECOND;

/// The shape of a stage: full nodes, witnesses, k.
#[derive(Clone, Copy)]
pub struct Shape(pub usize, pub usize, pub usize);

/// A calm cluster with no faults of its own.
pub struct Stage {
    pub world: World,
    pub primary: usize,
    /// The other full nodes, by name: the first of them is the first to stand as a candidate.
    pub others: Vec<usize>,
}

fn calm(seed: u64, Shape(full, witnesses, k): Shape) -> (Dice, Plan) {
    let mut dice = Dice::new(seed);
    let mut plan = Plan::draw(&mut dice, false);
    let name = |index: usize| brain::NodeName(format!("n{}", index + 1));
    plan.nodes = (0..full + witnesses).map(|index| (name(index), index < full)).collect();
    plan.settings.full = (0..full).map(name).collect();
    plan.settings.voters = (0..full + witnesses).map(name).collect();
    plan.settings.standbys = k;
    plan.faults.clear();
    (plan.single, plan.drift) = (false, None);
    plan.requests.clear();
    (plan.warm_us, plan.storm_us) = (SECOND, 25 * SECOND);
    (plan.sender_timeout_us, plan.receiver_timeout_us) = (3 * SECOND, 3 * SECOND);
    plan.lag_us = vec![0; full + witnesses];
    plan.store_late_percent = 0;
    plan.look_us = 8_000;
    (dice, plan)
}

impl Stage {
    /// Runs until all standbys are in the set, in the store and in force; `None` when that takes too long.
    pub fn set(seed: u64, shape: Shape, detail: Detail, sabotage: Option<Sabotage>) -> Option<Stage> {
        let (dice, plan) = calm(seed, shape);
        Stage::wait_for_all(World::of(dice, plan, detail, sabotage), seed, shape.0)
    }

    /// The same with a plan that is changed first, and with newcomers: full nodes that are not there yet.
    pub fn set_with(
        seed: u64,
        Shape(full, witnesses, k): Shape,
        newcomers: usize,
        (detail, sabotage): (Detail, Option<Sabotage>),
        change: impl FnOnce(&mut Plan),
    ) -> Option<Stage> {
        let (dice, mut plan) = calm(seed, Shape(full + newcomers, witnesses, k));
        let names: Vec<_> = plan.nodes[full..full + newcomers].iter().map(|(name, _)| name.clone()).collect();
        for name in &names {
            plan.settings.full.remove(name);
            plan.settings.voters.remove(name);
        }
        change(&mut plan);
        let mut world = World::of(dice, plan, detail, sabotage);
        (full..full + newcomers).for_each(|node| world.seats.set_absent(node));
        Stage::wait_for_all(world, seed, full)
    }

    fn wait_for_all(world: World, seed: u64, full: usize) -> Option<Stage> {
        let mut stage = Stage { world, primary: 0, others: Vec::new() };
        stage.until(30 * SECOND, |world| {
            world.recorded_primary().is_some_and(|p| settled(world, p) == full - 1)
        })?;
        stage.primary = stage.world.recorded_primary()?;
        stage.others = (0..full).filter(|node| *node != stage.primary).collect();
        stage.wait(SECOND / 2 + seed % 97 * 3_001);
        Some(stage)
    }

    pub fn until(&mut self, most_us: u64, mut reached: impl FnMut(&World) -> bool) -> Option<()> {
        let end_us = self.world.now_us + most_us;
        while !reached(&self.world) {
            if self.world.now_us > end_us || !self.world.step() {
                return None;
            }
        }
        Some(())
    }

    pub fn wait(&mut self, us: u64) {
        let end_us = self.world.now_us + us;
        self.until(us + 1, |world| world.now_us >= end_us);
    }

    /// From now on this node's clock runs twice as fast; what depends on clocks is excused from now on.
    pub fn hurry(&mut self, node: usize) {
        let shown = self.world.clock(node).0;
        self.world.nodes[node].clock.rate = 10_000;
        let ahead = self.world.clock(node).0 - shown;
        self.world.nodes[node].clock.offset_ms -= ahead;
        self.world.plan.drift = Some((node, 10_000));
    }

    /// Returns the fault's number, by which it can be healed before its time.
    pub fn strike(&mut self, kind: Kind, node: usize, peer: usize, lasts_us: u64) -> usize {
        self.world.strike_now(kind, node, peer, lasts_us)
    }

    pub fn part(&mut self, one: usize, other: usize) -> usize {
        self.strike(Kind::CutPair, one, other, LONG)
    }

    pub fn follows(&mut self, node: usize, rule: &'static str, most_us: u64) -> Option<()> {
        self.until(most_us, |world| world.nodes[node].agent.as_ref().is_some_and(|agent| agent.rule == rule))
    }

    /// The rest of the run, with the plan's end of all faults.
    pub fn outcome(mut self) -> (Option<Violation>, String) {
        self.world.run();
        (self.world.violation.take(), self.world.trace.into_text())
    }
}

/// How many members are in the set of the store, when it is the one in force.
pub fn settled(world: &World, primary: usize) -> usize {
    let stored = world.store.newest().sync.as_ref().map(|sync| &sync.value.set);
    let applied = world.nodes[primary].agent.as_ref().and_then(|agent| agent.applied.as_ref());
    match (stored, applied) {
        (Some(stored), Some(applied)) if applied.set == *stored => stored.members.len(),
        _ => 0,
    }
}
