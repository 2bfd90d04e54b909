//! The brain's words and this model's bytes: names, sets, actions.
//!
//! What it is not: a rule. Invariant: what a world does not hold (roles, slots, requests, switchovers) is no act here.

use brain::{Action, Key, MemberId, NodeName, Put, SyncSet};
use wire::Lsn;

use super::state::{NODES, Set, Write};

/// One record.
const RECORD_BYTES: u64 = 0x1000;

/// An action of the brain, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Act {
    Write(Write),
    Promise(u8),
    Revoke(u8),
    Start,
    Stop,
    Detach(u8),
    Follow(u8, u8),
    Fetch(u8, u8),
    Clone(u8, u8),
    Rewind(u8, u8),
    Promote(u8, u8, Set),
    Apply(u8, Set),
    Admit,
}

/// Which names the nodes have: the brain breaks ties by name, and in this world every naming is possible.
#[derive(Clone, Copy, Debug)]
pub struct Naming(pub [u8; NODES]);

impl Naming {
    pub fn node(&self, index: u8) -> NodeName {
        NodeName(format!("n{}", self.0[usize::from(index)]))
    }

    pub fn member(&self, member: u8) -> MemberId {
        MemberId(format!("n{}_{}", self.0[usize::from(member / 2)], member % 2))
    }

    pub fn set(&self, set: Set) -> SyncSet {
        SyncSet::new((0..10).filter(|id| set.has(*id)).map(|id| self.member(id)), usize::from(set.k))
    }

    fn index(&self, name: &NodeName) -> u8 {
        let rank = name.0.as_bytes()[1] - b'0';
        self.0.iter().position(|known| *known == rank).unwrap_or_default() as u8
    }

    fn id(&self, member: &MemberId) -> u8 {
        self.index(&member.node()) * 2 + (member.0.as_bytes()[3] - b'0')
    }

    fn bits(&self, set: &SyncSet) -> Set {
        Set { members: set.members.iter().map(|member| 1 << self.id(member)).sum(), k: set.k as u8 }
    }

    /// What changes something in this world.
    pub fn act(&self, action: &Action) -> Option<Act> {
        let node = |name: &NodeName| self.index(name);
        Some(match action {
            Action::Commit(commit) => Act::Write(self.write(commit)),
            Action::Promise { term } => Act::Promise(term.0 as u8),
            Action::Revoke { term } => Act::Revoke(term.0 as u8),
            Action::StartDetached => Act::Start,
            Action::Stop => Act::Stop,
            Action::Detach { term } => Act::Detach(term.0 as u8),
            Action::Follow { term, node: upstream } => Act::Follow(term.0 as u8, node(upstream)),
            Action::Fetch { term, node: source } => Act::Fetch(term.0 as u8, node(source)),
            Action::Clone { term, node: source } => Act::Clone(term.0 as u8, node(source)),
            Action::Rewind { term, node: source } => Act::Rewind(term.0 as u8, node(source)),
            Action::Promote { term, timeline, set, .. } => {
                Act::Promote(term.0 as u8, timeline.0 as u8, self.bits(set))
            }
            Action::ApplySync { term, set } => Act::Apply(term.0 as u8, self.bits(set)),
            Action::Admit { .. } => Act::Admit,
            // Clients are never cut here: no clock fences a primary in this world.
            Action::Quarantine { .. } => return None,
            // Roles and slots are always there; the cluster exists already.
            Action::Initdb | Action::Prepare { .. } | Action::Slots { .. } => return None,
            // Nobody asks for anything; no slot is missed.
            Action::TakeSlots { .. } | Action::Checkpoint { .. } => return None,
            Action::Reload { .. } | Action::Restart { .. } | Action::GiveUp { .. } => return None,
        })
    }

    fn write(&self, commit: &brain::Commit) -> Write {
        let mut write = Write::default();
        for (key, _) in &commit.conditions {
            match key {
                Key::Primary => write.if_primary = true,
                Key::Sync => write.if_sync = true,
                // Each changes together with `/primary` or never in this world.
                Key::Timelines | Key::Cluster | Key::Members | Key::Requests | Key::Lease | Key::Origin => {}
            }
        }
        for put in &commit.puts {
            match put {
                Put::Primary(record) => {
                    write.puts_primary = true;
                    (write.term, write.node) = (record.term.0 as u8, self.index(&record.node));
                    (write.member, write.timeline) = (self.id(&record.member), record.timeline.0 as u8);
                    write.from_timeline = record.from.timeline.0 as u8;
                    write.from_len = len(record.from.lsn);
                }
                Put::Sync(record) => {
                    write.puts_sync = true;
                    (write.sync_term, write.sync_primary) = (record.term.0 as u8, self.id(&record.primary));
                    write.set = self.bits(&record.set);
                }
                Put::Timelines(_) | Put::Cluster(_) | Put::Members(_) | Put::Requests(_) | Put::Origin(_) => {
                }
            }
        }
        write
    }
}

pub fn lsn(len: u8) -> Lsn {
    Lsn(u64::from(len) * RECORD_BYTES)
}

pub fn len(lsn: Lsn) -> u8 {
    (lsn.0 / RECORD_BYTES) as u8
}
