//! I1: once a term is open, no lower term acknowledges a commit that is not in its history. And the lease: two nodes
//! never serve reads as primary at one moment.

use super::{Acknowledged, Promotion};
use crate::world::World;

/// A commit of a lower term than one that has been promoted must be in that one's log. An unopened one counts too:
/// it was chosen to hold all that is acknowledged (I2), and nothing more may be.
pub fn on_acknowledged(promotions: &[Promotion], commit: &Acknowledged) -> Option<(&'static str, String)> {
    let missing = promotions.iter().find(|p| p.term > commit.born && !p.holds(commit))?;
    let invariant = if missing.opened { "I1" } else { "I2" };
    let state = if missing.opened { "open" } else { "promoted" };
    Some((
        invariant,
        format!(
            "acknowledged commit #{} of term {} although term {} is {state} without it",
            commit.id, commit.born, missing.term
        ),
    ))
}

/// Two agents that would serve a read as primary now. A frozen agent serves nothing: its proxy is frozen with it.
pub fn two_leases(world: &World) -> Option<(usize, String)> {
    let serves = |node: &usize| {
        let host = &world.nodes[*node];
        let awake = !host.agent_frozen && !world.clock_excused(*node);
        let Some(agent) = host.agent.as_ref().filter(|_| awake) else { return false };
        let server = &host.server;
        server.writes() && !server.frozen && !server.files.quarantined && {
            let mut view = agent.view.clone();
            view.tick(world.clock(*node));
            brain::Status::of(&view, agent.boot, 0, None, "").open
        }
    };
    let writing = world.nodes.iter().filter(|node| node.server.writes() && !node.server.files.quarantined);
    if writing.count() < 2 {
        return None;
    }
    let serving: Vec<usize> = (0..world.nodes.len()).filter(serves).collect();
    let &[first, second, ..] = serving.as_slice() else { return None };
    Some((second, format!("serves as primary while {} does", world.nodes[first].name)))
}
