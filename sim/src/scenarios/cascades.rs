//! A node that takes its WAL from a replica, driven to the moments at which that replica's WAL is not its own.

use brain::Tags;

use super::Cast;
use super::stage::{LONG, SECOND, Shape, Stage, settled};
use crate::plan::Kind;
use crate::world::World;

/// Says it of this node for the rest of the run.
fn tag(stage: &mut Stage, node: usize, tags: Tags) {
    let world = &mut stage.world;
    world.plan.tags.resize(world.nodes.len(), Tags::default());
    world.plan.tags[node] = tags.clone();
    world.nodes[node].tags = tags;
    world.read_settings(node);
}

/// This node's server receives from that one.
fn receives(world: &World, node: usize, from: usize) -> bool {
    let receiver = world.nodes[node].server.receiver.as_ref();
    receiver.is_some_and(|r| r.connected && r.upstream.node == world.nodes[from].name)
}

/// A primary is cut off with one replica, which alone goes on to take its WAL. The node that had streamed from that replica
/// follows the next primary, whose WAL comes to it late, and must not turn back to the replica.
pub fn who_streams_from_a_replica_keeps_to_the_term(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(5, 2, 1))?;
    let (old, others) = (stage.primary, stage.others.clone());
    let (first, second, replica, below) = (others[0], others[1], others[2], others[3]);
    tag(&mut stage, replica, Tags { nosync: true, ..Tags::default() });
    let from = Some(stage.world.nodes[replica].name.clone());
    tag(&mut stage, below, Tags { replicatefrom: from, ..Tags::default() });
    stage.until(8 * SECOND, |world| settled(world, old) == 2 && receives(world, below, replica))?;
    stage.world.plan.lag_us[below] = 4 * SECOND;
    for node in [first, second, below, 5, 6] {
        stage.part(old, node);
    }
    for node in [first, second, 5, 6] {
        stage.strike(Kind::CutPeerLink, replica, node, LONG);
    }
    stage.until(12 * SECOND, |world| receives(world, below, first))?;
    stage.wait(12 * SECOND);
    Some(stage)
}

/// A replica is behind the node that is to stream from it, and becomes the primary with what it has.
pub fn two_ends_are_compared_before_a_turn(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(4, 1, 1))?;
    let (old, others) = (stage.primary, stage.others.clone());
    let (replica, member, below) = (others[0], others[1], others[2]);
    let lag_us = 200_000 + cast.seed % 7 * 100_000;
    (stage.world.plan.lag_us[replica], stage.world.plan.lag_us[member]) = (lag_us, lag_us);
    let from = Some(stage.world.nodes[replica].name.clone());
    tag(&mut stage, below, Tags { replicatefrom: from, ..Tags::default() });
    stage.until(8 * SECOND, |world| receives(world, below, replica))?;
    stage.strike(Kind::FreezeAgentUnfenced, below, 0, LONG);
    stage.strike(Kind::KillNode, old, 0, LONG);
    stage.until(8 * SECOND, |world| world.nodes[replica].server.writes())?;
    stage.wait(2 * SECOND);
    Some(stage)
}
