//! A session that takes longer than it may.
//!
//! Invariant: what runs is cancelled by the way of a client's own cancel request, which spares commits; only what does not end by
//! that loses its server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Around, Phase, Session};
use crate::refusal::Refusal;
use crate::time_limits::Overdue;
use crate::{Counters, Shared, TimeLimits};

/// From the cancel of a statement to the end of its session.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

impl Session {
    /// The next limit that it is under, and when it is over.
    pub(super) fn next_limit(&self, shared: &Shared) -> Option<(Instant, Overdue)> {
        if shared.config.time_limits == TimeLimits::default() {
            return None;
        }
        let asks = !self.relay.up.unread.is_empty();
        let is_under = match &self.phase {
            Phase::Relaying { .. } => !self.relay.books.ledger.is_replication(),
            Phase::Resting => !asks,
            // There are limits of their own.
            Phase::Waiting { .. }
            | Phase::Between { .. }
            | Phase::Leaving { .. }
            | Phase::Lingering { .. } => false,
        };
        let next = shared.config.time_limits.next(&self.meter, self.patience()).filter(|_| is_under)?;
        // Held back by us, a client is not idle.
        (next.1 != Overdue::ClientIdle || !asks).then_some(next)
    }

    /// Until when the cancel of what runs may take.
    fn patience(&self) -> Option<Instant> {
        let (asked, cancelled) = self.cancelled?;
        (self.meter.request_since() == Some(asked)).then_some(cancelled + CANCEL_GRACE)
    }

    pub(super) fn is_overdue(&mut self, overdue: Overdue, around: &mut Around<'_>) -> bool {
        if let Some(asked) = self.meter.request_since().filter(|_| overdue == Overdue::Query)
            && self.patience().is_none()
        {
            self.cancelled = Some((asked, Instant::now()));
            self.cancel(around);
            return true;
        }
        let limit = around.shared.config.time_limits.of(overdue);
        let loss = self.relay.loss();
        if let Phase::Relaying { .. } = self.phase {
            self.lose_server(around);
        }
        Counters::add(&around.shared.counters.overdue);
        self.part(&Refusal::Overdue { overdue, limit, loss }, around)
    }

    fn cancel(&self, around: &mut Around<'_>) {
        let shared = Arc::clone(around.shared);
        // From here on the session stays with its server until the cancel is over: it hits nobody else.
        let Ok(pass) = self.relay.gate().enter() else { return };
        around.runtime.spawn(async move {
            let cancelled = pass.cancel(shared.questions.sync_waits.as_deref(), &shared.tls).await;
            tracing::debug!(?cancelled, "a statement took longer than query_timeout");
        });
    }
}
