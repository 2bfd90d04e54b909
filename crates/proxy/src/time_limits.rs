//! How long clients and their statements may take.
//!
//! What it is: the limits, and which of them a session is under at a moment. What it is not: a timer; a session has one deadline,
//! which its worker minds. Invariant: without a limit nothing ends.

use std::time::{Duration, Instant};

use super::tally::Meter;

/// Zero: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimeLimits {
    /// A client that asks nothing, outside of a transaction.
    pub client_idle: Duration,
    /// The same within one.
    pub transaction_idle: Duration,
    /// From a transaction's first request.
    pub transaction: Duration,
    /// From a request to its answer.
    pub query: Duration,
}

/// Which limit is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overdue {
    ClientIdle,
    TransactionIdle,
    Transaction,
    Query,
}

impl Overdue {
    /// The SQLSTATE that PostgreSQL has for its own limit of the kind.
    pub fn sqlstate(self) -> &'static str {
        match self {
            Overdue::ClientIdle => "57P05",
            Overdue::TransactionIdle => "25P03",
            Overdue::Transaction => "25P04",
            Overdue::Query => "57014",
        }
    }

    pub fn setting(self) -> &'static str {
        match self {
            Overdue::ClientIdle => "client_idle_timeout",
            Overdue::TransactionIdle => "transaction_idle_timeout",
            Overdue::Transaction => "transaction_timeout",
            Overdue::Query => "query_timeout",
        }
    }

    pub fn message(self) -> &'static str {
        match self {
            Overdue::ClientIdle => "terminating connection due to idle-session timeout",
            Overdue::TransactionIdle => "terminating connection due to idle-in-transaction timeout",
            Overdue::Transaction => "terminating connection due to transaction timeout",
            Overdue::Query => "terminating connection due to query timeout",
        }
    }
}

impl TimeLimits {
    pub fn of(self, overdue: Overdue) -> Duration {
        match overdue {
            Overdue::ClientIdle => self.client_idle,
            Overdue::TransactionIdle => self.transaction_idle,
            Overdue::Transaction => self.transaction,
            Overdue::Query => self.query,
        }
    }

    /// The first of the limits that the session of this meter is under, and when it is over; for a request not before `patience`.
    pub fn next(self, meter: &Meter, patience: Option<Instant>) -> Option<(Instant, Overdue)> {
        let under = [
            (meter.idle_since().filter(|_| meter.transaction_since().is_none()), Overdue::ClientIdle),
            (meter.idle_since().filter(|_| meter.transaction_since().is_some()), Overdue::TransactionIdle),
            (meter.transaction_since(), Overdue::Transaction),
            (meter.request_since(), Overdue::Query),
        ];
        let ends = |(since, overdue): (Option<Instant>, Overdue)| {
            let limit = Some(self.of(overdue)).filter(|limit| !limit.is_zero())?;
            let until = since? + limit;
            Some((patience.filter(|_| overdue == Overdue::Query).map_or(until, |at| at.max(until)), overdue))
        };
        under.into_iter().filter_map(ends).min_by_key(|(until, _)| *until)
    }
}
