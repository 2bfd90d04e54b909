//! A slot that nobody reads holds more WAL than its budget: it is told with its owner, dropped where nobody declared it and
//! that was asked for, and PostgreSQL's own bound ends one rather than the disk.

use std::fs;
use std::time::Duration;

use tests::ledger::value_at;
use tests::{Cluster, Node, wait_for};

/// Slots are looked at every second.
const NOTICED_TIMEOUT: Duration = Duration::from_secs(30);

const SLOTS: &str = r#"
[slots]
wal_budget = "32MB"
over_budget = "drop"

[slots.feed]
type = "logical"
database = "postgres"
plugin = "test_decoding"
owner = "search: fills the index"
wal_budget = "32MB"

[postgres.parameters]
max_slot_wal_keep_size = "64MB"
wal_keep_size = "0"
"#;

fn event(node: &Node, rule: &str, text: &str) -> Option<String> {
    let events = fs::read_to_string(node.dir.join("events.jsonl")).unwrap_or_default();
    let rule = format!("\"rule\":\"{rule}\"");
    events.lines().find(|line| line.contains(&rule) && line.contains(text)).map(str::to_owned)
}

/// Ends so many WAL files, and leaves what the slots do not hold.
fn write_segments(node: &Node, segments: u32) {
    for _ in 0..segments {
        value_at(node.postgres, "SELECT pg_logical_emit_message(true, 'x', '')").unwrap();
        value_at(node.postgres, "SELECT pg_switch_wal()").unwrap();
    }
}

#[test]
fn the_owner_is_told_and_what_nobody_owns_is_dropped() {
    let cluster = Cluster::start_with(1, SLOTS);
    let node = &cluster.nodes()[0];
    let has = |slot: &str| {
        value_at(
            node.postgres,
            &format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{slot}'"),
        )
        .ok()
    };
    wait_for("the declared slot", NOTICED_TIMEOUT, || has("feed"));
    value_at(node.postgres, "SELECT pg_create_physical_replication_slot('forgotten', true)").unwrap();

    write_segments(node, 3);
    let over = wait_for("the owner to be told", NOTICED_TIMEOUT, || {
        event(node, "slots.budget", "slot feed is over its budget")
    });
    assert!(over.contains("search: fills the index") && over.contains("nobody reads it"), "{over}");
    let dropped = wait_for("the forgotten slot to be dropped", NOTICED_TIMEOUT, || {
        event(node, "slots.dropped", "forgotten")
    });
    assert!(dropped.contains("nobody has declared it"), "{dropped}");
    wait_for("it to be gone", NOTICED_TIMEOUT, || has("forgotten").is_none().then_some(()));
    assert!(has("feed").is_some(), "a declared slot is only told");
    let shown = cluster.pgherd_ok(&["status"]);
    assert!(shown.contains("feed") && shown.contains("search: fills the index"), "{shown}");

    // Beyond PostgreSQL's own bound the slot ends, and the disk does not fill.
    write_segments(node, 4);
    wait_for("PostgreSQL to end the slot", NOTICED_TIMEOUT, || {
        tests::ledger::session_at(node.postgres).execute("CHECKPOINT").unwrap();
        has("feed").filter(|status| status == "lost")
    });
}
