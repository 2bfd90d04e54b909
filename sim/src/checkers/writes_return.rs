//! I4: with a store majority and a data quorum alive and connected, writes are possible again within a bound.

use brain::{Durable, Term};

use super::standby_rest::may;
use crate::world::{Node, World};

/// From nothing to the first acknowledged commit: initdb, two clones, an opening.
const BOOTSTRAP_US_MAX: u64 = 30_000_000;
/// After all faults: 2 s of leases forgotten, 2 s of suspicion, a takeover, a clone or two in the way.
const HEALED_US_MAX: u64 = 30_000_000;
/// After one fault that lasts: 2 s until suspicion, 2 s until leases end, a takeover, an opening.
const SINGLE_US_MAX: u64 = 10_000_000;

/// A primary that has been well for so long is taken over by nobody: suspicion, a turn and a campaign take 4 s.
const WELL_US_MAX: u64 = 6_000_000;
/// Writes of a primary that is well are acknowledged within this.
const WELL_WRITE_US_MAX: u64 = 400_000;

/// For so long nothing has failed nor come back: opinions are up to date, and suspicion takes 2 s.
const QUIET_US: u64 = 1_800_000;

#[derive(Default)]
pub struct WritesReturn {
    /// When the youngest acknowledged commit of a recorded primary was written.
    pub written_us: u64,
    pub acknowledged_us: u64,
    /// The recorded primary while it is well, its term, and since when.
    well: Option<(usize, Term, u64)>,
}

impl WritesReturn {
    pub fn on_acknowledged(&mut self, written_us: u64, now_us: u64, recorded: bool) {
        if recorded {
            self.written_us = self.written_us.max(written_us);
            self.acknowledged_us = now_us;
        }
    }
}

/// I4 asks for a data quorum: |S| - k + 1 members of `/sync` whose data directories are whole. A rewind that dies half
/// way before an opening can take one away; nothing is lost then, but nobody can prove it without a person. And it asks for
/// one with a whole data directory that its operator lets be primary, and whose WAL is a beginning of that of a member that counts.
pub fn data_quorum(world: &World) -> bool {
    let Some(sync) = &world.store.newest().sync else { return true };
    let set = &sync.value.set;
    let whole = |node: &Node| {
        let Durable { member, needs_clone, rewound, .. } = &node.durable;
        member.clone().filter(|_| !needs_clone && !rewound)
    };
    let counts = |node: &&Node| whole(node).is_some_and(|member| set.members.contains(&member));
    let begins = |node: &Node| {
        let some = || world.nodes.iter().filter(counts).any(|far| node.server.begins(&far.server));
        set.k == 0 || counts(&node) || some()
    };
    let able = |node: &Node| whole(node).is_some() && may(node) && begins(node);
    let serves = world.recorded_primary().is_some_and(|primary| {
        let server = &world.nodes[primary].server;
        server.writes() && !server.files.quarantined
    });
    let primary = |node: &Node| whole(node).is_some_and(|member| member == sync.value.primary);
    let answered = match set.k {
        // One that acknowledged alone goes on alone, unless that was chosen for several.
        0 => sync.value.is_async() || sync.value.idle || world.nodes.iter().any(primary),
        _ => world.nodes.iter().filter(counts).count() >= set.answers_needed(),
    };
    serves
        || answered && world.nodes.iter().enumerate().any(|(index, node)| world.belongs(index) && able(node))
}

fn degraded(world: &World) -> bool {
    world.store.newest().sync.as_ref().is_some_and(|sync| sync.value.set.k == 0)
}

/// How long writes have been away, when that is too long.
pub fn late(world: &World) -> Option<String> {
    let checkers = &world.checkers;
    let written_us = checkers.writes.written_us.max(checkers.turns.left_us);
    if checkers.turns.head {
        return None;
    }
    let (since_us, most_us, after) = match (checkers.storm_us, checkers.healed_us) {
        (None, _) => (0, BOOTSTRAP_US_MAX, "the cluster's start"),
        (_, Some(healed_us)) => (healed_us.max(written_us), HEALED_US_MAX, "all faults have ended"),
        // A primary that was degraded to k = 0 is the only one that may go on; nobody takes over from it.
        (Some(storm_us), None) if world.plan.single && checkers.whole && !degraded(world) => {
            (storm_us.max(written_us), SINGLE_US_MAX, "a single fault in a healthy cluster")
        }
        _ => return None,
    };
    let away_us = world.now_us.saturating_sub(since_us);
    (away_us > most_us).then(|| format!("no write for {:.1} s, after {after}", away_us as f64 / 1e6))
}

/// This primary serves, its writes are acknowledged, and a majority of voters has it near.
fn well(world: &World, primary: usize) -> bool {
    let host = &world.nodes[primary];
    let members: Vec<usize> = (0..world.nodes.len()).filter(|node| world.belongs(*node)).collect();
    let serves = host.server.writes() && !host.server.frozen && !host.server.files.quarantined;
    let quick = world.now_us - world.checkers.writes.acknowledged_us < WELL_WRITE_US_MAX;
    let calm = world.net.loss_percent == 0 && world.net.slowness == 1 && world.plan.drift.is_none();
    let near = members.iter().filter(|node| world.near(primary, **node)).count();
    serves && quick && calm && awake(world, primary) && near > members.len() / 2
}

fn awake(world: &World, node: usize) -> bool {
    world.nodes[node].agent.is_some() && !world.nodes[node].agent_frozen
}

impl World {
    /// Two agents live and reach each other.
    fn near(&self, one: usize, other: usize) -> bool {
        awake(self, one) && awake(self, other) && self.net.link(one, other) && self.net.link(other, one)
    }
}

/// Looks at the recorded primary every now and then.
pub fn watch(world: &mut World) {
    let (now_us, was) = (world.now_us, world.checkers.writes.well);
    let record = world.store.newest().primary.as_ref().map(|record| record.value.term);
    let primary = world.recorded_primary().zip(record).filter(|(node, _)| well(world, *node));
    world.checkers.writes.well = primary
        .map(|(node, term)| was.filter(|was| (was.0, was.1) == (node, term)).unwrap_or((node, term, now_us)));
}

/// The primary that has been well for long, and still is.
fn long_well(world: &World) -> Option<(usize, Term, u64)> {
    let (node, term, since_us) = world.checkers.writes.well?;
    let lasted_us = world.now_us - since_us;
    (lasted_us > WELL_US_MAX && well(world, node)).then_some((node, term, lasted_us))
}

/// Another primary is recorded although the one before has been well for long.
pub fn needless_takeover(world: &World) -> Option<String> {
    let (primary, term, lasted_us) = long_well(world)?;
    (world.recorded_primary() != Some(primary)).then(|| {
        format!(
            "is recorded although the primary of term {term} has been well for {:.1} s",
            lasted_us as f64 / 1e6
        )
    })
}

/// A node promises to its own campaign although enough others could tell it that the primary is well.
pub fn needless_campaign(world: &World, node: usize, promised: Term) -> Option<String> {
    let (primary, term, _) = long_well(world).filter(|(primary, ..)| *primary != node)?;
    let own = world.nodes[node].agent.as_ref()?.revoking == Some(promised);
    let quiet = world.now_us.saturating_sub(world.stirred_us) > QUIET_US;
    let vouches = |other: &usize| {
        *other != node
            && *other != primary
            && world.belongs(*other)
            && world.near(node, *other)
            && world.near(primary, *other)
    };
    let vouchers = (0..world.nodes.len()).filter(vouches).count();
    let count = (0..world.nodes.len()).filter(|node| world.belongs(*node)).count();
    let vouched = vouchers > 0 && vouchers + 1 > count / 2;
    (own && quiet && vouched && promised > term).then(|| {
        format!(
            "promises {promised} to itself although {vouchers} others see the primary of term {term} well"
        )
    })
}
