//! The slots of a replica: copies of the primary's, advanced to where those stand.
//!
//! Physical copies are made here. Logical ones come from PostgreSQL itself (17 and newer) or with a restart (15 and 16).
//! What cannot be kept is a reason in the report.

use std::time::{Duration, Instant};

use brain::slots::{advance_to, unready};
use brain::{SlotReport, SlotState};
use wire::Lsn;

use super::{Keeper, Original, UNREADY_TOLD_AFTER};
use crate::postgres::{FAILOVER_SLOTS, SlotRow, SlotsSeen};

/// After a restart that brought nothing the next waits this long, then twice as long, and so on.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Six doublings: about an hour.
const DOUBLINGS_MAX: u32 = 6;

/// Advancing decodes WAL: it takes no more than a tenth of the time.
const REST: u32 = 9;

/// The last major whose standbys nobody can read a logical slot from.
const UNREADABLE_UNTIL: u32 = 15;

/// What became of one copy at a look.
struct Outcome {
    reason: Option<String>,
    /// A restart would bring it.
    restart: bool,
}

impl Outcome {
    fn ready(reason: Option<String>) -> Outcome {
        Outcome { reason, restart: false }
    }
}

impl Keeper {
    pub(super) async fn on_replica(&mut self, seen: &SlotsSeen) -> SlotReport {
        let slots = self.states(seen);
        let original = self.worker.known().slots.original.clone();
        let Some(original) = original else {
            let missing = vec!["the primary has not told of its slots yet".to_owned()];
            return SlotReport { looked: true, missing, restart: false, slots };
        };
        self.note_floors(&original, seen);
        let (mut missing, mut restart) = (Vec::new(), false);
        let begun = Instant::now();
        for slot in original.report.slots.iter().filter(|slot| slot.kept && slot.lost.is_none()) {
            let outcome = self.tend(slot, seen).await;
            self.note_readiness(&slot.name, outcome.reason.as_deref());
            restart |= outcome.restart;
            missing.extend(outcome.reason.map(|reason| format!("{}: {reason}", slot.name)));
        }
        if begun >= self.rest_until {
            self.rest_until = Instant::now() + begun.elapsed() * REST;
        }
        self.note_original(&original);
        self.drop_orphans(&original, seen).await;
        self.drop_strays(&original, seen).await;
        SlotReport { looked: true, missing, restart, slots }
    }

    async fn tend(&mut self, slot: &SlotState, seen: &SlotsSeen) -> Outcome {
        let row = seen.slots.iter().find(|row| row.slot_name == slot.name);
        let logical = slot.database.is_some();
        if logical && self.major() >= FAILOVER_SLOTS {
            return Outcome::ready(self.synchronized(slot, row).await);
        }
        match row {
            Some(row) if row.is_logical() != logical || row.database != slot.database => {
                self.drop_copy(&slot.name, "the primary's is another").await;
                Outcome::ready(Some("a slot of this name that was another was dropped".to_owned()))
            }
            Some(row) if !logical && row.restart_lsn.is_some() != slot.restart.is_some() && !row.active => {
                let why = "it began, or stopped, to hold WAL on the primary";
                self.drop_copy(&slot.name, why).await;
                Outcome::ready(Some("it is being made".to_owned()))
            }
            Some(row) => match row.lost() {
                Some(lost) => {
                    self.drop_copy(&slot.name, &lost).await;
                    Outcome::ready(Some(format!("the copy was lost: {lost}")))
                }
                None => Outcome::ready(self.follow(slot, row, seen).await),
            },
            None if logical => self.wanted(slot),
            None => {
                let made = self.worker.server.create_physical_slot(&slot.name, slot.restart.is_some()).await;
                self.words.save(|noted| noted.copies.extend([slot.name.clone()]));
                Outcome::ready(Some(
                    made.map_or_else(|error| error.to_string(), |()| "it is being made".to_owned()),
                ))
            }
        }
    }

    /// PostgreSQL brings the slot by itself; a slot of a former primaryship of this server would be in its way for ever.
    async fn synchronized(&mut self, slot: &SlotState, row: Option<&SlotRow>) -> Option<String> {
        let Some(row) = row else { return Some("not synchronized yet".to_owned()) };
        if !row.synced {
            self.drop_copy(&slot.name, "it stayed from a former primaryship of this server").await;
            return Some("not synchronized yet: a slot of the same name was in the way".to_owned());
        }
        if row.temporary {
            return Some("synchronized, but temporary until its consumer has read on".to_owned());
        }
        row.lost().map(|lost| format!("the copy is lost: {lost}"))
    }

    /// Advances a copy, and says whether it is ready where it stands now.
    async fn follow(&mut self, slot: &SlotState, row: &SlotRow, seen: &SlotsSeen) -> Option<String> {
        self.words.save(|noted| noted.copies.extend([slot.name.clone()]));
        self.worker.known().slots.taken.remove(&slot.name);
        let copy = self.state(row, seen);
        let target = advance_to(&copy, slot, seen.lsn.unwrap_or(Lsn::ZERO));
        if let Some(target) = target.filter(|_| Instant::now() >= self.rest_until)
            && let Err(error) =
                self.worker.server.advance_slot(&slot.name, slot.database.as_deref(), target).await
        {
            return Some(format!("the copy could not be advanced: {error}"));
        }
        let reason = unready(&copy, slot, self.floors.get(&slot.name).copied(), seen.segment_bytes);
        let unready = &mut self.worker.known().slots.unready;
        unready.remove(&slot.name);
        unready.extend(reason.iter().filter(|_| slot.database.is_some()).map(|_| slot.name.clone()));
        reason
    }

    /// Why a logical slot has no copy here, and whether a restart would bring it.
    fn wanted(&mut self, slot: &SlotState) -> Outcome {
        self.worker.known().slots.unready.remove(&slot.name);
        self.floors.remove(&slot.name);
        let no = |reason: String| Outcome { reason: Some(reason), restart: false };
        if !self.policy.restart_replicas {
            return no("no copy here, and [slots] restart_replicas = \"never\"".to_owned());
        }
        let Some(begin) = slot.restart else {
            return no("no copy here; the primary's has no position".to_owned());
        };
        if !self.worker.server.has_wal(begin).unwrap_or(false) {
            return no(format!(
                "no copy here, nor the WAL from {begin} on: possible once its consumer has read on"
            ));
        }
        let taken = self.worker.known().slots.taken.get(&slot.name).copied();
        if let Some((times, at)) = taken {
            let pause = AGAIN_AFTER * 2u32.pow(times.saturating_sub(1).min(DOUBLINGS_MAX));
            if at.elapsed() < pause {
                return no(format!(
                    "no copy here; {times} restart(s) have not brought it, the next is tried after {pause:?}"
                ));
            }
        }
        Outcome {
            reason: Some("no copy here; a restart of this replica will bring it".to_owned()),
            restart: true,
        }
    }

    /// Remembers which catalog rows the primary keeps for this replica: those that its own slot kept at the first look at
    /// which it had heard of this replica's needs. Anything older may have been removed before.
    fn note_floors(&mut self, original: &Original, seen: &SlotsSeen) {
        if self.floors_of != original.term {
            self.floors_of = original.term;
            self.floors.clear();
        }
        let member = self.worker.known().member.clone();
        let own = member.and_then(|member| original.slot(&member.slot_name()).cloned());
        let Some(heard) = own.and_then(|own| own.catalog_xmin) else {
            self.floors.clear();
            return;
        };
        for row in seen.slots.iter().filter(|row| row.is_logical()) {
            // The primary has heard of a need that is no younger than this copy's.
            let known = row.catalog_xmin.is_some_and(|xmin| !brain::slots::xid_precedes(xmin, heard));
            let kept = original.slot(&row.slot_name).and_then(|slot| slot.catalog_xmin);
            match kept.filter(|_| known) {
                Some(kept) => {
                    self.floors.entry(row.slot_name.clone()).or_insert(kept);
                }
                None => {
                    self.floors.remove(&row.slot_name);
                }
            }
        }
        self.floors.retain(|name, _| seen.slots.iter().any(|row| row.slot_name == *name));
    }

    /// The cluster has these logical slots: whoever is promoted and lacks one has lost it.
    fn note_original(&mut self, original: &Original) {
        let declared = &self.policy.declared;
        let logical = |slot: &&SlotState| slot.database.is_some() && declared.contains_key(&slot.name);
        let names: Vec<String> =
            original.report.slots.iter().filter(logical).map(|slot| slot.name.clone()).collect();
        self.words.save(|noted| noted.logical.extend(names));
    }

    /// Copies whose original is no more, or is not kept any more, would hold WAL for ever.
    async fn drop_orphans(&mut self, original: &Original, seen: &SlotsSeen) {
        let kept = |name: &str| original.slot(name).is_some_and(|slot| slot.kept);
        let told_all = original.report.slots.len() < super::TOLD_MAX;
        let orphaned: Vec<String> =
            self.words.noted().copies.iter().filter(|name| told_all && !kept(name)).cloned().collect();
        for name in orphaned {
            match seen.slots.iter().find(|row| row.slot_name == name) {
                Some(row) if row.active => continue,
                Some(_) => self.drop_copy(&name, "the primary has no such slot to keep").await,
                None => {}
            }
            self.words.save(|noted| noted.copies.retain(|copy| *copy != name));
        }
    }

    /// A logical slot that this server had as a primary and nobody keeps: a standby of 15 cannot be read from, and its
    /// feedback would hold back vacuum on the primary for it.
    async fn drop_strays(&mut self, original: &Original, seen: &SlotsSeen) {
        let told_all = original.report.slots.len() < super::TOLD_MAX;
        if self.major() > UNREADABLE_UNTIL || !told_all {
            return;
        }
        let kept = |row: &SlotRow| original.slot(&row.slot_name).is_some_and(|slot| slot.kept);
        for row in seen.slots.iter().filter(|row| row.is_logical() && !row.active && !kept(row)) {
            self.drop_copy(&row.slot_name, "nobody has declared it, and nobody can read it on a standby")
                .await;
        }
    }

    async fn drop_copy(&mut self, name: &str, why: &str) {
        self.floors.remove(name);
        match self.worker.server.drop_slot(name).await {
            Ok(true) => {
                self.event("slots.dropped", format!("dropped the copy of slot {name}"), vec![why.to_owned()])
            }
            Ok(false) => tracing::warn!(name, why, "the copy of a slot is in use and was not dropped"),
            Err(error) => tracing::warn!(name, %error, "the copy of a slot could not be dropped"),
        }
    }

    /// Tells once that a slot is not ready, when that lasts, and once that it is again.
    pub(super) fn note_readiness(&mut self, name: &str, reason: Option<&str>) {
        match reason {
            Some(reason) => {
                let (since, told) = self.unready.entry(name.to_owned()).or_insert((Instant::now(), false));
                if !*told && since.elapsed() > UNREADY_TOLD_AFTER {
                    *told = true;
                    let why = vec![reason.to_owned()];
                    self.event("slots.unready", format!("slot {name} would not survive on this node"), why);
                }
            }
            None => {
                if self.unready.remove(name).is_some_and(|(_, told)| told) {
                    self.event("slots.ready", format!("slot {name} is ready on this node"), Vec::new());
                }
            }
        }
    }
}
