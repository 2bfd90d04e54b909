//! Is the server fine? Asked again and again by new connections and, of a primary, by writes.
//!
//! What comes back is told in ages and flags, never in a decision. A write that hangs is waited for, not repeated: on a
//! disk that stalls each new attempt would only be one more backend that cannot end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use brain::Postgres;
use tokio::task::JoinHandle;
use wire::Lsn;

use super::work::Worker;
use crate::postgres::{self, Answered};

/// A write probe a second would do for a `failure_timeout` of two; twice that shows trouble sooner.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// A probe that takes longer has failed: as long as the shortest `failure_timeout` allows.
const PROBE_DEADLINE: Duration = Duration::from_millis(500);

/// Every so many write probes, a new connection: a hung postmaster answers old ones.
const CONNECTION_EVERY: u32 = 2;

/// Probes whose flush by the set has not been seen yet; at two a second, half a minute of them.
const UNCONFIRMED_MAX: usize = 64;

/// New connections in a row that got no answer before it is said that none does: one may fall into a busy moment.
const SILENT_CONNECTIONS: u32 = 2;

/// A write that takes longer is given up with its connection, at most one of sixteen walsenders a minute; the server
/// ends it by `statement_timeout` long before, unless the disk holds it.
const WRITE_GIVEN_UP: Duration = Duration::from_secs(60);

/// A write probe under way.
struct Writing {
    begun: Instant,
    task: JoinHandle<postgres::Result<Lsn>>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Worker {
    /// Probes the server while it answers, on connections of their own: a hang there shows in ages and flags only.
    pub async fn probe_forever(self: Arc<Self>) {
        let mut round = 0u32;
        let mut unanswered = 0u32;
        let mut writing: Option<Writing> = None;
        loop {
            tokio::time::sleep(PROBE_INTERVAL).await;
            let is_primary = match &self.known().answer {
                Some((_, postgres)) => matches!(postgres, Postgres::Primary(_)),
                None => {
                    writing = None;
                    continue;
                }
            };
            round = round.wrapping_add(1);
            // After a connection without an answer no write is tried until one has its answer: writes of ours go by an old
            // session, and would show as fine a server that no client can reach.
            if unanswered > 0 || round.is_multiple_of(CONNECTION_EVERY) {
                unanswered = if self.connects().await { 0 } else { unanswered + 1 };
                self.known().burden.hung = unanswered >= SILENT_CONNECTIONS;
                if unanswered > 0 {
                    continue;
                }
            }
            if is_primary {
                writing = self.clone().write(writing).await;
            }
        }
    }

    /// A new connection is answered; that there is no slot for it is an answer.
    async fn connects(&self) -> bool {
        match self.server.probe_connection(PROBE_DEADLINE).await {
            Ok(answered) => {
                self.known().burden.crowded = answered == Answered::NoSlot;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "PostgreSQL gave a new connection no answer");
                false
            }
        }
    }

    /// Waits a moment for the write under way, or for a new one; returns it while it has not ended.
    async fn write(self: Arc<Self>, under_way: Option<Writing>) -> Option<Writing> {
        let mut writing = under_way.unwrap_or_else(|| {
            let worker = self.clone();
            let task = tokio::spawn(async move { worker.server.probe_write(WRITE_GIVEN_UP).await });
            Writing { begun: Instant::now(), task }
        });
        let Ok(ended) = tokio::time::timeout(PROBE_DEADLINE, &mut writing.task).await else {
            let waited_ms = writing.begun.elapsed().as_millis() as u64;
            tracing::warn!(waited_ms, "a write probe has not ended");
            return Some(writing);
        };
        match ended {
            Ok(Ok(lsn)) => self.written(writing.begun, lsn),
            Ok(Err(error)) => tracing::warn!(%error, "a write probe failed"),
            Err(error) => tracing::warn!(%error, "a write probe ended by itself"),
        }
        None
    }

    /// A probe counts from the moment it began: what it proves is as old as that.
    fn written(&self, begun: Instant, lsn: Lsn) {
        let mut known = self.known();
        known.write = Some((begun, lsn));
        if known.unconfirmed.len() == UNCONFIRMED_MAX {
            known.unconfirmed.remove(0);
        }
        known.unconfirmed.push((begun, lsn));
    }
}
