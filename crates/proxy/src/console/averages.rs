//! What happened in the last full minute, by database.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::tally::Tally;
use crate::worker::Report;

/// PgBouncer's `stats_period`.
pub const PERIOD: Duration = Duration::from_secs(60);

/// One database in one period.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    pub tally: Tally,
    took: Duration,
}

impl Rate {
    pub fn per_second(&self, count: u64) -> u64 {
        let ms = self.took.as_millis() as u64;
        count.saturating_mul(1_000).checked_div(ms).unwrap_or_default()
    }
}

/// The totals at the end of the last period, and what was added in it.
#[derive(Debug, Default)]
pub struct Rates {
    at: Option<Instant>,
    totals: BTreeMap<String, Tally>,
    rates: BTreeMap<String, Rate>,
}

impl Rates {
    /// None has been seen of a database that was not there: zeros.
    pub fn of(&self, database: &str) -> Rate {
        self.rates.get(database).copied().unwrap_or_default()
    }

    /// A period has ended with these totals.
    pub fn turn(&mut self, report: &Report, now: Instant) {
        let mut totals: BTreeMap<String, Tally> = BTreeMap::new();
        for (owner, tally) in &report.tallies {
            totals.entry(owner.database.clone()).or_default().merge(tally);
        }
        let took = self.at.map_or(PERIOD, |at| now.saturating_duration_since(at));
        let rate = |(database, tally): (&String, &Tally)| {
            let before = self.totals.get(database).copied().unwrap_or_default();
            (database.clone(), Rate { tally: tally.since(&before), took })
        };
        self.rates = totals.iter().map(rate).collect();
        (self.totals, self.at) = (totals, Some(now));
    }
}
