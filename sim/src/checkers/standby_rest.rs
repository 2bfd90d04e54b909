//! I5 of a standby cluster: without faults it comes to rest. Behind an origin that lives, a head streams from the origin's
//! primary and all others from the head; behind one that is gone, who can runs and waits.

use crate::world::{Node, World};

/// It has a data directory that is whole.
fn whole(node: &Node) -> bool {
    let durable = &node.durable;
    node.server.wal.is_some() && !durable.needs_clone && !durable.rewound && !node.server.half_made
}

/// Nobody can be copied while the origin is gone, and a server that cannot run does not restart: such a request ends after its
/// own limit (`REINIT_MS_MAX`, `RESTART_MS_MAX`), which no run lasts for. Where nobody is whole nothing is left to ask for, as
/// "Not yet" says of a data directory whose rewind did not end.
fn may_last(world: &World, request: &brain::Request, lives: bool) -> bool {
    use brain::Ask;
    let node = request.ask.node().and_then(|name| world.index_of(name));
    let unfit = node.is_some_and(|node| !whole(&world.nodes[node]));
    let nobody = !world.nodes.iter().any(|node| node.full && whole(node));
    match request.ask {
        _ if !lives && nobody => true,
        Ask::Reinit { .. } | Ask::Restart { .. } => unfit && !lives,
        _ => false,
    }
}

/// Its operator lets it be primary, or head.
pub(super) fn may(node: &Node) -> bool {
    !node.tags.nofailover && node.tags.failover_priority > 0
}

/// The most WAL is on a node that may be neither primary nor head, and who may cannot take it: "a demotion and the handing over
/// of a headship need a node that may be primary".
pub fn barred(world: &World) -> bool {
    let full = || world.nodes.iter().filter(|node| node.full && whole(node));
    full().any(|own| !may(own) && !full().any(|other| may(other) && own.server.begins(&other.server)))
}

/// What is not as it should be in the long run.
pub fn unrest(world: &World) -> Option<(usize, String)> {
    let store = world.store.newest();
    let record = &store.primary.as_ref()?.value;
    let head = world.recorded_primary()?;
    if barred(world) {
        return None;
    }
    let feeds = world.origin_serves(head);
    let ends = |request: &&brain::Request| !may_last(world, request, feeds.is_some());
    let active = store.requests.iter().flat_map(|requests| requests.value.active());
    if let Some(request) = active.into_iter().find(ends) {
        let (id, ask, stage) = (request.id, &request.ask, request.stage.word());
        return Some((head, format!("request {id} ({ask:?}) is {stage}")));
    }
    for (index, node) in world.nodes.iter().enumerate() {
        let Some(agent) = &node.agent else { return Some((index, "no agent".to_owned())) };
        let Some(op) = &agent.op else { continue };
        return Some((index, format!("{:?} is under way", op.operation)));
    }
    if let Some(why) = head_unrest(world, head, record, feeds) {
        return Some((head, why));
    }
    let others = (0..world.nodes.len()).filter(|node| world.nodes[*node].full && *node != head);
    others.into_iter().find_map(|node| {
        let why = follower_unrest(world, node, head, record.term, feeds.is_some())?;
        Some((node, why))
    })
}

/// WAL of this cluster's own terms is compared with the origin's before the head is pointed there, and that waits for a
/// primary; nobody follows a head that follows nobody.
fn compares_first(world: &World, head: usize) -> bool {
    let wal = world.nodes[head].server.wal.as_ref();
    wal.is_some_and(|wal| world.store.newest().explains(wal.timeline()))
}

fn head_unrest(
    world: &World,
    head: usize,
    record: &brain::PrimaryRecord,
    feeds: Option<usize>,
) -> Option<String> {
    let node = &world.nodes[head];
    let server = &node.server;
    let Some(host) = feeds else {
        // "The origin is gone: it waits, serves reads, and says since when." Nobody can be made whole then.
        let able = world.nodes.iter().any(|node| node.full && whole(node) && may(node));
        let points = server.up()
            && server
                .files
                .upstream
                .as_ref()
                .is_some_and(|upstream| upstream.node.is_origin() && upstream.term == record.term);
        return (able && !points && !compares_first(world, head))
            .then(|| "the head does not wait for its origin".to_owned());
    };
    if node.durable.member.as_ref() != Some(&record.member) {
        return Some("the recorded data directory is gone".to_owned());
    }
    let origin = world.origin.as_ref()?;
    let connection = server.receiver.as_ref().filter(|it| it.connected && !it.dying).map(|it| it.connection);
    let feed = origin.feeds.iter().find(|feed| Some(feed.connection) == connection);
    if server.primary || feed.is_none_or(|feed| feed.host != host) {
        return Some(format!("the head does not stream from o{}, the origin's primary", host + 1));
    }
    server.files.quarantined.then(|| "the head admits no readers".to_owned())
}

fn follower_unrest(
    world: &World,
    node: usize,
    head: usize,
    term: brain::Term,
    lives: bool,
) -> Option<String> {
    let (own, far) = (&world.nodes[node].server, &world.nodes[head].server);
    let streams = far.senders.iter().any(|it| it.streaming && it.node == node && it.term == term);
    if streams {
        return own.files.quarantined.then(|| "it streams and admits no readers".to_owned());
    }
    if lives {
        return Some("does not stream from the head".to_owned());
    }
    // WAL that the head lacks is what the origin has, or what is rewound when it is back.
    let comparable = whole(&world.nodes[node]) && whole(&world.nodes[head]) && !compares_first(world, head);
    (comparable && (own.begins(far) || !own.up()))
        .then(|| "does not stream from the head, and could".to_owned())
}
