//! The view, told to others: the proxy's topology.

use brain::{Health, Millis, NodeName, Postgres, PrimaryRecord, Status, View, health_of, stays_open};
use wire::Timeline;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use proxy::topology::{Backend, Hold, Topology};

/// The hold that the proxy is to keep: its end stays where it was when it was first published, so that it ends there.
pub fn hold(view: &View, published: Option<Hold>) -> Option<Hold> {
    let wanted = view.hold()?;
    let until = Instant::now() + Duration::from_millis(wanted.left_ms);
    published.filter(|hold| hold.id == wanted.request).or(Some(Hold { id: wanted.request, until }))
}

/// The run of the recorded primary's agent that was last heard to be open.
///
/// The next run begins by saying that it is not: it has not looked at its server yet, which has gone on. Its word counts once it
/// has said that it is open, or when its silence would have counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenRun {
    node: NodeName,
    timeline: Timeline,
    boot: u64,
    at: Millis,
}

impl OpenRun {
    pub fn note(known: Option<OpenRun>, view: &View) -> Option<OpenRun> {
        let record = view.record()?;
        match peer(view, &record.node.0).filter(|status| says_open(view, record, status)) {
            Some(status) => {
                let (node, boot) = (status.node.clone(), status.boot);
                Some(OpenRun { node, timeline: record.timeline, boot, at: view.now })
            }
            None => known.filter(|run| run.node == record.node && run.timeline == record.timeline),
        }
    }

    fn outlasts(&self, view: &View, status: &Status) -> bool {
        let is_next = status.boot != self.boot && status.node == self.node;
        is_next && view.opened() && view.now.since(self.at) < view.settings.failure_timeout_ms
    }
}

fn says_open(view: &View, record: &PrimaryRecord, status: &Status) -> bool {
    // Between the record of a renewal and the first status under it the primary is still the same: only a renewal
    // keeps the timeline.
    let same = matches!(&status.postgres, Postgres::Primary(p) if p.timeline() == record.timeline);
    let of_record = status.record_term == record.term || same && status.record_term < record.term;
    status.node == record.node && of_record && status.open && view.opened()
}

/// Where the proxy may send sessions. `addresses` gives each node's PostgreSQL as `host:port`.
pub fn topology(view: &View, addresses: &BTreeMap<String, String>, open: Option<&OpenRun>) -> Topology {
    let backend = |node: &str| {
        addresses.get(node).map(|address| Backend { node: node.to_owned(), address: address.clone() })
    };
    if view.head().is_some() {
        return standby_cluster(view, addresses);
    }
    let Some(record) = view.record() else {
        return Topology { reason: "The cluster has no primary yet.".to_owned(), ..Topology::default() };
    };
    let own_open = stays_open(view).then(|| view.me.0.clone());
    let peer_open = peer(view, &record.node.0).filter(|status| {
        says_open(view, record, status) || open.is_some_and(|run| run.outlasts(view, status))
    });
    let primary = own_open.or_else(|| peer_open.map(|status| status.node.0.clone()));
    let follows = |postgres: &Postgres, source: Option<&NodeName>| {
        postgres.standby().is_some_and(|standby| {
            standby.streaming && !standby.quarantined && standby.in_place(record, source)
        })
    };
    let own = (follows(&view.postgres, view.source()) && !view.tags.noloadbalance).then(|| view.me.0.clone());
    let balanced =
        |status: &&Status| follows(&status.postgres, status.source.as_ref()) && !status.tags.noloadbalance;
    let peers = view.fresh_peers().filter(balanced).map(|status| status.node.0.clone());
    let mut replicas: Vec<String> = own.into_iter().chain(peers).collect();
    replicas.sort();
    let reason =
        if primary.is_some() { String::new() } else { reason(view, record, peer(view, &record.node.0)) };
    Topology {
        term: record.term.0,
        primary: primary.as_deref().and_then(backend),
        replicas: replicas.iter().filter_map(|node| backend(node)).collect(),
        reason,
        timeline: record.timeline.0,
        is_standby: false,
        hold: None,
    }
}

/// Nobody writes: every server that is admitted and takes WAL is read from, the head also while its origin is away.
fn standby_cluster(view: &View, addresses: &BTreeMap<String, String>) -> Topology {
    let (Some(record), Some(origin)) = (view.head(), view.origin_record()) else {
        return Topology::default();
    };
    let reads = |node: &str, postgres: &Postgres| {
        let standby = postgres.standby().filter(|standby| !standby.quarantined);
        let head = record.node.0 == node;
        standby.is_some_and(|s| {
            if head { s.follows_origin(record.term) } else { s.streaming && s.follows(record) }
        })
    };
    let own = (reads(&view.me.0, &view.postgres) && !view.tags.noloadbalance).then(|| view.me.0.clone());
    let balanced = |status: &&Status| reads(&status.node.0, &status.postgres) && !status.tags.noloadbalance;
    let peers = view.fresh_peers().filter(balanced).map(|status| status.node.0.clone());
    let mut replicas: Vec<String> = own.into_iter().chain(peers).collect();
    replicas.sort();
    let backend = |node: &String| Some(Backend { node: node.clone(), address: addresses.get(node)?.clone() });
    Topology {
        term: record.term.0,
        primary: None,
        replicas: replicas.iter().filter_map(backend).collect(),
        reason: format!(
            "This is a standby cluster of {}: writes go there, reads to the read-only port here. If that cluster is lost: \
             pgherd promote.",
            origin.hosts.join(", ")
        ),
        timeline: record.timeline.0,
        is_standby: true,
        hold: None,
    }
}

fn peer<'a>(view: &'a View, node: &str) -> Option<&'a Status> {
    view.fresh_peers().find(|status| status.node.0 == node)
}

fn reason(view: &View, record: &PrimaryRecord, status: Option<&Status>) -> String {
    if view.is_removed() {
        return "this node was removed from the cluster; connect to another one.".to_owned();
    }
    let health =
        if record.node == view.me { Some(health_of(view)) } else { status.map(|status| status.health) };
    let node = &record.node;
    if view.paused() && matches!(health, None | Some(Health::Down)) {
        return format!(
            "{node}, the primary of term {}, is down; the cluster is paused, so nobody takes over.",
            record.term
        );
    }
    match health {
        None => format!("{node}, the primary of term {}, is not heard.", record.term),
        Some(Health::Down) => {
            format!("PostgreSQL on {node}, the primary of term {}, is down; a takeover is due.", record.term)
        }
        Some(Health::Blocked) => format!("the primary {node} waits for a standby to confirm writes."),
        Some(_) if !view.opened() => format!("{node} is taking over as primary of term {}.", record.term),
        Some(_) => format!("the primary {node} is not open for clients now."),
    }
}
