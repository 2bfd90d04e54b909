//! I1 across clusters: one that follows another leaves it only when somebody asked, not while the other visibly lives, and
//! writes nothing before.

use brain::{Ask, Stage, Term};

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
    // Somebody's later wish may have pushed an old one that was done out of the list.
    let known = world.checkers.left == Some(term);
    let asked = known || store.requests.iter().flat_map(|requests| &requests.value.list).any(asked);
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

/// A server has left recovery for a term: not that of a head, and not in a cluster that has always followed another.
pub fn promoted_behind_head(world: &World, term: Term) -> Option<String> {
    let store = world.store.newest();
    let record = &store.primary.as_ref()?.value;
    let always = record.head && world.checkers.promotions.is_empty();
    (record.head && (record.term == term || always)).then(|| {
        format!("it is promoted for term {term} although {} is head of term {}", record.node, record.term)
    })
}

/// The request has passed its checks, by the hand of `node`, although a host of the origin has answered that node ever since
/// it was asked for.
pub fn passes_by_sight(world: &World, node: usize, ask: &Ask, asked_us: u64) -> Option<String> {
    let host = match ask {
        Ask::Promote { force: false } => world.answered_since(node, asked_us)?,
        _ => return None,
    };
    Some(format!("the promotion passes its checks although o{} answers it all the time", host + 1))
}
