//! WAL that one node takes from another that is not its primary, for a takeover or because the primary has it no more:
//! whether it still comes, and how it ended.
//!
//! Invariant: a fetch ends, with all of that WAL or without; who could not get it lets others try first, or goes another way.

use serde::{Deserialize, Serialize};

use crate::{Millis, NodeName, Position, Postgres, PrimaryRecord, Upstream};

/// A fetch that brings nothing for so long has ended: reconnects are retried every 100 ms, so this is fifty of them.
pub const STALLED_MS_MAX: u64 = 5_000;

/// In a takeover others come first for so long; then it may try again, as what was missing may have come back.
pub const AGAIN_MS: u64 = 15_000;

/// Under way, or given up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fetch {
    from: NodeName,
    position: Position,
    /// When WAL came last.
    came: Millis,
    given_up: Option<Millis>,
}

impl Fetch {
    /// What is known after a look at the server. It fetches when it is pointed at somebody under a term above the recorded,
    /// or, under that one, at somebody else than who is recorded and than its `source`.
    pub(crate) fn note(
        known: Option<Fetch>,
        now: Millis,
        postgres: &Postgres,
        recorded: Option<&PrimaryRecord>,
        source: Option<&NodeName>,
    ) -> Option<Fetch> {
        let Postgres::Standby(standby) = postgres else { return known };
        let term = recorded.map(|record| record.term).unwrap_or_default();
        let other = |node: &NodeName| {
            recorded.is_some_and(|record| record.node != *node) && Some(node) != source && !node.is_origin()
        };
        let fetches =
            |upstream: &&Upstream| upstream.term > term || upstream.term == term && other(&upstream.node);
        let source = standby.upstream.as_ref().filter(fetches);
        match (source, known) {
            (Some(source), Some(fetch)) if fetch.from == source.node && fetch.given_up.is_none() => {
                let came = if standby.position > fetch.position { now } else { fetch.came };
                Some(Fetch { position: standby.position.max(fetch.position), came, ..fetch })
            }
            (Some(source), _) => Some(Fetch {
                from: source.node.clone(),
                position: standby.position,
                came: now,
                given_up: None,
            }),
            (None, Some(fetch)) if fetch.given_up.is_none() => {
                (fetch.stalled_ms(now) > STALLED_MS_MAX).then_some(Fetch { given_up: Some(now), ..fetch })
            }
            (None, known) => known,
        }
    }

    /// For how long no WAL has come.
    pub fn stalled_ms(&self, now: Millis) -> u64 {
        now.since(self.came)
    }

    /// Whose WAL could not be had within this time.
    pub fn failed(&self, now: Millis, within_ms: u64) -> Option<&NodeName> {
        self.given_up.filter(|at| now.since(*at) < within_ms).map(|_| &self.from)
    }
}
