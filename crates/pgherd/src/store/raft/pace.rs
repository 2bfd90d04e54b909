//! How slow the disks are, and how long elections must therefore take.
//!
//! A node waits for its disk before it votes or confirms, and hears nothing meanwhile. When a majority of disks is slow, an
//! election timeout that suits fast ones would depose every leader before it could do anything. So each node tells what
//! a write takes it, and all stretch their ticks by what the fastest majority needs: one slow disk slows nobody down,
//! its node just does not lead for long.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// The median of so many writes: a hiccup is none of its business, and a disk that has become slow is seen within seconds.
const WRITES: usize = 8;

/// A leader must write, and hear of followers that write, within half an election timeout; and one write may be under way.
const WRITES_PER_TIMEOUT: u32 = 3;

/// A disk that takes longer than this is not slow, but broken: no cluster should wait a minute for a leader.
const PACE_MS_MAX: u64 = 3_000;

#[derive(Default)]
pub(super) struct Pace {
    writes: VecDeque<Duration>,
    others: BTreeMap<u64, u64>,
}

impl Pace {
    pub fn wrote(&mut self, took: Duration) {
        if self.writes.len() == WRITES {
            self.writes.pop_front();
        }
        self.writes.push_back(took);
    }

    pub fn heard(&mut self, id: u64, pace_ms: u64) {
        self.others.insert(id, pace_ms.min(PACE_MS_MAX));
    }

    /// Of this node's own disk.
    pub fn own_ms(&self) -> u64 {
        let mut writes: Vec<Duration> = self.writes.iter().copied().collect();
        writes.sort();
        let median = writes.get(writes.len() / 2).copied().unwrap_or_default();
        (median.as_millis() as u64).min(PACE_MS_MAX)
    }

    /// The tick, stretched so that an election timeout of `election_ticks` suits the fastest majority of `voters`.
    pub fn tick(&self, tick: Duration, election_ticks: usize, own: u64, voters: &BTreeSet<u64>) -> Duration {
        let of =
            |id: &u64| if *id == own { self.own_ms() } else { self.others.get(id).copied().unwrap_or(0) };
        let mut paces: Vec<u64> = voters.iter().map(of).collect();
        paces.sort_unstable();
        let majority = paces.get(voters.len() / 2).copied().unwrap_or(0);
        let needed = Duration::from_millis(majority) * WRITES_PER_TIMEOUT / election_ticks.max(1) as u32;
        tick.max(needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(50);

    #[test]
    fn one_slow_disk_slows_nobody_and_two_slow_all() {
        let voters = BTreeSet::from([1, 2, 3]);
        let mut pace = Pace::default();
        assert_eq!(pace.tick(TICK, 10, 1, &voters), TICK);
        pace.heard(2, 1_000);
        assert_eq!(pace.tick(TICK, 10, 1, &voters), TICK);
        pace.heard(3, 1_200);
        assert_eq!(pace.tick(TICK, 10, 1, &voters), Duration::from_millis(300));
        pace.heard(3, 2);
        assert_eq!(pace.tick(TICK, 10, 1, &voters), TICK);
    }

    #[test]
    fn a_hiccup_is_not_slow() {
        let mut pace = Pace::default();
        for took in [1, 1, 900, 2, 1, 1, 700, 1] {
            pace.wrote(Duration::from_millis(took));
        }
        assert_eq!(pace.own_ms(), 1);
        (0..8).for_each(|_| pace.wrote(Duration::from_secs(9)));
        assert_eq!(pace.own_ms(), PACE_MS_MAX);
    }
}
