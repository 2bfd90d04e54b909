//! What burdens a node, as lines below the table: each says what it means, or what to do.

use brain::Condition;

use super::table::bytes;
use crate::api::NodeReport;

/// More would push the table off the screen; all of them are in `status --json`.
const LOST_SHOWN: usize = 3;

pub fn lines(node: &NodeReport) -> Vec<String> {
    let Condition { disk_full, free_bytes, crowded, hung, progress, stuck, lost, pending, outgrown } =
        &node.condition;
    let name = &node.name;
    let mut lines = Vec::new();
    if *disk_full {
        let free = free_bytes.map_or("unknown".to_owned(), bytes);
        lines.push(format!("{name}: the disk is full ({free} free); make room, it goes on by itself"));
    }
    if *crowded {
        lines.push(format!(
            "{name}: running, no free connection slot; end some sessions, or raise max_connections"
        ));
    }
    if *hung {
        lines.push(format!("{name}: PostgreSQL answers no new connection"));
    }
    if let Some(progress) = progress {
        let done = bytes(progress.done_bytes);
        let how_far = match progress.percent() {
            Some(percent) => format!("{percent} % ({done} of {})", bytes(progress.total_bytes)),
            None => done,
        };
        lines.push(format!("{name}: {} {how_far}", progress.what));
    }
    if let Some(stuck) = stuck {
        lines.push(format!("{name}: {stuck}"));
    }
    for lost in lost.iter().rev().take(LOST_SHOWN) {
        lines.push(format!(
            "{name}: {} transactions, {} tables, {} of WAL left history at {} ({}); listed in {}",
            lost.transactions,
            lost.relations,
            bytes(lost.bytes),
            lost.fork,
            lost.at,
            lost.listed
        ));
    }
    if *outgrown {
        lines.push(format!(
            "{name}: replay has stopped: the primary's settings are larger; it is restarted by itself"
        ));
    }
    for setting in pending {
        let note = setting.note.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
        lines.push(format!(
            "{name}: {} is {} and becomes {} with a restart{note}",
            setting.name, setting.old, setting.new
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Role;
    use brain::Progress;

    #[test]
    fn a_burden_is_a_line_and_none_is_silence() {
        let node = |condition| NodeReport {
            condition,
            ..super::super::table::tests::node("n2", Role::Replica, "streaming")
        };
        assert!(lines(&node(Condition::default())).is_empty());
        let progress = Progress { what: "copying".into(), done_bytes: 1 << 20, total_bytes: 4 << 20 };
        let condition = Condition {
            disk_full: true,
            free_bytes: Some(5 << 20),
            crowded: true,
            progress: Some(progress),
            ..Condition::default()
        };
        let text = lines(&node(condition)).join("\n");
        for expected in ["5.0 MB free", "no free connection slot", "copying 25 % (1.0 MB of 4.0 MB)"] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
    }
}
