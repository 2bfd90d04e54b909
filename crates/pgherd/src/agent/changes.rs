//! Changes of the members that users ask for, written to the store.
//!
//! Adding is one write; the node comes by itself. Removing marks the node as leaving; the primary lets it out of the sync set
//! and then out of the record, and the store's leader takes its vote. So a change that was taken needs nobody's patience:
//! it is carried out by whoever is primary or leads the store then.
//! Invariant: each write names the versions of what it was decided on.

use std::collections::BTreeSet;
use std::sync::Arc;

use brain::{Key, MemberRecord, MembersRecord, NodeKind, NodeName, PrimaryRecord};
use serde::de::DeserializeOwned;

use super::events::EventLog;
use super::panel::Panel;
use crate::api::{Change, ClusterChanges, NewMember, Receipt, Refusal, RefusalCode, Submitted};
use crate::config;
use crate::store::{Store, StoreError, Transaction};

/// The exhaustive checks of the quorums end here, and so do the voters of the store.
const NODES_MAX: usize = 5;

/// Others write the record at the same time: each attempt takes some milliseconds.
const ATTEMPTS_MAX: usize = 5;

pub struct Changes {
    pub store: Arc<dyn Store>,
    pub panel: Arc<Panel>,
    pub events: Arc<EventLog>,
}

impl ClusterChanges for Changes {
    fn submit(&self, change: Change) -> Submitted<'_> {
        Box::pin(async move {
            for _ in 0..ATTEMPTS_MAX {
                match self.attempt(&change).await {
                    Err(Failed::Raced) => {}
                    Err(Failed::Refused(refusal)) => return Err(refusal),
                    Ok(receipt) => {
                        self.events.note(
                            0,
                            "operator",
                            receipt.what.clone(),
                            vec![format!("as {}", receipt.id)],
                        );
                        return Ok(receipt);
                    }
                }
            }
            Err(refusal(RefusalCode::Conflict, "the members change all the time", "try again"))
        })
    }
}

enum Failed {
    /// What it was decided on has changed.
    Raced,
    Refused(Refusal),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Failed {
        Failed::Refused(refusal)
    }
}

fn refusal(code: RefusalCode, error: impl Into<String>, next: impl Into<String>) -> Refusal {
    Refusal { code, error: error.into(), next: next.into() }
}

fn conflict(error: impl Into<String>, next: impl Into<String>) -> Refusal {
    refusal(RefusalCode::Conflict, error, next)
}

fn from_store(error: StoreError) -> Failed {
    let text = error.to_string();
    match error {
        StoreError::Conflict { .. } => Failed::Raced,
        StoreError::Unknown(_) => {
            refusal(RefusalCode::OutcomeUnknown, text, "see whether it has happened: pgherd member list")
                .into()
        }
        _ => {
            refusal(RefusalCode::Unavailable, text, "start nodes until a majority of the store is up").into()
        }
    }
}

impl Changes {
    async fn attempt(&self, change: &Change) -> Result<Receipt, Failed> {
        let (members, members_version) = self.read::<MembersRecord>(Key::Members).await?;
        let members = members.ok_or_else(|| {
            refusal(
                RefusalCode::Unavailable,
                "the store has no record of members yet",
                "try again in a moment",
            )
        })?;
        let (primary, primary_version) = self.read::<PrimaryRecord>(Key::Primary).await?;
        let (changed, what) = match change {
            Change::AddMember(new) => (self.add(members, new)?, format!("add {} to the cluster", new.name)),
            Change::RemoveMember { name } => {
                let changed = self.remove(members, name, primary.as_ref())?;
                (changed, format!("remove {name} from the cluster"))
            }
        };
        let value = serde_json::to_value(&changed)
            .map_err(|error| refusal(RefusalCode::Invalid, error.to_string(), "see the log of the node"))?;
        let transaction = Transaction::new()
            .require(Key::Members.path(), members_version)
            .require(Key::Primary.path(), primary_version)
            .put(Key::Members.path(), value);
        let revision = self.store.commit(transaction).await.map_err(from_store)?;
        Ok(Receipt { id: format!("members-{revision}"), what })
    }

    async fn read<T: DeserializeOwned>(&self, key: Key) -> Result<(Option<T>, u64), Failed> {
        let Some(entry) = self.store.read(key.path()).await.map_err(from_store)? else {
            return Ok((None, 0));
        };
        let unreadable = |error: serde_json::Error| {
            refusal(
                RefusalCode::Unavailable,
                format!("the store's {} is not readable: {error}", key.path()),
                "upgrade this node",
            )
        };
        Ok((Some(serde_json::from_value(entry.value).map_err(unreadable)?), entry.version))
    }

    fn add(&self, mut members: MembersRecord, new: &NewMember) -> Result<MembersRecord, Refusal> {
        check_new(new)?;
        let name = NodeName(new.name.clone());
        if let Some(present) = members.nodes.get(&name) {
            let next = if present.leaving {
                "wait until it has left: pgherd member list"
            } else {
                "pgherd member list"
            };
            let state = if present.leaving { "is leaving" } else { "is a member already" };
            return Err(conflict(format!("{name} {state}"), next));
        }
        // PostgreSQL's slot names have no hyphen, so both would get the same slots.
        let spelled = |name: &str| name.replace('-', "_");
        if let Some(other) = members.nodes.keys().find(|other| spelled(&other.0) == spelled(&new.name)) {
            return Err(conflict(
                format!("{name} and {other} differ only in _ and -"),
                "choose another name",
            ));
        }
        for (other, member) in &members.nodes {
            let theirs = [Some(&member.peer), member.postgres.as_ref()];
            for address in [Some(&new.peer), new.postgres.as_ref()].into_iter().flatten() {
                if theirs.contains(&Some(address)) {
                    return Err(conflict(
                        format!("{address} is {other}'s already"),
                        "give the new node's own addresses",
                    ));
                }
            }
        }
        if members.nodes.len() >= NODES_MAX {
            let error = format!("the cluster has {NODES_MAX} nodes, which is the most");
            return Err(conflict(error, "remove one first: pgherd member remove NAME"));
        }
        let asynchronous = self.panel.seen().is_some_and(|seen| seen.view.settings.standbys == 0);
        if !new.witness && asynchronous {
            return Err(conflict(
                "sync.standbys is 0, so a second PostgreSQL would acknowledge nothing",
                "set sync.standbys = 1 in the configuration of each node and restart it (PostgreSQL goes on)",
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
        &self,
        mut members: MembersRecord,
        name: &str,
        primary: Option<&PrimaryRecord>,
    ) -> Result<MembersRecord, Refusal> {
        let name = NodeName(name.to_owned());
        if !members.nodes.contains_key(&name) {
            let error = format!("there is no node \"{name}\" in this cluster");
            return Err(refusal(RefusalCode::Unknown, error, "pgherd member list"));
        }
        if primary.is_some_and(|record| record.node == name) {
            let error = format!("{name} is the primary, which is not removed");
            return Err(conflict(error, "switch over to another node first"));
        }
        let stay: BTreeSet<&NodeName> = members
            .nodes
            .iter()
            .filter(|(node, member)| **node != name && !member.leaving)
            .map(|(node, _)| node)
            .collect();
        if !stay.iter().any(|node| members.nodes[*node].kind == NodeKind::Full) {
            return Err(conflict(format!("{name} is the last node with PostgreSQL"), "add another first"));
        }
        self.check_majority(&stay)?;
        if let Some(member) = members.nodes.get_mut(&name) {
            member.leaving = true;
        }
        Ok(members)
    }

    /// Those who are left must be able to agree, or the removal would stop what it is meant to mend.
    fn check_majority(&self, stay: &BTreeSet<&NodeName>) -> Result<(), Refusal> {
        let Some(seen) = self.panel.seen() else {
            return Err(refusal(RefusalCode::Unavailable, "the agent is starting", "try again in a moment"));
        };
        let view = &seen.view;
        let mut answering: BTreeSet<&NodeName> = view.fresh_peers().map(|status| &status.node).collect();
        answering.insert(&view.me);
        let silent: Vec<&str> = stay.difference(&answering).map(|node| node.0.as_str()).collect();
        if stay.len() - silent.len() > stay.len() / 2 {
            return Ok(());
        }
        let error = format!(
            "of the {} nodes that would be left, {} do not answer: they would be no majority",
            stay.len(),
            silent.join(", ")
        );
        Err(conflict(error, format!("start {} or remove them first", silent.join(" and "))))
    }
}

fn check_new(new: &NewMember) -> Result<(), Refusal> {
    let invalid = |error: String| refusal(RefusalCode::Invalid, error, "pgherd member add --help");
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
