//! Nodes that are to leave the cluster, as the recorded node sees to it.
//!
//! Invariant: a node is let go only once no commit counts on it, and with it goes what was asked of it.

use super::{Want, act};
use crate::mutation::{Mutation, is_on};
use crate::{Action, Commit, Key, MemberRecord, MembersRecord, NodeName, Put, Versioned, View};

/// Written on the condition that neither the recorded node nor the record of members has changed.
fn change(view: &View, stored: &Versioned<MembersRecord>, changed: MembersRecord) -> Option<Commit> {
    let primary = view.store.primary.as_ref()?;
    Some(Commit {
        conditions: vec![(Key::Primary, primary.version), (Key::Members, stored.version)],
        puts: vec![Put::Members(changed)],
    })
}

/// A takeover chose this node while it was to leave. The recorded node is not removed, and a mark that nobody acts on would
/// stand for ever; whoever wants it gone hands over and removes it again.
fn stay(view: &View, why: &str) -> Option<Want> {
    let members = view.store.members.as_ref()?;
    members.value.nodes.get(&view.me).filter(|own| own.leaving)?;
    act(Action::Commit(change(view, members, members.value.keeping(&view.me))?), why)
}

pub(super) fn primary_stays(view: &View) -> Option<Want> {
    view.serving().filter(|_| view.opened() && !is_on(Mutation::StayDropped))?;
    stay(view, "this node was to leave and became the primary: it stays; to remove it, switch over first")
}

pub(super) fn head_stays(view: &View) -> Option<Want> {
    view.head().filter(|_| view.is_head())?;
    stay(view, "this node was to leave and became the head: it stays; to remove it, restart it first")
}

/// The first that is to leave and on whom nothing counts.
fn let_go(view: &View, counts: impl Fn(&NodeName) -> bool, why: &str) -> Option<Want> {
    let members = view.store.members.as_ref()?;
    let free =
        |(name, member): &(&NodeName, &MemberRecord)| member.leaving && **name != view.me && !counts(name);
    let (name, _) = members.value.nodes.iter().find(free)?;
    let mut commit = change(view, members, members.value.without(name))?;
    let requests = view.store.requests.as_ref();
    if let Some((stored, rest)) = requests.and_then(|stored| Some((stored, stored.value.without(name)?))) {
        commit.conditions.push((Key::Requests, stored.version));
        commit.puts.push(Put::Requests(rest));
    }
    act(Action::Commit(commit), format!("{name} is to leave, and {why}"))
}

/// The last step of a removal: the set, stored and in force, has let the node out.
pub(super) fn by_primary(view: &View) -> Option<Want> {
    let (record, primary) = view.serving().filter(|_| view.opened())?;
    let sync = view.store.sync.as_ref()?;
    // Only this primary writes /sync, and a write of its own that may still arrive is settled before (`sync.change`).
    let in_force = primary.applied.as_ref().filter(|applied| applied.term == record.value.term)?;
    let counts = |node: &NodeName| {
        let mut sets = sync.value.set.members.iter().chain(&in_force.set.members);
        sets.any(|member| member.node() == *node)
    };
    let_go(view, counts, "no commit counts on it")
}

/// No commit counts on anybody in a standby cluster, so a node that is to leave goes at once.
pub(super) fn by_head(view: &View) -> Option<Want> {
    view.head().filter(|_| view.is_head())?;
    let_go(view, |_| false, "nobody writes here")
}
