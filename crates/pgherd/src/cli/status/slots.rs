//! What `pgherd status` says of replication slots: what a takeover would not keep, and what holds too much.

use crate::api::{NodeReport, Role, SlotLine};

use super::table::bytes;

/// From this share of its budget on a slot is worth a line.
const NEAR_PERCENT: u64 = 80;

pub(super) fn advice(nodes: &[NodeReport]) -> Vec<String> {
    let mut lines = Vec::new();
    for node in nodes {
        let missing = node.slots.missing.iter();
        lines.extend(missing.map(|reason| format!("slot not ready on {}: {reason}", node.name)));
        lines.extend(node.slots.slots.iter().filter_map(|slot| trouble(node, slot)));
    }
    lines
}

fn trouble(node: &NodeReport, slot: &SlotLine) -> Option<String> {
    let owner = slot.owner.as_deref().unwrap_or("no owner");
    let what = match slot {
        SlotLine { lost: Some(reason), .. } => format!("is lost: {reason}"),
        _ if slot.held_bytes >= slot.budget_bytes / 100 * NEAR_PERCENT => {
            format!("holds {} of WAL, its budget is {}", bytes(slot.held_bytes), bytes(slot.budget_bytes))
        }
        // A copy on a replica is idle by nature.
        SlotLine { holds_back_vacuum: true, .. } if node.role == Role::Primary || !slot.kept => {
            "is read by nobody and holds back vacuum".to_owned()
        }
        _ => return None,
    };
    Some(format!("slot {} on {} ({owner}) {what}", slot.name, node.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, held_bytes: u64, owner: Option<&str>) -> SlotLine {
        SlotLine {
            name: name.into(),
            kind: "logical".into(),
            database: Some("app".into()),
            kept: owner.is_some(),
            active: true,
            restart_lsn: None,
            confirmed_flush_lsn: None,
            held_bytes,
            budget_bytes: 10 << 30,
            owner: owner.map(str::to_owned),
            holds_back_vacuum: false,
            lost: None,
        }
    }

    #[test]
    fn only_what_wants_attention_is_said() {
        let mut node: NodeReport = serde_json::from_value(serde_json::json!({
            "name": "n1", "role": "primary", "state": "running", "sync": false, "healthy": true,
        }))
        .unwrap();
        node.slots.slots = vec![slot("fine", 1 << 30, Some("search"))];
        assert!(advice(std::slice::from_ref(&node)).is_empty());
        let idle = SlotLine { active: false, holds_back_vacuum: true, ..slot("idle", 0, Some("search")) };
        node.slots.slots.extend([slot("big", 9 << 30, None), idle]);
        node.slots.missing = vec!["feed: no copy here".into()];
        assert_eq!(
            advice(&[node]),
            [
                "slot not ready on n1: feed: no copy here",
                "slot big on n1 (no owner) holds 9.0 GB of WAL, its budget is 10 GB",
                "slot idle on n1 (search) is read by nobody and holds back vacuum",
            ]
        );
    }
}
