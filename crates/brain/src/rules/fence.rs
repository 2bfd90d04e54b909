//! What keeps the node safe, above everything else.

use super::{Want, act, wait};
use crate::mutation::{Mutation, is_on};
use crate::{Action, Postgres, View, health};

pub(super) fn unread_store(view: &View) -> Option<Want> {
    (!view.store.loaded).then(|| wait("the store has not answered since the agent started"))?
}

pub(super) fn unusable(view: &View) -> Option<Want> {
    if let Postgres::Unusable(reason) = &view.postgres {
        return wait(reason.clone());
    }
    let own = match &view.postgres {
        Postgres::Standby(standby) => standby.system_id,
        Postgres::Primary(primary) => primary.system_id,
        _ => return None,
    };
    let cluster = view.store.cluster.as_ref().and_then(|versioned| versioned.value.system_id)?;
    (cluster != own).then(|| {
        wait(format!(
            "the data directory has system identifier {own}, the cluster {cluster}: it is another cluster's"
        ))
    })?
}

pub(super) fn witness(view: &View) -> Option<Want> {
    (!view.is_full() && !view.is_removed()).then(|| wait("no PostgreSQL here"))?
}

pub(super) fn deposed(view: &View) -> Option<Want> {
    let primary = view.postgres.primary()?;
    let Some(record) = view.record() else {
        return wait("a primary runs here although the store records none: nothing is touched");
    };
    if view.serving().is_some() || view.busy.is_some() || is_on(Mutation::DeposedServes) {
        return None;
    }
    act(
        Action::Stop,
        format!(
            "the primary of term {} is {} on timeline {}; this server writes timeline {}",
            record.term,
            record.node,
            record.timeline,
            primary.timeline()
        ),
    )
}

pub(super) fn promised(view: &View) -> Option<Want> {
    let (record, _) = view.serving()?;
    let broken = view.durable.promise > record.value.term && view.busy.is_none();
    let broken = broken && !is_on(Mutation::PromisedServes);
    broken.then(|| {
        act(
            Action::Stop,
            format!(
                "this node is primary of term {} and promised {}",
                record.value.term, view.durable.promise
            ),
        )
    })?
}

/// A hung server may go on serving the sessions it has; stopping it needs no answer from it.
pub(super) fn unanswering(view: &View) -> Option<Want> {
    let silent_ms = view.memory.unanswered_ms(view.now).filter(|_| view.postgres == Postgres::Unknown)?;
    let entitled = view.recorded_me().is_some() && health::lease_held(view);
    if entitled || silent_ms <= view.settings.failure_timeout_ms || view.busy.is_some() {
        return None;
    }
    act(
        Action::Stop,
        format!("this server was a primary, holds no lease, and has not answered for {silent_ms} ms"),
    )
}

pub(super) fn removed(view: &View) -> Option<Want> {
    if !view.is_removed() {
        return None;
    }
    let why = "this node was removed from the cluster; its data stays where it is";
    match view.postgres.standby() {
        Some(standby) if standby.upstream.is_some() || standby.receiver => {
            act(Action::Detach { term: view.durable.promise }, why)
        }
        _ => wait(why),
    }
}

pub(super) fn busy(view: &View) -> Option<Want> {
    let operation = view.busy?;
    wait(format!("{operation:?} is under way"))
}
