//! A replica that takes its WAL from another replica: the turn to it, and the slots that it finds there.
//!
//! The way back to the primary is nobody's own rule: a replica that is not to be streamed from any more is detached from
//! (`rejoin::detach`), and then the primary is followed as by anybody.

use std::collections::BTreeSet;

use super::primary::belongs_to;
use super::{Want, act, rejoin, wait};
use crate::mutation::{Mutation, is_on};
use crate::{Action, MemberId, NodeName, Standby, Status, View};

/// The replica to stream from, once it has a slot for this node, and no commit counts on this node any more.
fn ready(view: &View) -> Option<(&NodeName, &Standby)> {
    let node = view.source()?;
    let status = view.fresh_peers().find(|status| status.node == *node)?;
    let standby = status.postgres.standby()?;
    let member = view.durable.member.as_ref()?;
    let free = !view.sync()?.set.members.contains(member);
    (free && standby.slots.contains_key(&member.slot_name())).then_some((node, standby))
}

/// WAL is taken from nobody for a moment, so that two ends are compared of which one stands still.
pub(super) fn turn(view: &View) -> Option<Want> {
    let (record, ..) = rejoin::upstream(view).ok()?;
    view.postgres.standby().filter(|standby| standby.follows(record))?;
    let (node, _) = ready(view)?;
    if is_on(Mutation::CascadeUncompared) {
        return act(Action::Follow { term: record.term, node: node.clone() }, "the ends are not compared");
    }
    let why = format!("replicatefrom names {node}, which is fit: first the two ends are compared");
    act(Action::Detach { term: view.durable.promise }, why)
}

/// Stands below what compares the own WAL with the primary's: here it is a beginning of that.
pub(super) fn follow(view: &View) -> Option<Want> {
    let (record, ..) = rejoin::upstream(view).ok()?;
    let own = view.postgres.standby().filter(|standby| standby.upstream.is_none())?;
    let (node, source) = ready(view)?;
    let compared = !is_on(Mutation::CascadeUncompared) && !is_on(Mutation::CascadeStale);
    if own.position > source.position && compared {
        return wait(format!(
            "WAL here ends at {}, {node} told of {}: its next word is awaited",
            own.position.lsn, source.position.lsn
        ));
    }
    let why = format!("WAL here ends at {}, a beginning of {node}'s", own.position.lsn);
    act(Action::Follow { term: record.term, node: node.clone() }, why)
}

/// A slot here for each node that takes its WAL from here. One whose node is heard to take it elsewhere, or under another
/// id, or is no member any more, is dropped; until then its node may come back.
pub(super) fn slots(view: &View) -> Option<Want> {
    let record = view.record()?;
    let standby = view.postgres.standby().filter(|standby| standby.in_place(record, view.source()))?;
    let of_term = |status: &&Status| status.record_term == record.term || is_on(Mutation::CascadeStale);
    let below = |status: &&Status| status.source.as_ref() == Some(&view.me) && of_term(status);
    let wanted: BTreeSet<MemberId> =
        view.fresh_peers().filter(below).filter_map(|status| status.member.clone()).collect();
    let spelled: BTreeSet<String> = wanted.iter().map(MemberId::slot_name).collect();
    let silent = |slot: &str| {
        let heard = view.fresh_peers().any(|status| belongs_to(slot, &status.node.0));
        !heard && view.settings.full.iter().any(|node| belongs_to(slot, &node.0))
    };
    // One that is read from cannot be dropped: its reader's agent sees to it that it ends.
    let stays = |(slot, active): &(&String, &bool)| spelled.contains(*slot) || **active || silent(slot);
    let kept: BTreeSet<&String> = standby.slots.iter().filter(stays).map(|(slot, _)| slot).collect();
    let missing = spelled.iter().any(|slot| !standby.slots.contains_key(slot));
    if !missing && kept.len() == standby.slots.len() {
        return None;
    }
    let kept = kept.into_iter().filter_map(|slot| MemberId::of_slot(slot));
    let names: Vec<&str> = wanted.iter().map(|member| member.0.as_str()).collect();
    let why = match names.as_slice() {
        [] => "nobody takes WAL from here any more".to_owned(),
        names => format!("{} to take WAL from here", names.join(", ")),
    };
    let members = wanted.iter().cloned().chain(kept).collect();
    act(Action::Slots { term: record.term, members }, why)
}
