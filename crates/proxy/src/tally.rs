//! What has passed, counted by user and database.
//!
//! What it is: plain numbers of one worker, added to where things happen and added up where somebody asks (`console`, metrics).
//! What it is not: a clock; the times are those of the worker's batches of events. Invariant: no lock and no look at a clock for a
//! message.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use wire::startup::{Opening, parse_opening};

use super::ledger::{Ledger, Passed};

/// Upper bounds of all buckets but the last, which has none: 64 µs, and twice that again and again up to 67 s.
const BOUNDS: u32 = 21;
const FIRST_BOUND_LOG2: u32 = 6;
/// Users by databases that are told apart; a proxy with more adds the others up.
const ACCOUNTS_MAX: usize = 10_000;
/// What names the rest.
const OTHERS: &str = "(others)";

/// Durations, by powers of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    counts: [u64; BOUNDS as usize + 1],
    pub sum_us: u64,
}

impl Histogram {
    pub fn add(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let log2 = u64::BITS - us.saturating_sub(1).leading_zeros();
        self.counts[log2.saturating_sub(FIRST_BOUND_LOG2).min(BOUNDS) as usize] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Upper bounds in microseconds, each with how many were not longer.
    pub fn cumulated(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut sum = 0;
        (0..BOUNDS).zip(self.counts).map(move |(bucket, count)| {
            sum += count;
            (1 << (bucket + FIRST_BOUND_LOG2), sum)
        })
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn since(&self, before: &Histogram) -> Histogram {
        let counts = std::array::from_fn(|bucket| self.counts[bucket].saturating_sub(before.counts[bucket]));
        Histogram { counts, sum_us: self.sum_us.saturating_sub(before.sum_us) }
    }

    fn merge(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(other.counts).for_each(|(own, more)| *own += more);
        self.sum_us += other.sum_us;
    }
}

/// One user in one database.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    pub logins: u64,
    /// Times that a session got a server from a pool.
    pub assignments: u64,
    /// Bytes from clients, and from servers.
    pub received: u64,
    pub sent: u64,
    pub client_parses: u64,
    pub server_parses: u64,
    pub binds: u64,
    /// Of those that came to an end; the counts of transactions and queries are theirs.
    pub transactions: u64,
    pub queries: u64,
    pub transaction: Histogram,
    /// From a request to its answer; those that were asked together count as one.
    pub query: Histogram,
    /// For a server; only of those that waited.
    pub wait: Histogram,
}

impl Tally {
    /// What was added to `before`.
    pub fn since(&self, before: &Tally) -> Tally {
        Tally {
            logins: self.logins.saturating_sub(before.logins),
            assignments: self.assignments.saturating_sub(before.assignments),
            received: self.received.saturating_sub(before.received),
            sent: self.sent.saturating_sub(before.sent),
            client_parses: self.client_parses.saturating_sub(before.client_parses),
            server_parses: self.server_parses.saturating_sub(before.server_parses),
            binds: self.binds.saturating_sub(before.binds),
            transactions: self.transactions.saturating_sub(before.transactions),
            queries: self.queries.saturating_sub(before.queries),
            transaction: self.transaction.since(&before.transaction),
            query: self.query.since(&before.query),
            wait: self.wait.since(&before.wait),
        }
    }

    pub fn merge(&mut self, other: &Tally) {
        let Tally { logins, assignments, received, sent, .. } = other;
        self.logins += logins;
        self.assignments += assignments;
        self.received += received;
        self.sent += sent;
        self.client_parses += other.client_parses;
        self.server_parses += other.server_parses;
        self.binds += other.binds;
        self.transactions += other.transactions;
        self.queries += other.queries;
        self.transaction.merge(&other.transaction);
        self.query.merge(&other.query);
        self.wait.merge(&other.wait);
    }
}

/// Whose tally it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner {
    pub database: String,
    pub user: String,
}

impl Owner {
    /// Of a start-up packet. Without a database it is the user's name, as for PostgreSQL.
    pub fn of(startup: &[u8]) -> Owner {
        let user = startup_value(startup, "user").unwrap_or_default();
        let database = startup_value(startup, "database").filter(|database| !database.is_empty());
        Owner { database: database.unwrap_or_else(|| user.clone()), user }
    }
}

/// What a start-up packet says of `name`.
pub fn startup_value(startup: &[u8], name: &str) -> Option<String> {
    match parse_opening(startup.get(4..)?) {
        Ok(Opening::Startup(packet)) => {
            packet.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
        }
        _ => None,
    }
}

/// All tallies of one worker.
#[derive(Default, Debug)]
pub struct Accounts {
    list: Vec<(Owner, Tally)>,
    by_owner: HashMap<Owner, u32>,
}

impl Accounts {
    /// To be called for those only that were let in: a name that anybody may invent takes no room for ever.
    pub fn of(&mut self, owner: Owner) -> u32 {
        let owner = match self.by_owner.contains_key(&owner) || self.list.len() < ACCOUNTS_MAX {
            true => owner,
            false => Owner { database: OTHERS.to_owned(), user: OTHERS.to_owned() },
        };
        if let Some(number) = self.by_owner.get(&owner) {
            return *number;
        }
        let number = self.list.len() as u32;
        self.list.push((owner.clone(), Tally::default()));
        self.by_owner.insert(owner, number);
        number
    }

    pub fn tally(&mut self, number: u32) -> Option<&mut Tally> {
        self.list.get_mut(number as usize).map(|(_, tally)| tally)
    }

    pub fn list(&self) -> &[(Owner, Tally)] {
        &self.list
    }
}

/// What of one session has been counted already.
#[derive(Default, Debug)]
pub struct Meter {
    account: Option<u32>,
    /// Since when a transaction, or a request by itself, is under way.
    began: Option<Instant>,
    asked: Option<Instant>,
    /// When the last answer ended, or the session was let in.
    answered: Option<Instant>,
    /// The same as `began` and `asked`, of what runs now: in a pipeline one follows upon the other.
    runs: Option<Instant>,
    lasts: Option<Instant>,
    seen: Passed,
    passed: Passed,
}

impl Meter {
    /// The session was let in.
    pub fn open(&mut self, account: u32, now: Instant, accounts: &mut Accounts) {
        (self.account, self.answered) = (Some(account), Some(now));
        if let Some(tally) = accounts.tally(account) {
            tally.logins += 1;
        }
    }

    pub fn is_open(&self) -> bool {
        self.account.is_some()
    }

    pub fn transaction_since(&self) -> Option<Instant> {
        self.lasts
    }

    pub fn request_since(&self) -> Option<Instant> {
        self.runs
    }

    /// Since when nothing has been asked.
    pub fn idle_since(&self) -> Option<Instant> {
        self.answered.filter(|_| self.runs.is_none())
    }

    /// Notes what runs now.
    fn follow(&mut self, ledger: &Ledger, now: Instant) {
        let passed = *ledger.passed();
        let before = std::mem::replace(&mut self.seen, passed);
        if passed.transactions != before.transactions {
            self.lasts = None;
        }
        if passed.queries != before.queries {
            self.runs = None;
        }
        if ledger.outstanding() {
            self.lasts.get_or_insert(now);
            self.runs.get_or_insert(now);
        } else {
            self.runs = None;
            if ledger.idle() {
                self.lasts = None;
            }
        }
    }

    /// The session has a server, after `waited` if it had to wait.
    pub fn assigned(&self, waited: Option<Duration>, accounts: &mut Accounts) {
        let Some(tally) = self.account.and_then(|account| accounts.tally(account)) else { return };
        tally.assignments += 1;
        if let Some(waited) = waited {
            tally.wait.add(waited);
        }
    }

    /// Looks at what has passed since it was called last.
    pub fn look(&mut self, ledger: &Ledger, bytes: &mut Bytes, now: Instant, accounts: &mut Accounts) {
        self.follow(ledger, now);
        let outstanding = ledger.outstanding();
        if outstanding {
            self.began.get_or_insert(now);
            self.asked.get_or_insert(now);
        }
        let answered = self.asked.filter(|_| !outstanding);
        let ended = self.began.filter(|_| ledger.idle());
        if answered.is_none() && ended.is_none() {
            return;
        }
        let Some(tally) = self.account.and_then(|account| accounts.tally(account)) else { return };
        if let Some(since) = answered {
            (self.asked, self.answered) = (None, Some(now));
            tally.query.add(now.duration_since(since));
        }
        if let Some(since) = ended {
            self.began = None;
            tally.transaction.add(now.duration_since(since));
            let passed = *ledger.passed();
            let before = std::mem::replace(&mut self.passed, passed);
            tally.transactions += u64::from(passed.transactions.wrapping_sub(before.transactions));
            tally.queries += u64::from(passed.queries.wrapping_sub(before.queries));
            tally.client_parses += u64::from(passed.client_parses.wrapping_sub(before.client_parses));
            tally.server_parses += u64::from(passed.server_parses.wrapping_sub(before.server_parses));
            tally.binds += u64::from(passed.binds.wrapping_sub(before.binds));
            let Bytes { received, sent } = std::mem::take(bytes);
            tally.received += received;
            tally.sent += sent;
        }
    }
}

/// Bytes of one session that are not in a tally yet.
#[derive(Default, Debug)]
pub struct Bytes {
    pub received: u64,
    pub sent: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let mut histogram = Histogram::default();
        for us in [0, 1, 64, 65, 128, 129, 1_000_000, 100_000_000] {
            histogram.add(Duration::from_micros(us));
        }
        let cumulated: Vec<(u64, u64)> = histogram.cumulated().collect();
        assert_eq!(cumulated[..3], [(64, 3), (128, 5), (256, 6)]);
        assert_eq!(cumulated.last(), Some(&(67_108_864, 7)));
        assert_eq!(histogram.count(), 8);
        assert_eq!(histogram.sum_us, 101_000_387);
    }

    #[test]
    fn accounts_are_bounded() {
        let mut accounts = Accounts::default();
        let owner = |n: usize| Owner { database: "d".to_owned(), user: n.to_string() };
        for n in 0..ACCOUNTS_MAX {
            assert_eq!(accounts.of(owner(n)), n as u32);
        }
        assert_eq!(accounts.of(owner(7)), 7);
        let others = accounts.of(owner(ACCOUNTS_MAX));
        assert_eq!((others, accounts.of(owner(ACCOUNTS_MAX + 1))), (ACCOUNTS_MAX as u32, others));
    }
}
