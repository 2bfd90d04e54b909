//! A standby cluster whose origin is gone: it waits, whatever happens to its head, until somebody promotes it.

use brain::{Ask, Commit, Key, Put, Stage as Step};

use super::Cast;
use super::stage::{SECOND, Shape, Stage};
use crate::plan::Kind;

/// Writes a request down as if it had come so far already.
fn ask(stage: &mut Stage, ask: Ask, step: Step) {
    let store = stage.world.store.newest().clone();
    let (mut requests, version) =
        store.requests.clone().map_or_else(Default::default, |stored| (stored.value, stored.version));
    let term = store.primary.as_ref().map_or(brain::Term(0), |primary| primary.value.term);
    let id = requests.add(ask, term, 0);
    if let Some(request) = requests.list.iter_mut().find(|request| request.id == id) {
        (request.stage, request.note) = (step, "asked by the scenario".to_owned());
    }
    let commit = Commit { conditions: vec![(Key::Requests, version)], puts: vec![Put::Requests(requests)] };
    if stage.world.store.commit(&commit) {
        stage.world.store_changed(stage.primary);
    }
}

/// The node that is recorded as head.
fn head(world: &crate::world::World) -> Option<usize> {
    let record = world.store.newest().primary.as_ref().filter(|record| record.value.head)?;
    world.index_of(&record.value.node)
}

/// The cluster is demoted to follow hosts that never answer; its head dies and another is head, and still nobody writes.
/// Then it is promoted by force.
pub fn a_standby_cluster_waits(cast: &Cast) -> Option<Stage> {
    let mut stage = cast.stage(Shape(3, 0, 1))?;
    // The check of the hosts is passed by: there are none in this world.
    ask(&mut stage, Ask::Demote { hosts: vec!["h1:5432".to_owned()], slot: None }, Step::Stopping);
    stage.until(8 * SECOND, |world| head(world).is_some())?;
    stage.wait(SECOND * 2 + cast.seed % 13 * 200_000);
    let first = head(&stage.world)?;
    stage.strike(Kind::KillNode, first, 0, 4 * SECOND);
    stage.wait(6 * SECOND);
    ask(&mut stage, Ask::Promote { force: true }, Step::Waiting);
    Some(stage)
}
