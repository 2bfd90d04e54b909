//! I1 across clusters: one that follows another leaves it only when somebody asked, and writes nothing before.

use brain::{Ask, Stage};

use crate::world::World;

/// The store has changed: was the cluster that is followed left unasked?
pub fn left_unasked(world: &World) -> Option<String> {
    let store = world.store.newest();
    let term = store.origin.as_ref()?.value.left?;
    let asked = |request: &brain::Request| {
        matches!(request.ask, Ask::Promote { .. })
            && request.stage >= Stage::Stopping
            && request.stage != Stage::Failed
    };
    let asked = store.requests.iter().flat_map(|requests| &requests.value.list).any(asked);
    (!asked).then(|| format!("term {term} makes a primary of a standby cluster, and nobody asked for one"))
}

/// A server that writes while the recorded node is a head, under that head's own term or a later one.
pub fn writes_behind_head(world: &World) -> Option<(usize, String)> {
    let record = &world.store.newest().primary.as_ref()?.value;
    let writes = |node: &usize| {
        let server = &world.nodes[*node].server;
        server.writes() && server.born >= record.term
    };
    let node = (0..world.nodes.len()).find(writes).filter(|_| record.head)?;
    Some((node, format!("it writes although {} is head of term {}", record.node, record.term)))
}
