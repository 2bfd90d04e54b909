//! Changes of a node's condition, as events.

use brain::{Condition, Operation};

use super::core::Agent;

impl Agent {
    /// What burdens the node is shown with each decision; what changed in it is an event.
    pub(super) fn see_condition(&mut self) {
        let Some(worker) = &self.parts.worker else { return };
        let condition = worker.condition();
        for (what, why) in of(&self.view.condition, &condition) {
            self.parts.events.note(self.term(), "observed", what, why);
        }
        self.view.condition = condition;
    }

    /// Copying anew is the last rung: where it fails again and again somebody has to look.
    pub(super) fn give_up_copying(&self, failures: u32, error: &anyhow::Error) {
        let Some(worker) = &self.parts.worker else { return };
        // Nobody can be asked for a new copy of what others are copied from, nor before there is a cluster.
        let me = &self.view.me;
        let next = match self.view.record() {
            Some(record) if record.node != *me => format!("type: pgherd reinit {me}"),
            _ => format!("restart pgherd on {me}"),
        };
        worker.give_up(format!(
            "copying the data directory has failed {failures} times in a row ({error:#}); mend the cause, then {next}"
        ));
    }

    /// Copies or rewinds are not tried any more.
    pub(super) fn has_given_up(&self) -> bool {
        self.retry.iter().any(|(operation, retry)| retry.given_up(*operation))
    }

    /// A new source, or somebody who has looked: what failed before may be tried again.
    pub(super) fn begin_again(&mut self) {
        self.retry.retain(|operation, _| !matches!(operation, Operation::Clone | Operation::Rewind));
        if let Some(worker) = &self.parts.worker {
            worker.take_heart();
        }
    }
}

/// What happened and why, for each change that people should know of.
fn of(old: &Condition, new: &Condition) -> Vec<(String, Vec<String>)> {
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
