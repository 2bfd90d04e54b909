//! The slots of a primary: what is declared exists, and what a takeover could not keep is said.

use brain::{SlotReport, SlotState};
use wire::Lsn;

use super::Keeper;
use crate::config::{DeclaredSlot, Logical};
use crate::postgres::{FAILOVER_SLOTS, SlotRow, SlotsSeen};

impl Keeper {
    pub(super) async fn on_primary(&mut self, seen: &SlotsSeen) -> SlotReport {
        let mut missing = Vec::new();
        for (name, declared) in self.policy.declared.clone() {
            let row = seen.slots.iter().find(|row| row.slot_name == name);
            let reason = match row {
                Some(row) => self.wrong(row, &declared),
                None => self.make(&name, &declared).await.err(),
            };
            if row.is_some_and(SlotRow::is_logical) {
                self.words.save(|noted| noted.logical.extend([name.clone()]));
            }
            self.note_readiness(&name, reason.as_deref());
            missing.extend(reason.map(|reason| format!("{name}: {reason}")));
        }
        self.advance_below(seen).await;
        // What is here now is no copy any more.
        self.words.save(|noted| noted.copies.clear());
        SlotReport { looked: true, missing, restart: false, slots: self.states(seen) }
    }

    /// The slots of standbys that take their WAL elsewhere go with them, so that each finds here what it needs when it
    /// comes back, and no more is held for it.
    async fn advance_below(&self, seen: &SlotsSeen) {
        let below = self.worker.known().slots.below.clone();
        for row in seen.slots.iter().filter(|row| !row.is_logical() && !row.active && row.lost().is_none()) {
            let Some(to) = below.get(&row.slot_name).copied() else { continue };
            if row.restart_lsn.is_some_and(|restart| restart < to)
                && let Err(error) = self.worker.server.advance_member_slot(row, to).await
            {
                tracing::warn!(slot = row.slot_name, %error, "a standby's slot could not be advanced");
            }
        }
    }

    /// Why a slot that is there is not what was declared.
    fn wrong(&self, row: &SlotRow, declared: &DeclaredSlot) -> Option<String> {
        if let Some(lost) = row.lost() {
            return Some(format!("{lost}: its consumer has to begin anew; drop the slot, and make it again"));
        }
        if row.is_logical() != declared.logical.is_some() {
            return Some(format!("a {} slot of this name exists", row.slot_type));
        }
        let elsewhere =
            declared.logical.as_ref().filter(|logical| row.database.as_ref() != Some(&logical.database));
        if elsewhere.is_some() {
            return Some(format!("it is in database {}", row.database.as_deref().unwrap_or("?")));
        }
        let deaf = row.is_logical() && self.major() >= FAILOVER_SLOTS && !row.failover;
        deaf.then(|| {
            "it was made without failover => true, so PostgreSQL does not keep it on standbys".to_owned()
        })
    }

    /// A physical slot is made whenever it is missing: a receiver that finds a gap says so. A logical one is made once in
    /// the life of a cluster: made anew it would begin now, and its consumer would never learn of what it missed.
    async fn make(&mut self, name: &str, declared: &DeclaredSlot) -> Result<(), String> {
        let server = &self.worker.server;
        let made = match &declared.logical {
            // It holds nothing before its receiver has come: what nobody uses must not fill the disk.
            None => server.create_physical_slot(name, false).await,
            Some(_) if self.words.noted().logical.contains(name) => {
                return Err(format!(
                    "it was lost, and made anew its consumer would miss changes without a word; to begin anew, type: \
                     SELECT pg_create_logical_replication_slot('{name}', …) as its consumer wants it"
                ));
            }
            Some(Logical { database, plugin }) => server.create_logical_slot(name, database, plugin).await,
        };
        made.map_err(|error| error.to_string())?;
        self.event(
            "slots.made",
            format!("made slot {name}"),
            vec![format!("declared for {}", declared.owner)],
        );
        Ok(())
    }

    /// Right after a promotion: consumers that had confirmed more than this server has.
    pub(super) fn tell_promoted(&self, fork: Option<Lsn>) {
        let original = self.worker.known().slots.original.clone();
        let (Some(original), Some(fork)) = (original, fork) else { return };
        let ahead = |slot: &&SlotState| slot.kept && slot.confirmed.is_some_and(|confirmed| confirmed > fork);
        for slot in original.report.slots.iter().filter(ahead) {
            let why = vec![
                format!("it had confirmed {} to {}; the history here leaves that one's at {fork}", slot.confirmed.unwrap_or(fork), original.node),
                "what it read in between was never acknowledged to anybody, and is no more: have it begin anew".to_owned(),
            ];
            self.event(
                "slots.ahead",
                format!("the consumer of slot {} has read more than there is", slot.name),
                why,
            );
        }
    }

    pub(super) fn tell_dropped(&self) {
        let dropped = std::mem::take(&mut self.worker.known().slots.dropped);
        for name in dropped {
            let why = vec![
                "the copy here was not ready when this node was promoted: its consumer has to begin anew"
                    .to_owned(),
            ];
            self.event("slots.lost", format!("slot {name} did not survive the takeover"), why);
        }
    }
}
