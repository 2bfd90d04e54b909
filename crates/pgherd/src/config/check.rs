//! What must hold between settings. Each check runs when what it compares is there, so that all problems come at once.

use std::collections::BTreeMap;

use super::draft::Draft;
use super::error::Place;
use super::value::{format_duration, split_address};

/// Raft with more voters is slower and no safer in practice; the exhaustive checks of the quorum end here.
const VOTERS_MAX: usize = 5;
/// Room for a path in `sockaddr_un`, without the final zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;
const SOCKET_NAME: &str = "/run/.s.PGSQL.65535.lock";

pub(super) fn check(draft: &mut Draft) {
    peers(draft);
    own_entry(draft);
    replicatefrom(draft);
    ports(draft);
    socket_path(draft);
    timeouts(draft);
    sync(draft);
    super::slots::check(draft);
    standby_cluster(draft);
    super::proxy_tls::check(draft);
    super::http::check(draft);
    super::vip::check(draft);
}

fn peers(draft: &mut Draft) {
    let names: Vec<String> = draft.peers.keys().cloned().collect();
    if names.is_empty() {
        let text = "peers is missing; add [peers.n1] with peer = \"host:port\" and postgres = \"host:port\" \
                    for each node, this one included";
        draft.problem(Place::File, text);
        return;
    }
    if names.len() > VOTERS_MAX {
        draft.problem(Place::File, format!("peers has {} nodes, at most {VOTERS_MAX} can vote", names.len()));
    }
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for name in &names {
        // PostgreSQL's slot names have no hyphen, so both would get the same slots.
        if let Some(other) = seen.insert(name.replace('-', "_"), name.clone()) {
            let place = draft.peers[name].clone();
            draft
                .problem(place, format!("peers.{name} and peers.{other} differ only in _ and -; rename one"));
        }
        let (kind, postgres) = (format!("peers.{name}.kind"), format!("peers.{name}.postgres"));
        match (draft.text(&kind), draft.text(&postgres)) {
            (Some("witness"), Some(_)) => {
                draft
                    .problem_with(&postgres, format!("{postgres}: a witness has no PostgreSQL; remove this"));
            }
            (Some("full"), None) if !draft.refused.contains(&postgres) => {
                let place = draft.peers[name].clone();
                draft.problem(
                    place,
                    format!("{postgres} is missing; add postgres = \"host:port\" under [peers.{name}]"),
                );
            }
            _ => {}
        }
    }
    addresses(draft, &names);
}

/// No two nodes, and no two parts of a node, are reached at one address.
fn addresses(draft: &mut Draft, names: &[String]) {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for key in names.iter().flat_map(|name| [format!("peers.{name}.peer"), format!("peers.{name}.postgres")])
    {
        let Some(address) = draft.text(&key).map(str::to_owned) else { continue };
        if let Some(other) = seen.get(&address) {
            draft.problem_with(&key, format!("{key}: {address} is {other} already"));
        } else {
            seen.insert(address, key);
        }
    }
}

/// This node's table in `[peers]` is how the others reach it: it must fit what this node does.
fn own_entry(draft: &mut Draft) {
    let Some(name) = draft.text("node.name").map(str::to_owned) else { return };
    if draft.peers.is_empty() {
        return;
    }
    if !draft.peers.contains_key(&name) {
        let known = draft.peers.keys().cloned().collect::<Vec<_>>().join(", ");
        draft.problem_with(
            "node.name",
            format!("node.name: {name:?} has no table in [peers] (there are: {known})"),
        );
        return;
    }
    let kind = format!("peers.{name}.kind");
    if let (Some(ours), Some(theirs)) = (draft.text("node.kind"), draft.text(&kind))
        && ours != theirs
    {
        let text = format!("node.kind is {ours:?}, but {kind} is {theirs:?}");
        draft.problem_with("node.kind", text);
    }
    for (listens, reached) in [("peer.port", "peer"), ("postgres.port", "postgres")] {
        let reached = format!("peers.{name}.{reached}");
        let Some(Ok((host, port))) = draft.text(&reached).map(split_address) else { continue };
        if let Some(own) = draft.integer(listens)
            && own != i64::from(port)
        {
            draft.problem_with(
                &reached,
                format!("{reached} has port {port}, but {listens} of this node is {own}"),
            );
        }
        if let Some(advertised) = draft.text("node.advertise")
            && reached.ends_with(".postgres")
            && advertised != host
        {
            let text = format!("node.advertise is {advertised:?}, but {reached} has host {host:?}");
            draft.problem_with("node.advertise", text);
        }
    }
}

/// Whom this node streams from is another node with PostgreSQL. A circle over several files only the cluster can see.
fn replicatefrom(draft: &mut Draft) {
    let key = "tags.replicatefrom";
    let Some(named) = draft.text(key).map(str::to_owned) else { return };
    if draft.peers.is_empty() {
        return;
    }
    let text = if draft.text("node.name") == Some(named.as_str()) {
        format!("{key} names this node itself; name the replica that it is to stream from, or remove this")
    } else if !draft.peers.contains_key(&named) {
        let known = draft.peers.keys().cloned().collect::<Vec<_>>().join(", ");
        format!(
            "{key}: {named:?} has no table in [peers] (there are: {known}); correct the name, or add [peers.{named}]"
        )
    } else if draft.text(&format!("peers.{named}.kind")) == Some("witness") {
        format!("{key}: {named} is a witness, which has no PostgreSQL to stream from")
    } else {
        return;
    };
    draft.problem_with(key, text);
}

fn ports(draft: &mut Draft) {
    let mut seen: BTreeMap<i64, &str> = BTreeMap::new();
    let keys = [
        "postgres.port",
        "proxy.read_write_port",
        "proxy.read_only_port",
        "proxy.auto_port",
        "http.port",
        "peer.port",
    ];
    for key in keys {
        let Some(port) = draft.integer(key) else { continue };
        if let Some(other) = seen.insert(port, key) {
            draft.problem_with(key, format!("{key}: {port} is {other} already"));
        }
    }
}

fn socket_path(draft: &mut Draft) {
    let Some(dir) = draft.text("node.dir") else { return };
    let max = SOCKET_PATH_BYTES_MAX - SOCKET_NAME.len();
    if dir.len() > max {
        let text = format!(
            "node.dir has {} bytes, at most {max} leave room for the name of PostgreSQL's socket in it",
            dir.len()
        );
        draft.problem_with("node.dir", text);
    }
}

fn timeouts(draft: &mut Draft) {
    let key = "failover.failure_timeout";
    if let (Some(timeout), Some(heartbeat)) = (draft.duration(key), draft.duration("failover.heartbeat"))
        && timeout < heartbeat * 2
    {
        let text = format!(
            "{key} is {}, but one lost heartbeat must not cost a primary: \
             it must be at least twice failover.heartbeat ({})",
            format_duration(timeout),
            format_duration(heartbeat)
        );
        // Of the two, the one that somebody has set.
        let at = if draft.place(key) == Place::File { "failover.heartbeat" } else { key };
        draft.problem_with(at, text);
    }
}

/// Hosts that can be reached, none of which is this cluster's own, and the passwords to log in there.
fn standby_cluster(draft: &mut Draft) {
    let (hosts, credentials) = ("standby_cluster.hosts", "standby_cluster.credentials");
    let Some(text) = draft.text(hosts).map(str::to_owned) else {
        for key in [credentials, "standby_cluster.slot"] {
            if draft.text(key).is_some() && !draft.refused.iter().any(|refused| refused == hosts) {
                draft.problem_with(key, format!("{key} has no meaning without {hosts}"));
            }
        }
        return;
    };
    for host in text.split(',').map(str::trim) {
        if let Err(reason) = split_address(host) {
            draft.problem_with(hosts, format!("{hosts}: {reason}"));
        }
        let own = draft.peers.keys().map(|name| format!("peers.{name}.postgres"));
        let own: Vec<String> = own.filter(|key| draft.text(key) == Some(host)).collect();
        if let Some(key) = own.first() {
            draft.problem_with(hosts, format!("{hosts}: {host} is {key}, a node of this very cluster"));
        }
    }
    if draft.text(credentials).is_none() && !draft.refused.iter().any(|refused| refused == credentials) {
        draft.problem_with(
            hosts,
            format!(
                "{credentials} is missing; name the file credentials.json that was copied from a node there"
            ),
        );
    }
}

fn sync(draft: &mut Draft) {
    // The peers are those of the first start, or those that a newcomer asks: the cluster itself may be bigger or smaller, and
    // never waits for more standbys than there can be.
    let kinds = draft.peers.keys().filter_map(|name| draft.text(&format!("peers.{name}.kind")));
    let full = kinds.filter(|kind| *kind == "full").count();
    if draft.peers.is_empty() || full > VOTERS_MAX {
        return;
    }
    let text = match full {
        0 => "peers has no full node, so there is no PostgreSQL",
        _ => return,
    };
    draft.problem_with("sync.standbys", text);
}
