//! I4: with a store majority and a data quorum alive and connected, writes are possible again within a bound.

use brain::Durable;

use crate::world::World;

/// From nothing to the first acknowledged commit: initdb, two clones, an opening.
const BOOTSTRAP_US_MAX: u64 = 30_000_000;
/// After all faults: 2 s of leases forgotten, 2 s of suspicion, a takeover, a clone or two in the way.
const HEALED_US_MAX: u64 = 30_000_000;
/// After one fault that lasts: 2 s until suspicion, 2 s until leases end, a takeover, an opening.
const SINGLE_US_MAX: u64 = 10_000_000;

#[derive(Default)]
pub struct WritesReturn {
    /// When the youngest acknowledged commit of a recorded primary was written.
    pub written_us: u64,
    pub acknowledged_us: u64,
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
/// way before an opening can take one away; nothing is lost then, but nobody can prove it without a person.
pub fn data_quorum(world: &World) -> bool {
    let Some(sync) = &world.store.newest().sync else { return true };
    let set = &sync.value.set;
    let whole = |node: &&crate::world::Node| {
        let Durable { member, needs_clone, rewound, .. } = &node.durable;
        let member = member.as_ref().filter(|_| !needs_clone && !rewound);
        member.is_some_and(|member| set.members.contains(member))
    };
    let serves = world.recorded_primary().is_some_and(|primary| {
        let server = &world.nodes[primary].server;
        server.writes() && !server.files.quarantined
    });
    serves || set.k == 0 || world.nodes.iter().filter(whole).count() >= set.answers_needed()
}

/// How long writes have been away, when that is too long.
pub fn late(world: &World) -> Option<String> {
    let checkers = &world.checkers;
    let written_us = checkers.writes.written_us;
    let (since_us, most_us, after) = match (checkers.storm_us, checkers.healed_us) {
        (None, _) => (0, BOOTSTRAP_US_MAX, "the cluster's start"),
        (_, Some(healed_us)) => (healed_us.max(written_us), HEALED_US_MAX, "all faults have ended"),
        (Some(storm_us), None) if world.plan.single => {
            (storm_us.max(written_us), SINGLE_US_MAX, "a single fault in a healthy cluster")
        }
        _ => return None,
    };
    let away_us = world.now_us.saturating_sub(since_us);
    (away_us > most_us).then(|| format!("no write for {:.1} s, after {after}", away_us as f64 / 1e6))
}
