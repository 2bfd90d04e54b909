//! I5 for what people ask: a hold ends on every node in its time, and a request that is done has done what it says.
//!
//! That every request ends is part of rest (`everything_ends`).

use std::collections::{BTreeMap, BTreeSet};

use brain::{Ask, MemberId, Request, Stage};

use super::standby_cluster;

use crate::world::World;

/// The looks of this checker are 100 ms apart, and clocks differ.
const SLACK_US: u64 = 1_500_000;

#[derive(Default)]
pub struct RequestsEnd {
    /// By request: the stage, the data directory of the node it is about, and the moment when it was written down.
    known: BTreeMap<u64, (Stage, Option<MemberId>, u64)>,
    /// By node: the agent's run and the request it holds for, and since when.
    holds: BTreeMap<usize, (u64, u64, u64)>,
    /// Node and request: for what servers were stopped and data directories given up.
    obeyed: BTreeSet<(usize, u64)>,
}

impl RequestsEnd {
    /// Its words are lost, and with them what it has obeyed.
    pub fn forget(&mut self, node: usize) {
        self.obeyed.retain(|(obedient, _)| *obedient != node);
    }

    /// A server is stopped, or a data directory given up, once for a request.
    pub fn on_obeyed(&mut self, node: usize, request: u64) -> Option<String> {
        (!self.obeyed.insert((node, request))).then(|| format!("request {request} is obeyed a second time"))
    }
}

fn subject(request: &Request) -> Option<&brain::NodeName> {
    match &request.ask {
        Ask::Switchover { to, .. } => to.as_ref(),
        Ask::Failover { to } => Some(to),
        Ask::Restart { node, .. } | Ask::Reload { node, .. } | Ask::Reinit { node } => Some(node),
        Ask::Promote { .. } | Ask::Demote { .. } => None,
    }
}

/// What a request that `mover` has moved says, against what is.
pub fn on_change(world: &mut World, mover: usize) -> Option<(&'static str, usize, String)> {
    let now_us = world.now_us;
    let i5 = |(node, what)| Some(("I5", node, what));
    let store = world.store.newest().clone();
    let requests = &store.requests.as_ref()?.value;
    for request in &requests.list {
        let node = subject(request).and_then(|name| world.index_of(name));
        let member = node.and_then(|node| world.nodes[node].durable.member.clone());
        let known = world.checkers.requests.known.entry(request.id);
        let entry = known.or_insert_with(|| (request.stage, member.clone(), now_us));
        let (before, asked, asked_us) = (entry.0, entry.1.clone(), entry.2);
        entry.0 = request.stage;
        if before == request.stage {
            continue;
        }
        let at = node.unwrap_or(0);
        let ends = format!("request {} ({:?}) ends {}", request.id, request.ask, request.stage.word());
        if before.is_final() {
            return i5((at, format!("{ends} after it had ended {}", before.word())));
        }
        if request.stage == Stage::Stopping
            && let Some(what) = standby_cluster::passes_by_sight(world, mover, &request.ask, asked_us)
        {
            return Some(("I1", mover, what));
        }
        if request.stage.is_final() && request.note.is_empty() {
            return i5((at, format!("{ends} without a word")));
        }
        if request.stage != Stage::Done {
            continue;
        }
        let recorded = store.primary.as_ref().map(|record| &record.value.node);
        let hands_over = matches!(request.ask, Ask::Switchover { .. } | Ask::Failover { .. });
        if hands_over && recorded != subject(request) {
            return i5((at, format!("{ends}, and the primary is {recorded:?}")));
        }
        let copied = matches!(request.ask, Ask::Reinit { .. });
        // A disk that was lost since has no directory at all.
        if copied && member.is_some() && member == asked {
            return i5((at, format!("{ends}, and its data directory is the old one")));
        }
    }
    None
}

/// A proxy that parks its sessions for longer than a drain and a takeover may take.
pub fn holds_too_long(world: &mut World) -> Option<(usize, String)> {
    world.store.newest().requests.as_ref()?;
    let most_us = (world.plan.settings.drain_timeout_ms + brain::TAKEOVER_MS_MAX) * 1_000 + SLACK_US;
    for node in 0..world.nodes.len() {
        let parks = world.parks(node);
        let agent = world.nodes[node].agent.as_ref().filter(|_| parks);
        let hold = agent.and_then(|agent| Some((agent.boot, agent.view.hold()?.request)));
        let Some((boot, request)) = hold else {
            world.checkers.requests.holds.remove(&node);
            continue;
        };
        let now_us = world.now_us;
        let since = world.checkers.requests.holds.entry(node).or_insert((boot, request, now_us));
        if (since.0, since.1) != (boot, request) {
            *since = (boot, request, now_us);
        }
        let lasted_us = now_us - since.2;
        // A machine that stands still counts no time.
        if lasted_us > most_us && !world.clock_excused(node) {
            let seconds = lasted_us as f64 / 1e6;
            return Some((node, format!("sessions are held for request {request} for {seconds:.1} s")));
        }
    }
    None
}
