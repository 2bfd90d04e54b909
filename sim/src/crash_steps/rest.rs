//! Rest while somebody may be away for long, and what must not be left behind in the end.
//!
//! Beside I5's own rest (`checkers/everything_ends.rs`), which asks for a cluster in which nobody is away.

use std::collections::BTreeSet;

use brain::{OnLastStandbyLost, SyncSet};

use crate::plan::Kind;
use crate::world::World;

/// The nodes that a fault holds at present.
pub fn away(world: &World) -> BTreeSet<usize> {
    let lasting = |kind: Kind| !matches!(kind, Kind::KillPostgres | Kind::CutStream);
    world.plan.faults.iter().filter(|fault| lasting(fault.kind)).filter_map(|fault| fault.active).collect()
}

/// What is not yet as it should be; who is away is not asked.
pub fn unrest(world: &World) -> Option<String> {
    let away = away(world);
    let store = world.store.newest();
    let (Some(record), Some(sync)) = (&store.primary, &store.sync) else {
        return Some("no primary is recorded".to_owned());
    };
    let (record, set) = (&record.value, &sync.value.set);
    let primary = world.recorded_primary()?;
    if away.contains(&primary) {
        return Some(format!("{} is recorded and away", record.node));
    }
    if let Some(request) = store.requests.iter().flat_map(|requests| requests.value.active()).next() {
        return Some(format!("request {} ({:?}) is {}", request.id, request.ask, request.stage.word()));
    }
    let host = &world.nodes[primary];
    if sync.value.term != record.term {
        return Some(format!("term {} is not open", record.term));
    }
    if !host.server.writes() || host.server.files.quarantined {
        return Some(format!("{} does not serve", record.node));
    }
    let applied = host.agent.as_ref().and_then(|agent| agent.applied.as_ref());
    if applied.is_none_or(|applied| applied.set != *set || applied.term != record.term) {
        return Some(format!("{set} is not in force"));
    }
    if let Some(why) = (0..world.nodes.len())
        .filter(|node| !away.contains(node))
        .find_map(|node| restless(world, node, primary, set))
    {
        return Some(why);
    }
    set_unrest(world, primary, set, &away).or_else(|| {
        let quiet_us = world.now_us.saturating_sub(world.checkers.acknowledged_us());
        (quiet_us > 500_000).then(|| "no write is acknowledged".to_owned())
    })
}

fn restless(world: &World, node: usize, primary: usize, set: &SyncSet) -> Option<String> {
    let host = &world.nodes[node];
    let name = &host.name;
    if world.seats.is_absent(node) {
        return None;
    }
    let Some(agent) = &host.agent else { return Some(format!("{name} has no agent")) };
    // Who cannot reach the primary's server tries again and again.
    if let Some(op) = agent.op.as_ref().filter(|_| world.net.stream(node, primary)) {
        return Some(format!("{:?} is under way on {name}", op.operation));
    }
    if world
        .store
        .newest()
        .members
        .iter()
        .any(|m| m.value.nodes.get(name).is_some_and(|record| record.leaving))
    {
        return Some(format!("{name} is still leaving"));
    }
    if !host.full || node == primary || !world.stays(node) || !world.net.stream(node, primary) {
        return None;
    }
    if host.durable.rewound || host.durable.needs_clone || host.server.half_made {
        return Some(format!("the data directory of {name} is half made"));
    }
    let Some(member) = &host.durable.member else { return Some(format!("{name} has no data directory")) };
    let senders = &world.nodes[primary].server.senders;
    let streams = senders.iter().any(|s| s.streaming && s.node == node && s.member == *member);
    if !streams || host.server.primary {
        return Some(format!("{name} does not stream"));
    }
    if !world.seats.is_voter(node) {
        return Some(format!("{name} has no vote"));
    }
    (set.members.contains(member) == host.tags.nosync).then(|| format!("{member} and {set} do not fit"))
}

/// Nobody stays in the set who is gone, as far as k lets him go.
fn set_unrest(world: &World, primary: usize, set: &SyncSet, away: &BTreeSet<usize>) -> Option<String> {
    let there = |member: &brain::MemberId| {
        let node = world.index_of(&member.node());
        node.is_some_and(|node| {
            !away.contains(&node)
                && world.net.stream(node, primary)
                && world.stays(node)
                && world.nodes[node].durable.member.as_ref() == Some(member)
        })
    };
    if let Some(dead) = set.members.iter().find(|member| !there(member))
        && set.members.len() > set.k.max(1)
    {
        return Some(format!("{dead} is in {set} and is gone"));
    }
    let full = (0..world.nodes.len()).filter(|node| world.nodes[*node].full && world.stays(*node)).count();
    let settings = &world.plan.settings;
    let k = settings.standbys.min(full.saturating_sub(1));
    let degraded = settings.on_last_standby_lost == OnLastStandbyLost::Degrade && !away.is_empty();
    (set.k != k && !degraded).then(|| format!("k is {}, not {k}", set.k))
}

/// One machine may be missed: without it k standbys are left that may be in the set, or the settings do without.
pub fn bears_a_loss(world: &World) -> bool {
    let settings = &world.plan.settings;
    let there =
        |node: &usize| world.nodes[*node].full && world.stays(*node) && !world.nodes[*node].tags.nosync;
    let standbys = (0..world.nodes.len()).filter(there).count().saturating_sub(2);
    let degrades = settings.on_last_standby_lost == OnLastStandbyLost::Degrade;
    away(world).is_empty() && (standbys >= settings.standbys || degrades)
}

/// |S| - k + 1 members of `/sync` are there and whole, or its primary serves: what I4 is promised under.
pub fn quorum(world: &World) -> bool {
    let away = away(world);
    let store = world.store.newest();
    let (Some(primary), Some(sync)) = (world.recorded_primary(), &store.sync) else { return true };
    let server = &world.nodes[primary].server;
    let set = &sync.value.set;
    let whole = |node: &usize| {
        let host = &world.nodes[*node];
        let whole = !away.contains(node) && !host.durable.needs_clone && !host.durable.rewound;
        whole && host.durable.member.as_ref().is_some_and(|member| set.members.contains(member))
    };
    let there = (0..world.nodes.len()).filter(whole).count();
    server.writes() && !server.files.quarantined || there >= set.answers_needed()
}

/// What is left behind although the cluster is at rest and nobody is away.
pub fn left_behind(world: &World) -> Option<String> {
    let primary = world.recorded_primary()?;
    let server = &world.nodes[primary].server;
    let members: BTreeSet<_> = (0..world.nodes.len())
        .filter(|node| *node != primary && world.stays(*node))
        .filter_map(|node| world.nodes[node].durable.member.clone())
        .collect();
    if server.slots != members {
        return Some(format!(
            "the slots of {} are {:?}, its standbys {members:?}",
            world.nodes[primary].name, server.slots
        ));
    }
    let second = (0..world.nodes.len()).find(|node| *node != primary && world.nodes[*node].server.primary);
    second.map(|node| format!("{} is a primary beside the recorded one", world.nodes[node].name))
}
