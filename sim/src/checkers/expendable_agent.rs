//! I6: an agent's death or hang never leaves an unfenced primary past its lease serving reads, and restarts no server
//! that its agent comes back to in time.
//!
//! A read is stale when, before it, a commit of a higher term was acknowledged than the server that answers was promoted
//! for. Clocks that drift beyond the margin, and machines whose clock stood still, are counted, not accused.

use brain::Term;

use crate::world::World;

/// Why a read of `node` through `proxy` at this moment is stale.
pub fn stale(world: &World, node: usize, proxy: usize, newest: Term) -> Option<String> {
    let born = world.nodes[node].server.born;
    (newest > born).then(|| {
        format!(
            "answers a read through {} as the primary of term {born} after term {newest} has acknowledged a commit",
            world.nodes[proxy].name
        )
    })
}

/// An agent that is away for less than this finds its server running: it takes as long to start one anew.
const AWAY_US: u64 = 5_000_000;

/// The fencer stops a server whose agent is there, or could still come back to it.
pub fn stopped(agent: bool, cut_us: Option<u64>, now_us: u64) -> Option<String> {
    let lasted_us = now_us.saturating_sub(cut_us.unwrap_or(now_us));
    let early = lasted_us < AWAY_US;
    (agent && early).then(|| {
        format!("the fencer stops the server {:.1} s after its clients were cut", lasted_us as f64 / 1e6)
    })
}
