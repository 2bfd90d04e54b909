//! Changes of the members that users ask for, written to the store.
//!
//! Adding is one write; the node comes by itself. Removing marks the node as leaving; the primary lets it out of the sync set
//! and then out of the record, and the store's leader takes its vote. So a change that was taken needs nobody's patience:
//! it is carried out by whoever is primary or leads the store then.
//! Invariant: each write names the versions of what it was decided on.

use std::collections::BTreeSet;
use std::sync::Arc;

use brain::{Key, MemberRecord, MembersRecord, NodeKind, NodeName, PrimaryRecord, View};
use serde::de::DeserializeOwned;

use super::requests::Refusal;
use crate::api::{MemberChange, NewMember};
use crate::config;
use crate::store::{Store, StoreError, Transaction};

/// The exhaustive checks of the quorums end here, and so do the voters of the store.
const NODES_MAX: usize = 5;

/// Others write the record at the same time: each attempt takes some milliseconds.
const ATTEMPTS_MAX: usize = 5;

/// Writes the change down; answers with the revision of the store that has it.
pub async fn change_members(
    store: &Arc<dyn Store>,
    view: &View,
    change: &MemberChange,
) -> Result<u64, Refusal> {
    for _ in 0..ATTEMPTS_MAX {
        let (members, members_version) = read::<MembersRecord>(store, Key::Members).await?;
        let members = members.ok_or_else(|| {
            Refusal::Unavailable("the store has no record of members yet; try again in a moment".to_owned())
        })?;
        let (primary, primary_version) = read::<PrimaryRecord>(store, Key::Primary).await?;
        let changed = match change {
            MemberChange::Add(new) => add(members, new, view)?,
            MemberChange::Remove { name } => remove(members, name, primary.as_ref(), view)?,
        };
        let value = serde_json::to_value(&changed).map_err(|error| Refusal::Invalid(error.to_string()))?;
        let transaction = Transaction::new()
            .require(Key::Members.path(), members_version)
            .require(Key::Primary.path(), primary_version)
            .put(Key::Members.path(), value);
        match store.commit(transaction).await {
            Ok(revision) => return Ok(revision),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(unavailable(&error)),
        }
    }
    Err(conflict("the members are being changed by others all the time; try again"))
}

fn conflict(text: impl Into<String>) -> Refusal {
    Refusal::Conflict(text.into())
}

fn unavailable(error: &StoreError) -> Refusal {
    Refusal::Unavailable(format!("the store says: {error}; see pgherd member list"))
}

async fn read<T: DeserializeOwned>(store: &Arc<dyn Store>, key: Key) -> Result<(Option<T>, u64), Refusal> {
    let Some(entry) = store.read(key.path()).await.map_err(|error| unavailable(&error))? else {
        return Ok((None, 0));
    };
    let unreadable = |error: serde_json::Error| {
        Refusal::Unavailable(format!(
            "the store's {} is not readable: {error}; upgrade this node",
            key.path()
        ))
    };
    Ok((Some(serde_json::from_value(entry.value).map_err(unreadable)?), entry.version))
}

fn add(mut members: MembersRecord, new: &NewMember, view: &View) -> Result<MembersRecord, Refusal> {
    check_new(new)?;
    let name = NodeName(new.name.clone());
    if let Some(present) = members.nodes.get(&name) {
        let state =
            if present.leaving { "is still leaving; wait until it has left" } else { "is a member already" };
        return Err(conflict(format!("{name} {state}; see pgherd member list")));
    }
    // PostgreSQL's slot names have no hyphen, so both would get the same slots.
    let spelled = |name: &str| name.replace('-', "_");
    if let Some(other) = members.nodes.keys().find(|other| spelled(&other.0) == spelled(&new.name)) {
        return Err(conflict(format!("{name} and {other} differ only in _ and -; choose another name")));
    }
    for (other, member) in &members.nodes {
        let theirs = [Some(&member.peer), member.postgres.as_ref()];
        for address in [Some(&new.peer), new.postgres.as_ref()].into_iter().flatten() {
            if theirs.contains(&Some(address)) {
                return Err(conflict(format!(
                    "{address} is {other}'s already; give the new node's own addresses"
                )));
            }
        }
    }
    if members.nodes.len() >= NODES_MAX {
        let text =
            format!("the cluster has {NODES_MAX} nodes, which is the most; first: pgherd member remove NAME");
        return Err(conflict(text));
    }
    if !new.witness && view.settings.standbys == 0 && view.settings.full.len() == 1 {
        return Err(conflict(
            "sync.standbys is 0: with a second PostgreSQL a takeover could lose commits; set sync.standbys = 1 in the \
             node's configuration and restart its pgherd (PostgreSQL goes on), then add the node",
        ));
    }
    let kind = if new.witness { NodeKind::Witness } else { NodeKind::Full };
    let member =
        MemberRecord { kind, peer: new.peer.clone(), postgres: new.postgres.clone(), leaving: false };
    members.removed.remove(&name);
    members.nodes.insert(name, member);
    Ok(members)
}

fn remove(
    mut members: MembersRecord,
    name: &str,
    primary: Option<&PrimaryRecord>,
    view: &View,
) -> Result<MembersRecord, Refusal> {
    let name = NodeName(name.to_owned());
    if !members.nodes.contains_key(&name) {
        return Err(Refusal::Invalid(format!(
            "there is no node \"{name}\" in this cluster; see pgherd member list"
        )));
    }
    if let Some(record) = primary.filter(|record| record.node == name) {
        let reason = match record.head {
            true => format!("{name} is the head, which is not removed; first: pgherd restart {name}"),
            false => format!("{name} is the primary, which is not removed; first: pgherd switchover"),
        };
        return Err(conflict(reason));
    }
    let stays = |(node, member): &(&NodeName, &MemberRecord)| **node != name && !member.leaving;
    let stay: BTreeSet<&NodeName> = members.nodes.iter().filter(stays).map(|(node, _)| node).collect();
    if !stay.iter().any(|node| members.nodes[*node].kind == NodeKind::Full) {
        return Err(conflict(format!("{name} is the last node with PostgreSQL; add another first")));
    }
    check_majority(&stay, view)?;
    if let Some(member) = members.nodes.get_mut(&name) {
        member.leaving = true;
    }
    Ok(members)
}

/// Those who are left must be able to agree, or the removal would stop what it is meant to mend.
fn check_majority(stay: &BTreeSet<&NodeName>, view: &View) -> Result<(), Refusal> {
    let mut answering: BTreeSet<&NodeName> = view.fresh_peers().map(|status| &status.node).collect();
    answering.insert(&view.me);
    let silent: Vec<&str> = stay.difference(&answering).map(|node| node.0.as_str()).collect();
    if stay.len() - silent.len() > stay.len() / 2 {
        return Ok(());
    }
    Err(conflict(format!(
        "of the {} nodes that would be left {} do not answer: they would be no majority; start or remove these first",
        stay.len(),
        silent.join(", ")
    )))
}

fn check_new(new: &NewMember) -> Result<(), Refusal> {
    let invalid = Refusal::Invalid;
    config::check_name(&new.name).map_err(|error| invalid(format!("\"{}\": {error}", new.name)))?;
    for address in [Some(&new.peer), new.postgres.as_ref()].into_iter().flatten() {
        config::check_address(address).map_err(|error| invalid(format!("\"{address}\": {error}")))?;
    }
    match (new.witness, &new.postgres) {
        (true, Some(_)) => Err(invalid("a witness has no PostgreSQL; leave its address out".to_owned())),
        (false, None) => {
            Err(invalid("a node that is no witness has a PostgreSQL; give its address".to_owned()))
        }
        _ => Ok(()),
    }
}
