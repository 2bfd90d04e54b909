//! A replica's seats: who votes and learns, as applied, and the leader's next change of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry as LogEntry};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::replica::Replica;
use super::steward::{Scene, Step};
use crate::store::MEMBERS;
use crate::store::state::Seat;

/// A proposed change, or a transfer, that shows no effect is tried again after this.
const STEP_AGAIN: Duration = Duration::from_secs(1);

/// The record, as far as the store itself needs it: its nodes' names.
#[derive(Deserialize)]
struct Roster {
    nodes: BTreeMap<String, IgnoredAny>,
}

/// Names of the nodes in a record; `None` when there is none that can be read.
pub(super) fn names_in(record: &Value) -> Option<BTreeSet<String>> {
    Some(Roster::deserialize(record).ok()?.nodes.into_keys().collect())
}

impl Replica {
    /// Names of the members, as applied here.
    pub fn members(&self) -> Option<BTreeSet<String>> {
        names_in(&self.state().get(MEMBERS)?.value)
    }

    pub fn members_record(&self) -> Option<Value> {
        self.state().get(MEMBERS).map(|entry| entry.value)
    }

    /// A message came from this seat.
    pub fn heard_of(&mut self, id: u64) {
        let now = self.now();
        self.heard.insert(id, now);
    }

    /// Seats heard of within the longest election timeout, this one included.
    fn alive(&self) -> BTreeSet<u64> {
        let now = self.now();
        let recent = self.heard.iter().filter(|(_, at)| now < **at + self.patience());
        recent.map(|(id, _)| *id).chain([self.id()]).collect()
    }

    /// The leader makes the next change of seats. Returns what it began, for the log.
    pub fn move_seats(&mut self, applicants: Vec<Seat>) -> Option<Step> {
        if !self.standing().leads || self.now() < self.step_again {
            return None;
        }
        let members = self.members()?;
        let alive = self.alive();
        let seats = self.state().seats().clone();
        let id = self.id();
        let core = self.core();
        let conf = core.conf_state();
        let scene = Scene {
            own: id,
            voters: conf.voters.into_iter().collect(),
            learners: conf.learners.into_iter().collect(),
            seats,
            alive,
            matched: core.matched(),
            committed: core.committed(),
            members,
            applicants,
        };
        let step = scene.next()?;
        let begun = match &step {
            Step::Transfer(to) => {
                core.transfer_leader(*to);
                true
            }
            Step::AddLearner(seat) => {
                let context = serde_json::to_vec(seat).ok()?;
                core.propose_change(change(ConfChangeType::AddLearnerNode, seat.id(), context))
            }
            Step::Promote(id) => core.propose_change(change(ConfChangeType::AddNode, *id, Vec::new())),
            Step::Remove(id) => core.propose_change(change(ConfChangeType::RemoveNode, *id, Vec::new())),
        };
        if begun {
            self.step_again = self.now() + STEP_AGAIN;
        }
        begun.then_some(step)
    }

    pub(super) fn apply_change(&mut self, entry: &LogEntry) -> Result<()> {
        let what = || format!("entry {} of the store, a change of seats, is not understood", entry.index);
        let change = ConfChange::parse_from_bytes(&entry.data).with_context(what)?;
        let id = change.node_id;
        match change.get_change_type() {
            ConfChangeType::AddLearnerNode => {
                let seat: Seat = serde_json::from_slice(&change.context).with_context(what)?;
                if seat.id() != id {
                    bail!("{}: {seat:?} has another id", what());
                }
                self.state_mut().seat_added(id, seat);
            }
            ConfChangeType::AddNode => {
                if !self.state().seats().contains_key(&id) {
                    bail!("{}: the seat that is to vote is not known", what());
                }
            }
            ConfChangeType::RemoveNode => self.state_mut().seat_removed(id),
        }
        self.core().apply_change(&change)?;
        self.seats_changed = true;
        // The next change need not wait.
        self.step_again = Duration::ZERO;
        Ok(())
    }
}

fn change(kind: ConfChangeType, id: u64, context: Vec<u8>) -> ConfChange {
    let mut change = ConfChange { node_id: id, context: context.into(), ..ConfChange::default() };
    change.set_change_type(kind);
    change
}
