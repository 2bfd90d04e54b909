//! The view, told to others: the proxy's topology.

use brain::{Health, Postgres, Status, View, health_of, is_open};

use crate::proxy::topology::{Backend, Topology};
use std::collections::BTreeMap;

/// Where the proxy may send sessions. `addresses` gives each node's PostgreSQL as `host:port`.
pub fn topology(view: &View, addresses: &BTreeMap<String, String>) -> Topology {
    let backend = |node: &str| {
        addresses.get(node).map(|address| Backend { node: node.to_owned(), address: address.clone() })
    };
    let Some(record) = view.record() else {
        return Topology { reason: "The cluster has no primary yet.".to_owned(), ..Topology::default() };
    };
    let own_open = is_open(view).then(|| view.me.0.clone());
    let peer_open = view.fresh_peers().find(|status| {
        status.node == record.node && status.record_term == record.term && status.open && view.opened()
    });
    let primary = own_open.or_else(|| peer_open.map(|status| status.node.0.clone()));
    let follows = |postgres: &Postgres| {
        postgres
            .standby()
            .is_some_and(|standby| standby.streaming && !standby.quarantined && standby.follows(record))
    };
    let own = (follows(&view.postgres) && !view.tags.noloadbalance).then(|| view.me.0.clone());
    let balanced = |status: &&Status| follows(&status.postgres) && !status.tags.noloadbalance;
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
    }
}

fn peer<'a>(view: &'a View, node: &str) -> Option<&'a Status> {
    view.fresh_peers().find(|status| status.node.0 == node)
}

fn reason(view: &View, record: &brain::PrimaryRecord, status: Option<&Status>) -> String {
    let health =
        if record.node == view.me { Some(health_of(view)) } else { status.map(|status| status.health) };
    let node = &record.node;
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
