//! How much WAL a slot may hold, and what is said and done when it holds more.
//!
//! The last line of defense is PostgreSQL's own: `max_slot_wal_keep_size` ends a slot before the disk is full.

use brain::slots::Budget;
use brain::{SlotReport, SlotState};

use super::Keeper;
use crate::config::{DeclaredSlot, Slots};

/// Where PostgreSQL sets no limit, a slot that holds this much is worth a word.
const UNLIMITED_BYTES: u64 = 10 << 30;

/// Its own, else that of all, else half of what PostgreSQL would end it at: the warning comes at two fifths of the way.
pub(super) fn bytes(policy: &Slots, declared: Option<&DeclaredSlot>, keep_bytes: Option<u64>) -> u64 {
    let own = declared.and_then(|slot| slot.wal_budget).or(policy.wal_budget);
    own.unwrap_or_else(|| keep_bytes.unwrap_or(UNLIMITED_BYTES) / 2)
}

impl Keeper {
    /// Tells when a slot comes near its budget, exceeds it, and is within it again.
    pub(super) async fn watch_budgets(&mut self, report: &SlotReport) {
        self.levels.retain(|name, _| report.slots.iter().any(|slot| slot.name == *name));
        for slot in &report.slots {
            let level = Budget::of(slot);
            let before = self.levels.insert(slot.name.clone(), level).unwrap_or(Budget::Within);
            let holds = format!(
                "holds {} of WAL of a budget of {}",
                megabytes(slot.held_bytes),
                megabytes(slot.budget_bytes)
            );
            match level {
                _ if level == before => {}
                Budget::Within => self.event(
                    "slots.budget",
                    format!("slot {} is within its budget again", slot.name),
                    vec![holds],
                ),
                Budget::Near if before == Budget::Over => {}
                Budget::Near => {
                    self.event(
                        "slots.budget",
                        format!("slot {} comes near its budget", slot.name),
                        vec![holds, who(slot)],
                    );
                }
                Budget::Over => {
                    self.event(
                        "slots.budget",
                        format!("slot {} is over its budget", slot.name),
                        vec![holds, who(slot)],
                    );
                }
            }
            if level == Budget::Over && droppable(slot) && self.policy.drop_over_budget {
                self.drop_forgotten(slot).await;
            }
        }
    }

    async fn drop_forgotten(&self, slot: &SlotState) {
        let why = vec![
            format!(
                "it held {} of WAL, nobody has declared it and nobody reads it",
                megabytes(slot.held_bytes)
            ),
            "[slots] over_budget = \"drop\"".to_owned(),
        ];
        match self.worker.server.drop_slot(&slot.name).await {
            Ok(true) => self.event("slots.dropped", format!("dropped slot {}", slot.name), why),
            // Somebody has begun to read it.
            Ok(false) => {}
            Err(error) => self.event(
                "failed",
                format!("slot {} could not be dropped", slot.name),
                vec![error.to_string()],
            ),
        }
    }
}

/// Declared ones, the members' own and those in use are somebody's.
fn droppable(slot: &SlotState) -> bool {
    slot.owner.is_none() && !slot.kept && !slot.active
}

/// Whom to ask.
fn who(slot: &SlotState) -> String {
    let owner = slot.owner.clone().unwrap_or_else(|| {
        let name = &slot.name;
        format!(
            "no owner; declare it under [slots.{name}], or drop it: SELECT pg_drop_replication_slot('{name}')"
        )
    });
    let used = if slot.active { "somebody reads it" } else { "nobody reads it" };
    format!("{used}; {owner}")
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use brain::SlotGate;
    use std::collections::BTreeMap;

    #[test]
    fn the_nearest_budget_counts() {
        let policy = |wal_budget| Slots {
            gate: SlotGate::Warn,
            restart_replicas: true,
            drop_over_budget: false,
            wal_budget,
            declared: BTreeMap::new(),
        };
        let slot = |wal_budget| DeclaredSlot { logical: None, owner: "x".into(), wal_budget };
        assert_eq!(bytes(&policy(Some(7)), Some(&slot(Some(3))), Some(100)), 3);
        assert_eq!(bytes(&policy(Some(7)), Some(&slot(None)), Some(100)), 7);
        assert_eq!(bytes(&policy(None), None, Some(100)), 50);
        assert_eq!(bytes(&policy(None), None, None), 5 << 30);
    }

    #[test]
    fn only_what_belongs_to_nobody_may_be_dropped() {
        let slot = SlotState { name: "x".into(), ..SlotState::default() };
        assert!(droppable(&slot));
        assert!(!droppable(&SlotState { owner: Some("archive".into()), ..slot.clone() }));
        assert!(!droppable(&SlotState { kept: true, ..slot.clone() }));
        assert!(!droppable(&SlotState { active: true, ..slot.clone() }));
        assert!(who(&slot).contains("pg_drop_replication_slot('x')"));
    }
}
