//! Executing a decision: durable words and commits here, everything else by the worker.
//!
//! No choice is made. What rests on a durable word is begun only once that word is on disk; what is below the promise
//! is refused.

use std::time::Duration;

use brain::{Action, Commit, MemberId, NodeName, Operation, SyncSet, Term, Upstream};
use tokio::time::Instant;

use super::core::Agent;
use super::durable::Words;
use super::names::Names;
use super::note::{Errand, Note};
use super::records;
use super::work::Work;
use crate::postgres::Method;

/// An errand that failed is tried again after this; its request has a deadline.
const ERRAND_AGAIN: Duration = Duration::from_secs(1);

/// What came of an action.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Taken {
    /// Something is under way, or it failed a moment ago: it will be decided again.
    Refused,
    Begun,
    /// The view has changed by it: the next decision is due at once.
    Changed,
}

impl Taken {
    fn changed(done: bool) -> Taken {
        if done { Taken::Changed } else { Taken::Refused }
    }
}

impl Agent {
    pub(super) fn execute(&mut self, action: Action, rule: &str) -> Taken {
        match action {
            Action::Revoke { .. } => Taken::Begun,
            Action::Commit(commit) => self.commit(&commit, rule),
            Action::Checkpoint { request } => self.errand(Errand::Checkpoint, request),
            Action::Reload { request } => self.errand(Errand::Reload, request),
            other => Taken::changed(self.execute_here(other)),
        }
    }

    /// Durable words, and work for the worker.
    fn execute_here(&mut self, action: Action) -> bool {
        match action {
            Action::Promise { term } => {
                self.save(|words| words.durable.promise = words.durable.promise.max(term))
            }
            // Taken by `execute`.
            Action::Revoke { .. } | Action::Commit(_) => false,
            Action::Checkpoint { .. } | Action::Reload { .. } => false,
            Action::Initdb => self.start_with_new_member(Operation::Initdb, Work::Initdb, Term(0)),
            Action::Clone { term, node } => {
                let work = match node.is_origin() {
                    true => Work::CloneOrigin { store: self.parts.store.clone() },
                    false => Work::Clone { from: node },
                };
                self.start_with_new_member(Operation::Clone, work, term)
            }
            Action::StartDetached => self.start(Operation::Start, Work::Start),
            Action::Stop => self.start(Operation::Stop, Work::Stop),
            Action::Detach { .. } => self.start(Operation::Detach, Work::Detach),
            Action::Restart { request } => {
                !self.refused(Operation::Stop)
                    && self.save(|words| words.durable.obeyed = request)
                    && self.start(Operation::Stop, Work::Stop)
            }
            Action::GiveUp { request } => {
                // Somebody has looked: what failed before may be tried again.
                self.begin_again();
                self.save(|words| words.durable.give_up(request))
            }
            Action::Follow { term, node } => {
                // The next look tells whom the receiver has found.
                self.view.origin.sender.take_if(|_| node.is_origin());
                self.follow(term, node, true)
            }
            Action::Fetch { term, node } => self.follow(term, node, false),
            Action::Rewind { term, node } => self.rewind(term, node),
            Action::Promote { term, timeline, set, lower } => {
                if self.refused(Operation::Promote) || self.view.durable.promise > term {
                    return false;
                }
                self.save(|words| words.durable.win(term))
                    && self.start(
                        Operation::Promote,
                        Work::Promote { timeline, names: self.named(term, set), lower },
                    )
            }
            Action::Prepare { .. } => {
                self.start(Operation::Prepare, Work::Prepare { store: self.parts.store.clone() })
            }
            Action::ApplySync { term, set } => {
                self.start(Operation::ApplySync, Work::ApplySync { names: self.named(term, set) })
            }
            Action::Quarantine { .. } => self.start(Operation::Gate, Work::Gate { open: false }),
            Action::Admit { .. } => self.start(Operation::Gate, Work::Gate { open: true }),
            Action::TakeSlots { term, node } => {
                self.view.durable.promise <= term
                    && self.start(Operation::TakeSlots, Work::TakeSlots { from: node })
            }
            Action::Slots { members, .. } => self.start(Operation::Slots, Work::Slots { members }),
        }
    }

    /// The set in the order in which its members count.
    fn named(&self, term: Term, set: SyncSet) -> Names {
        let priority = |member: &MemberId| {
            let peer = self.view.memory.peers.get(&member.node());
            peer.map_or(0, |heard| heard.status.tags.failover_priority)
        };
        let mut order: Vec<MemberId> = set.members.iter().cloned().collect();
        if self.parts.method == Method::Priority {
            order.sort_by_key(|member| std::cmp::Reverse(priority(member)));
        }
        Names { term, set, order, method: self.parts.method }
    }

    /// Work is under way, or this kind of work has just failed.
    fn refused(&self, operation: Operation) -> bool {
        let early = self.retry.get(&operation).is_some_and(|retry| Instant::now() < retry.at);
        let given_up = self.retry.get(&operation).is_some_and(|retry| retry.given_up(operation));
        self.view.busy.is_some() || early || given_up
    }

    fn start(&mut self, operation: Operation, work: Work) -> bool {
        let Some(worker) = self.parts.worker.clone() else { return false };
        if self.refused(operation) {
            return false;
        }
        self.view.busy = Some(operation);
        worker.start(operation, work, self.note.clone());
        true
    }

    /// A new data directory is a new member, and stays marked until the copy is whole. Its id is durable before the
    /// directory is there: an old directory under a new id counts for nothing, a new one under an old id would count for what it does not hold.
    fn start_with_new_member(&mut self, operation: Operation, work: Work, term: Term) -> bool {
        if self.refused(operation) || self.view.durable.promise > term {
            return false;
        }
        let incarnation = format!("{:08x}", rand::random::<u32>());
        let member = brain::MemberId::new(&self.view.me, &incarnation);
        self.save(|Words { durable, .. }| {
            durable.member = Some(member.clone());
            durable.promise = durable.promise.max(term);
            durable.needs_clone = operation == Operation::Clone;
        }) && self.start(operation, work)
    }

    /// Beside the work on the server: it neither waits for it nor holds it up.
    fn errand(&mut self, errand: Errand, request: u64) -> Taken {
        if !self.errands.insert((errand, request)) {
            return Taken::Refused;
        }
        let (worker, reload, note) =
            (self.parts.worker.clone(), self.parts.reload.clone(), self.note.clone());
        tokio::spawn(async move {
            let result = match (errand, worker) {
                (Errand::Reload, _) => reload.reload().await,
                (Errand::Checkpoint, Some(worker)) => worker.checkpoint_ahead().await,
                (Errand::Checkpoint, None) => Ok(()),
            };
            if result.is_err() {
                tokio::time::sleep(ERRAND_AGAIN).await;
            }
            // A closed channel means that the agent is stopping.
            let _ = note.send(Note::Errand { errand, request, result }).await;
        });
        Taken::Begun
    }

    /// `slot`: whoever is followed keeps WAL for this member in a slot.
    fn follow(&mut self, term: Term, node: NodeName, slot: bool) -> bool {
        let Some(member) = self.view.durable.member.clone() else { return false };
        if self.refused(Operation::Follow) || self.view.durable.promise > term {
            return false;
        }
        // A head is a standby itself; the origin is told apart where it is pointed at.
        let primary = self.view.record().is_some_and(|record| record.node == node && !record.head);
        let upstream = Upstream { node, term };
        self.save(|words| {
            words.durable.promise = words.durable.promise.max(term);
            words.upstream = Some(upstream.clone());
        }) && self.start(Operation::Follow, Work::Follow { upstream, member, slot, primary })
    }

    /// A rewound server is started following its source, so to rewind is to follow.
    fn rewind(&mut self, term: Term, node: NodeName) -> bool {
        let Some(member) = self.view.durable.member.clone() else { return false };
        if self.refused(Operation::Rewind) || self.view.durable.promise > term {
            return false;
        }
        let upstream = Upstream { node, term };
        self.save(|words| {
            words.durable.promise = words.durable.promise.max(term);
            words.durable.rewound = true;
            words.upstream = Some(upstream.clone());
        }) && self.start(Operation::Rewind, Work::Rewind { upstream, member })
    }

    fn commit(&mut self, commit: &Commit, rule: &str) -> Taken {
        if self.committing.is_some() {
            return Taken::Refused;
        }
        self.committing = Some(0);
        self.view.memory.on_commit(commit);
        let transaction = match records::transaction(commit) {
            Ok(transaction) => transaction,
            Err(error) => {
                self.committing = None;
                tracing::error!(%error, "a change of the store could not be written down");
                return Taken::Refused;
            }
        };
        let (store, note, rule) = (self.parts.store.clone(), self.note.clone(), rule.to_owned());
        tokio::spawn(async move {
            let result = store.commit(transaction).await.map_err(|error| format!("{rule}: {error}"));
            // A closed channel means that the agent is stopping.
            let _ = note.send(Note::Committed(result)).await;
        });
        Taken::Begun
    }
}
