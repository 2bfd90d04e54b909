//! Changes of a node's condition, as events.

use brain::Condition;

/// What happened and why, for each change that people should know of.
pub(super) fn of(old: &Condition, new: &Condition) -> Vec<(String, Vec<String>)> {
    let mut told = Vec::new();
    let mut tell = |what: &str, why: String| told.push((what.to_owned(), vec![why]));
    if new.disk_full && !old.disk_full {
        let free = new.free_bytes.map_or("unknown".to_owned(), |bytes| format!("{} MB", bytes >> 20));
        tell(
            "the disk is full",
            format!(
                "free: {free}; this node takes over from nobody and follows nobody anew until there is room; make room, it goes on by itself"
            ),
        );
    }
    if old.disk_full && !new.disk_full {
        tell("the disk has room again", format!("free: {} MB", new.free_bytes.unwrap_or(0) >> 20));
    }
    if new.crowded && !old.crowded {
        tell(
            "no free connection slot",
            "PostgreSQL runs and works for those who are connected; end some of them, or raise max_connections".into(),
        );
    }
    if old.crowded && !new.crowded {
        tell("there are free connection slots again", "a new connection got in".into());
    }
    if new.hung && !old.hung {
        tell(
            "PostgreSQL answers no new connection",
            "its postmaster does not respond, although sessions of before may go on".into(),
        );
    }
    if new.outgrown && !old.outgrown {
        tell(
            "replay has stopped: the primary's settings are larger than this standby's",
            "max_connections and its like must not be smaller here; this standby is started anew with values as large".into(),
        );
    }
    for pending in new.pending.iter().filter(|pending| !old.pending.contains(pending)) {
        tell(
            &format!("{} waits for a restart of PostgreSQL", pending.name),
            format!("it is {} and becomes {}", pending.old, pending.new),
        );
    }
    if let Some(stuck) = new.stuck.as_ref().filter(|_| new.stuck != old.stuck) {
        tell("coming back has been given up", stuck.clone());
    }
    for lost in new.lost.iter().filter(|lost| !old.lost.contains(lost)) {
        tell(
            &format!(
                "{} transactions, {} tables, {} of WAL left history at {}",
                lost.transactions,
                lost.relations,
                size(lost.bytes),
                lost.fork
            ),
            format!("no standby had them; listed in {}", lost.listed),
        );
    }
    told
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} kB", bytes / 1024),
        _ => format!("{} MB", bytes >> 20),
    }
}
