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
    let mut commit = Commit { conditions: vec![(Key::Cluster, 0)], puts: vec![Put::Cluster(record)] };
    if let Some(origin) = &view.settings.origin {
        commit.conditions.push((Key::Origin, 0));
        commit.puts.push(Put::Origin(origin.clone()));
    }
    act(Action::Commit(commit), "the store is empty and this is the first full node by name")
}

pub(super) fn initdb(view: &View) -> Option<Want> {
    let wanted = view.record().is_none() && claimed_by_me(view) && view.postgres == Postgres::Empty;
    if !wanted {
        return None;
    }
    if view.origin_record().is_none() {
        return act(Action::Initdb, "this node claimed the cluster and has no data directory");
    }
    match view.origin.primary() {
        Some((address, _)) => act(
            Action::Clone { term: Term(0), node: NodeName::origin() },
            format!("a standby cluster begins with a copy of {address}"),
        ),
        None => wait(format!("there is no primary to copy: {}", view.origin.words())),
    }
}

pub(super) fn record(view: &View) -> Option<Want> {
    let standby = view.postgres.standby().filter(|standby| standby.answers())?;
    let member = view.durable.member.clone()?;
    let cluster = view.store.cluster.as_ref()?;
    if view.record().is_some() || !claimed_by_me(view) {
        return None;
    }
    let Position { timeline, .. } = standby.position;
    let head = view.origin_record().is_some();
    let first = PrimaryRecord {
        term: Term(1),
        node: view.me.clone(),
        member: member.clone(),
        timeline: if head { timeline } else { timeline.next() },
        from: standby.position,
        head,
    };
    let mut timelines = vec![
        TimelineRecord { timeline, term: Term(0), member: member.clone(), at: None },
        TimelineRecord {
            timeline: timeline.next(),
            term: Term(1),
            member: member.clone(),
            at: view.recorded_at(),
        },
    ];
    timelines.retain(|_| !head);
    let set = SyncSet::default();
    let sync = SyncRecord { term: Term(0), primary: member, set, by_lease: false, idle: head };
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
