//! Server settings that depend on the slots that are declared, and on the size of the disk.
//!
//! Invariant: whatever slots there are, the WAL that they hold is bounded, unless the user lifts the bound.

use std::collections::BTreeMap;

use super::settings::Static;

/// Slots of eight standbys, and as many of the user's making; those that are declared come on top.
const SLOTS: usize = 16;

/// What a slot may hold at most, before PostgreSQL gives the slot up rather than the disk: a fifth of the file system,
/// so that three forgotten ones and the data still fit, and no more than this.
const SLOT_KEEP_BYTES_MAX: u64 = 10 << 30;
const SLOT_KEEP_SHARE: u64 = 5;
/// Four segments: less would lose a standby at every hiccup.
const SLOT_KEEP_BYTES_MIN: u64 = 64 << 20;

/// What the slots that are declared need of the server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotSettings {
    pub declared: usize,
    /// One of them is logical.
    pub logical: bool,
    /// The largest budget of one of them.
    pub budget_bytes_max: u64,
}

/// The server writes WAL that logical slots can be read from.
pub(super) fn is_logical(slots: &SlotSettings, parameters: &BTreeMap<String, String>) -> bool {
    slots.logical || parameters.get("wal_level").is_some_and(|level| level == "logical")
}

impl Static<'_> {
    /// What the user may change, as far as it depends on the slots and the disk.
    pub(super) fn slot_defaults(&self) -> Vec<(String, String)> {
        let logical = is_logical(self.slots, self.parameters);
        let share = self.disk_bytes.map_or(SLOT_KEEP_BYTES_MAX, |bytes| bytes / SLOT_KEEP_SHARE);
        let keep = share.clamp(SLOT_KEEP_BYTES_MIN, SLOT_KEEP_BYTES_MAX);
        // A declared budget is warned about before PostgreSQL ends the slot.
        let keep = keep.max(self.slots.budget_bytes_max / 4 * 5);
        let mut pairs = vec![
            ("max_replication_slots", (SLOTS + self.slots.declared).to_string()),
            ("max_slot_wal_keep_size", format!("{}MB", keep >> 20)),
            ("wal_level", if logical { "logical" } else { "replica" }.to_owned()),
            // Without it the primary removes catalog rows that a copy of a logical slot needs.
            ("hot_standby_feedback", if logical { "on" } else { "off" }.to_owned()),
        ];
        if self.synchronizes_slots {
            pairs.push(("sync_replication_slots", "on".to_owned()));
        }
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Layout;

    #[test]
    fn slots_get_what_they_need_and_no_disk_is_filled_by_them() {
        let layout = Layout::new(std::path::Path::new("/srv/n1")).unwrap();
        let defaults = |slots: SlotSettings, disk_bytes, synchronizes_slots| {
            let parameters = BTreeMap::new();
            let (node, listen, port) = ("n1", "*", 5432);
            let fixed = Static {
                layout: &layout,
                node,
                listen,
                port,
                parameters: &parameters,
                slots: &slots,
                synchronizes_slots,
                disk_bytes,
            };
            fixed.slot_defaults().into_iter().collect::<BTreeMap<String, String>>()
        };
        let plain = defaults(SlotSettings::default(), Some(1 << 40), false);
        assert_eq!(plain["max_slot_wal_keep_size"], "10240MB");
        assert_eq!((plain["wal_level"].as_str(), plain["hot_standby_feedback"].as_str()), ("replica", "off"));
        assert!(!plain.contains_key("sync_replication_slots"), "15 and 16 do not know it");
        let small = defaults(SlotSettings::default(), Some(10 << 30), false);
        assert_eq!(small["max_slot_wal_keep_size"], "2048MB");
        let slots = SlotSettings { declared: 3, logical: true, budget_bytes_max: 40 << 30 };
        let declared = defaults(slots, Some(1 << 40), true);
        assert_eq!(declared["max_slot_wal_keep_size"], "51200MB");
        assert_eq!(
            (declared["wal_level"].as_str(), declared["max_replication_slots"].as_str()),
            ("logical", "19")
        );
        assert_eq!(declared["sync_replication_slots"], "on");
    }
}
