//! From nothing to term 1.

use super::{Want, act, wait};
use crate::{
    Action, ClusterRecord, Commit, Key, NodeName, Position, Postgres, PrimaryRecord, Put, SyncRecord,
    SyncSet, Term, TimelineRecord, View,
};

/// The node that creates the cluster: the first full node by name.
fn founder(view: &View) -> Option<&NodeName> {
    view.settings.full.iter().next()
}

fn claimed_by_me(view: &View) -> bool {
    view.store.cluster.as_ref().is_some_and(|cluster| cluster.value.claimed_by == view.me)
}

pub(super) fn claim(view: &View) -> Option<Want> {
    if view.record().is_some() || view.store.cluster.is_some() || founder(view) != Some(&view.me) {
        return None;
    }
    if view.postgres != Postgres::Empty {
        return wait("the store is empty but there is a data directory: nothing is created over it");
    }
    let record =
        ClusterRecord { name: view.settings.cluster.clone(), claimed_by: view.me.clone(), system_id: None };
    let commit = Commit { conditions: vec![(Key::Cluster, 0)], puts: vec![Put::Cluster(record)] };
    act(Action::Commit(commit), "the store is empty and this is the first full node by name")
}

pub(super) fn initdb(view: &View) -> Option<Want> {
    let wanted = view.record().is_none() && claimed_by_me(view) && view.postgres == Postgres::Empty;
    wanted.then(|| act(Action::Initdb, "this node claimed the cluster and has no data directory"))?
}

pub(super) fn record(view: &View) -> Option<Want> {
    let standby = view.postgres.standby().filter(|standby| standby.answers())?;
    let member = view.durable.member.clone()?;
    let cluster = view.store.cluster.as_ref()?;
    if view.record().is_some() || !claimed_by_me(view) {
        return None;
    }
    let Position { timeline, .. } = standby.position;
    let first = PrimaryRecord {
        term: Term(1),
        node: view.me.clone(),
        member: member.clone(),
        timeline: timeline.next(),
        from: standby.position,
    };
    let timelines = vec![
        TimelineRecord { timeline, term: Term(0), member: member.clone() },
        TimelineRecord { timeline: timeline.next(), term: Term(1), member: member.clone() },
    ];
    let sync = SyncRecord { term: Term(0), primary: member, set: SyncSet::default(), by_lease: false };
    let made = ClusterRecord { system_id: Some(standby.system_id), ..cluster.value.clone() };
    let commit = Commit {
        conditions: vec![
            (Key::Cluster, cluster.version),
            (Key::Primary, 0),
            (Key::Sync, 0),
            (Key::Timelines, 0),
        ],
        puts: vec![Put::Cluster(made), Put::Primary(first), Put::Sync(sync), Put::Timelines(timelines)],
    };
    act(Action::Commit(commit), "the first server is there")
}

pub(super) fn wait_for_cluster(view: &View) -> Option<Want> {
    if view.record().is_some() {
        return None;
    }
    match (&view.store.cluster, founder(view)) {
        (Some(cluster), _) => wait(format!("{} is creating the cluster", cluster.value.claimed_by)),
        (None, Some(founder)) => wait(format!("the store is empty; {founder} creates the cluster")),
        (None, None) => wait("no full node is configured"),
    }
}
