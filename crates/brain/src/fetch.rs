//! WAL that one node takes from another for a takeover: whether it still comes, and how it ended.
//!
//! Invariant: a fetch ends, with all of that WAL or without; who could not get it lets others try first.

use serde::{Deserialize, Serialize};

use crate::{Millis, NodeName, Position, Postgres, Term};

/// A fetch that brings nothing for so long has ended: reconnects are retried every 100 ms, so this is fifty of them.
pub const STALLED_MS_MAX: u64 = 5_000;

/// For so long others come first; then it may try again, as what was missing may have come back.
const AGAIN_MS: u64 = 15_000;

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
    /// What is known after a look at the server: it fetches when it is pointed at somebody under a term above the recorded.
    pub(crate) fn note(
        known: Option<Fetch>,
        now: Millis,
        postgres: &Postgres,
        recorded: Term,
    ) -> Option<Fetch> {
        let Postgres::Standby(standby) = postgres else { return known };
        let source = standby.upstream.as_ref().filter(|upstream| upstream.term > recorded);
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

    /// Whose WAL could not be had, a moment ago.
    pub fn failed(&self, now: Millis) -> Option<&NodeName> {
        self.given_up.filter(|at| now.since(*at) < AGAIN_MS).map(|_| &self.from)
    }
}
