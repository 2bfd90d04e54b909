//! What the agent learns, and how its view changes by it: the store, the peers' messages, the end of its own work.
//!
//! What it does not do: decide. Everything here only brings the view up to date, and what must outlive a crash to the disk.

use anyhow::Result;
use brain::{NodeName, Operation, Postgres, View};

use super::core::Agent;
use super::message::Message;
use super::note::{Done, Errand, Note, Observed};
use super::records;
use super::retry::Retry;
use super::work::RewindImpossible;
use crate::store::Standing;

/// Rewinds that fail this often in a row will not succeed: the data directory is copied anew.
const REWINDS_MAX: u32 = 3;

impl Agent {
    pub(super) fn read_store(&mut self) -> Result<()> {
        let snapshot = self.snapshots.borrow_and_update().clone();
        let removed = self.parts.seats.borrow_and_update().standing == Standing::Removed;
        let loaded = self.view.store.loaded || snapshot.connected || removed;
        let term = self.term();
        self.view.store = records::store_view(&snapshot, loaded)?;
        if self.term() != term {
            self.begin_again();
        }
        self.view.store.removed = removed;
        self.follow_members();
        let system_id = self.view.store.cluster.as_ref().and_then(|cluster| cluster.value.system_id);
        if system_id.is_some() {
            self.save(|words| words.system_id = system_id);
        }
        // Deciding again before one's own change is seen would be deciding on the past.
        self.committing = self.committing.filter(|revision| *revision == 0 || *revision > snapshot.revision);
        if let Some(worker) = &self.parts.worker {
            let credentials = records::credentials(&snapshot)?;
            if let Some(credentials) = &credentials {
                self.parts.credentials.keep(credentials);
            }
            worker.set_credentials(credentials);
            worker.set_system_id(system_id);
            worker.set_recorded(self.view.record().map(|record| record.term).unwrap_or_default());
        }
        Ok(())
    }

    /// Who is no member is neither talked to nor listened to.
    fn follow_members(&mut self) {
        let Some(members) = &self.view.store.members else { return };
        self.view.settings.follow(&members.value);
        let voters = &self.view.settings.voters;
        self.view.memory.peers.retain(|peer, _| voters.contains(peer));
    }

    pub(super) fn on_message(&mut self, from: &str, payload: &[u8]) {
        if !self.view.settings.voters.contains(&NodeName::from(from)) {
            return;
        }
        let now = self.now();
        match Message::decode(payload) {
            Ok(Message::Status(status)) if status.node.0 == from => {
                self.learn_slots(&status);
                let View { memory, durable, settings, .. } = &mut self.view;
                if let Some(grant) = memory.on_status(now, *status, durable, settings) {
                    self.send(from, &Message::Grant(grant));
                }
            }
            Ok(Message::Grant(grant)) if grant.member.node().0 == from => {
                let term = self.view.record().map(|record| record.term);
                self.view.memory.on_grant(self.boot, term, grant);
            }
            Ok(_) => tracing::warn!(from, "a message in another node's name was dropped"),
            Err(error) => tracing::warn!(from, %error, "a message could not be read and was dropped"),
        }
    }

    pub(super) fn on_note(&mut self, note: Note) -> Result<()> {
        match note {
            Note::Observed(observed) => self.on_observed(*observed),
            Note::Done(done) => self.on_done(*done),
            Note::Slots { generation, report } => self.on_slots(generation, *report),
            Note::Errand { errand, request, result } => self.on_errand(errand, request, result),
            Note::Origin(report) => self.on_origin(*report),
            Note::Committed(result) => {
                match result {
                    Ok(revision) => self.committing = Some(revision),
                    Err(error) => {
                        self.committing = None;
                        tracing::info!(error, "a change of the store was refused");
                    }
                }
                self.read_store()?;
            }
        }
        Ok(())
    }

    fn on_observed(&mut self, observed: Observed) {
        let current =
            self.parts.worker.as_ref().is_some_and(|worker| worker.generation() == observed.generation);
        let moving = self.view.busy.is_some_and(Operation::moves_wal);
        // A look that began before the present piece of work, or before the last one ended, shows what is no more.
        if current && !moving {
            self.tell_end(&observed.postgres);
            (self.view.postgres, self.view.looked_at) = (observed.postgres, Some(observed.began));
        }
        if self.view.durable.rewound && self.view.busy.is_none() && self.view.postgres.standby().is_some() {
            // It accepts connections, so it has all the WAL that it needs.
            self.save(|words| words.durable.rewound = false);
        }
    }

    /// A server that has ended by itself is an event.
    fn tell_end(&self, seen: &Postgres) {
        let ran =
            matches!(self.view.postgres, Postgres::Primary(_) | Postgres::Standby(_) | Postgres::Starting);
        if ran && *seen == Postgres::Stopped && self.view.busy.is_none() {
            let was = self.view.postgres.word();
            let words = self.parts.worker.as_ref().and_then(|worker| worker.last_words());
            self.parts.events.note(
                self.term(),
                "observed",
                "PostgreSQL has ended",
                std::iter::once(format!("it was {was}")).chain(words).collect(),
            );
        }
    }

    fn on_done(&mut self, done: Done) {
        self.view.busy = None;
        (self.view.postgres, self.view.looked_at) = (done.postgres, None);
        self.forget_slots(done.operation);
        let failed = done.result.is_err();
        let failures =
            if failed { self.retry.get(&done.operation).map_or(0, |retry| retry.failures) + 1 } else { 0 };
        let retry = Retry::after(done.operation, failures);
        let (is_told, given_up) = (retry.is_told(), retry.given_up(done.operation));
        self.retry.insert(done.operation, retry);
        if done.operation == Operation::Clone {
            self.view.copies_failed = failures;
        }
        if done.operation == Operation::Clone && !failed {
            self.begin_again();
            self.save(|words| (words.durable.needs_clone, words.durable.rewound) = (false, false));
        }
        if done.operation == Operation::Rewind {
            if !failed {
                self.save(|words| words.durable.rewound = false);
            }
            let impossible =
                done.result.as_ref().err().and_then(|error| error.downcast_ref::<RewindImpossible>());
            self.rewinds_failed = if impossible.is_some() { self.rewinds_failed + 1 } else { 0 };
            let namesake = matches!(impossible, Some(RewindImpossible::Namesake(..)));
            // pg_rewind cannot take up what another run of it has left half done.
            let half_done =
                failed && self.parts.worker.as_ref().is_some_and(|worker| worker.rewind_unfinished());
            if self.rewinds_failed >= REWINDS_MAX || half_done || given_up || namesake {
                self.rewinds_failed = 0;
                self.save(|words| words.durable.needs_clone = true);
            }
        }
        match done.result {
            Ok(()) => {
                tracing::info!(operation = ?done.operation, took_ms = done.took.as_millis() as u64, "done")
            }
            Err(error) => {
                if is_told {
                    let what = format!("{:?} failed", done.operation);
                    self.parts.events.note(self.term(), "failed", what, vec![format!("{error:#}")]);
                }
                if given_up && done.operation == Operation::Clone {
                    self.give_up_copying(failures, &error);
                }
            }
        }
        if let Some(observer) = &self.observer {
            observer.wake();
        }
    }

    fn on_errand(&mut self, errand: Errand, request: u64, result: Result<()>) {
        self.errands.remove(&(errand, request));
        if let Err(error) = result {
            if errand == Errand::Reload {
                self.view.errands.not_reloaded = Some((request, format!("{error:#}")));
            }
            let what = format!("{errand:?} failed");
            return self.parts.events.note(self.term(), "failed", what, vec![format!("{error:#}")]);
        }
        let now = self.now();
        let errands = &mut self.view.errands;
        let done = match errand {
            Errand::Checkpoint => {
                errands.checkpointed_at = Some(now);
                &mut errands.checkpointed
            }
            Errand::Reload => &mut errands.reloaded,
        };
        *done = request.max(*done);
    }
}
