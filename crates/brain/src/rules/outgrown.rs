//! A standby whose primary's settings have grown: replay stands, and it could not be promoted either. A start takes
//! settings as large from the control file.
//!
//! What it does not do: compare settings; the agent sees that replay stands for them.
//! Invariant: one server at a time is away for it, and nobody while maintenance would keep it stopped.

use super::{Want, act, rejoin, wait};
use crate::{Action, Heard, Millis, NodeName, Postgres, Standby, Status, View};

/// A stop and a start that reads a long WAL: what is away for longer is away for another reason.
const AWAY_MS_MAX: u64 = 300_000;

/// The first by name of those who follow `upstream` goes first, and whoever is away is waited for.
fn other_first<'a>(
    view: &'a View,
    upstream: &NodeName,
    away: impl Fn(&Status) -> bool,
) -> Option<&'a NodeName> {
    let first = |status: &Status| status.condition.outgrown && (status.node < view.me || view.is_head());
    let full = |status: &Status| view.settings.full.contains(&status.node);
    let others = view.fresh_peers().filter(|status| status.node != *upstream && full(status));
    let mut before = others.filter(|status| first(status) || away(status));
    before.next().map(|status| &status.node)
}

/// It is away since so lately that it may still be coming back.
fn lately(view: &View, status: &Status, since: impl Fn(&Heard) -> Option<Millis>) -> bool {
    let away_since = view.memory.peers.get(&status.node).and_then(since);
    away_since.is_some_and(|since| view.now.since(since) < AWAY_MS_MAX)
}

fn restart(view: &View, standby: &Standby, whose: &str) -> Option<Want> {
    let what = format!("replay stands at {}, where the settings of {whose} grew", standby.replay);
    match view.paused() {
        true => wait(format!("{what}; the cluster is paused: pgherd resume")),
        false => act(Action::Stop, what),
    }
}

pub(super) fn replica(view: &View) -> Option<Want> {
    let (record, ..) = rejoin::upstream(view).ok()?;
    let standby = view.postgres.standby().filter(|standby| standby.in_place(record, view.source()))?;
    if !view.condition.outgrown {
        return None;
    }
    // Until it streams it acknowledges nothing.
    let away = |status: &Status| lately(view, status, |heard| heard.dry_since);
    if let Some(other) = other_first(view, &record.node, away) {
        return wait(format!("replay stands at {}; first {other} has to stream", standby.replay));
    }
    restart(view, standby, &record.node.0)
}

/// In a standby cluster the head comes after those of whom it has heard: whoever takes over from it replays then.
pub(super) fn standby_cluster(view: &View) -> Option<Want> {
    let record = view.head()?;
    let standby = view.postgres.standby()?;
    if !view.condition.outgrown {
        return None;
    }
    // Whoever runs serves readers; with the origin gone nobody may stream for long. A server that is not coming back is not
    // waited for.
    let away = |status: &Status| {
        let comes = matches!(status.postgres, Postgres::Stopped | Postgres::Starting | Postgres::Unknown);
        comes && lately(view, status, |heard| heard.away_since)
    };
    if let Some(other) = other_first(view, &record.node, away) {
        return wait(format!("replay stands at {}; first {other} is started anew", standby.replay));
    }
    restart(view, standby, "the origin")
}
