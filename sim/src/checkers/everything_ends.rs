//! I5: everything ends. No operation outlives its bound, and without faults the cluster comes to rest: one primary, open,
//! every other full node streaming and in the set, and nothing changes any more.

use brain::Term;

use crate::exec::OPERATION_US_MAX;
use crate::world::World;

/// An operation gives up at its deadline; a step more, slow disks included, is all it may take.
const OPERATION_SLACK_US: u64 = 5_000_000;
/// From the end of all faults to rest: a stalled replica is cloned anew after 30 s, others wait behind it.
const REST_US_MAX: u64 = 90_000_000;
/// The same where an origin is followed: a minute in which a promotion waits for somebody to carry it out, then the head's
/// twelve rewinds of some 6 s that find no WAL to stream, before it copies, and as many of another node's.
const REST_BEHIND_US_MAX: u64 = 240_000_000;
/// How long rest must last to be believed.
const REST_US: u64 = 1_500_000;
/// Terms after the end of all faults: one for each full node that may still try, twice.
const TERMS_MAX: u64 = 12;

#[derive(Default)]
pub struct EverythingEnds {
    term: Term,
    changed_us: u64,
    terms_since_healed: u64,
    restless_us: u64,
}

impl EverythingEnds {
    pub fn on_record(&mut self, now_us: u64, term: Term, healed_us: Option<u64>) {
        if term != self.term {
            self.term = term;
            self.changed_us = now_us;
            self.terms_since_healed += u64::from(healed_us.is_some());
        }
    }
}

/// What lasts too long.
pub fn late(world: &World) -> Option<(usize, String)> {
    for (index, node) in world.nodes.iter().enumerate() {
        let Some(op) = node.agent.as_ref().and_then(|agent| agent.op.as_ref()) else { continue };
        let lasted_us = world.now_us.saturating_sub(op.started_us);
        if !node.agent_frozen
            && lasted_us > OPERATION_US_MAX + OPERATION_SLACK_US
            && world.checkers.healed_us.is_some()
        {
            return Some((index, format!("{:?} lasts {:.1} s", op.operation, lasted_us as f64 / 1e6)));
        }
    }
    let healed_us = world.checkers.healed_us?;
    if world.checkers.ends.terms_since_healed > TERMS_MAX {
        return Some((world.recorded_primary()?, format!("more than {TERMS_MAX} terms after all faults")));
    }
    let away_us = world.now_us.saturating_sub(healed_us);
    let (node, why) = unrest(world)?;
    let most_us = if world.origin.is_some() { REST_BEHIND_US_MAX } else { REST_US_MAX };
    (away_us > most_us).then(|| (node, format!("no rest {} s after all faults: {why}", most_us / 1_000_000)))
}

/// The cluster has been at rest for long enough.
pub fn settled(world: &mut World) -> bool {
    if world.checkers.healed_us.is_none() {
        return false;
    }
    if unrest(world).is_some() {
        world.checkers.ends.restless_us = world.now_us;
    }
    let ends = &world.checkers.ends;
    let since_us = ends.restless_us.max(ends.changed_us).max(world.checkers.healed_us.unwrap_or(0));
    world.now_us.saturating_sub(since_us) >= REST_US
}

/// Nothing is as it should not be in the long run.
pub fn at_rest(world: &World) -> bool {
    unrest(world).is_none()
}

/// The replica that this node takes its WAL from.
fn source(world: &World, node: usize) -> Option<usize> {
    world.index_of(world.nodes[node].agent.as_ref()?.view.source()?)
}

/// What is not as it should be in the long run.
fn unrest(world: &World) -> Option<(usize, String)> {
    let store = world.store.newest();
    let (Some(record), Some(sync)) = (&store.primary, &store.sync) else {
        return Some((0, "no primary is recorded".to_owned()));
    };
    if record.value.head {
        return super::standby_rest::unrest(world);
    }
    let primary = world.recorded_primary()?;
    let server = &world.nodes[primary].server;
    let (term, member) = (record.value.term, &record.value.member);
    let unrest = |why: String| Some((primary, why));
    if let Some(request) = store.requests.iter().flat_map(|requests| requests.value.active()).next() {
        let (id, ask, stage) = (request.id, &request.ask, request.stage.word());
        return unrest(format!("request {id} ({ask:?}) is {stage}"));
    }
    if sync.value.term != term {
        return unrest(format!("term {term} is not open"));
    }
    if !server.writes()
        || server.files.quarantined
        || world.nodes[primary].durable.member.as_ref() != Some(member)
    {
        return unrest("the recorded primary does not serve".to_owned());
    }
    if let Some(name) = world.leaving() {
        return unrest(format!("{name} is still leaving"));
    }
    let full = (0..world.nodes.len()).filter(|node| world.nodes[*node].full && world.stays(*node)).count();
    let k = world.plan.settings.standbys.min(full - 1);
    let apart = |node: &usize| world.nodes[*node].tags.nosync || source(world, *node).is_some();
    let others = (0..world.nodes.len()).filter(|node| *node != primary && world.stays(*node));
    let below = others.filter(apart).count();
    if sync.value.set.k != k || sync.value.set.members.len() != full - 1 - below {
        return unrest(format!("/sync is {}", sync.value.set));
    }
    let applied = world.nodes[primary].agent.as_ref().and_then(|agent| agent.applied.as_ref());
    if applied.is_none_or(|applied| applied.set != sync.value.set || applied.term != term) {
        return unrest("/sync is not in force".to_owned());
    }
    for (index, node) in world.nodes.iter().enumerate().filter(|(index, _)| world.stays(*index)) {
        let Some(agent) = &node.agent else { return Some((index, "no agent".to_owned())) };
        if let Some(op) = &agent.op {
            return Some((index, format!("{:?} is under way", op.operation)));
        }
        if !node.full || index == primary {
            continue;
        }
        if let Some(source) = source(world, index) {
            let streams = world.nodes[source]
                .server
                .senders
                .iter()
                .any(|s| s.streaming && s.term == term && s.node == index);
            if !streams || node.server.primary {
                return Some((index, format!("does not stream from n{}", source + 1)));
            }
            continue;
        }
        let streams = server
            .senders
            .iter()
            .any(|s| s.streaming && s.term == term && s.node == index && (s.candidate || node.tags.nosync));
        if !streams || node.server.primary {
            return Some((index, "does not stream from the primary".to_owned()));
        }
    }
    let quiet_us = world.now_us.saturating_sub(world.checkers.writes.acknowledged_us);
    if quiet_us > 1_000_000 {
        return unrest("no write is acknowledged".to_owned());
    }
    None
}
