//! How far each replica is, on the proxy's own clock.
//!
//! The primary is asked where its WAL ends, and the time is noted *before* the question: whatever was acknowledged until then
//! lies before that end. A replica that has replayed up to there shows all of it. So each replica has a moment, and a session
//! that must see what it wrote may read there when that was not later. No clock is compared with another.
//!
//! What it is: those moments, sampled while sessions ask for them. What it is not: a question per statement; one sample serves
//! all sessions. Invariants: a replica that could not be asked, or that the topology has not got, has no moment; one primaryship's
//! samples say nothing in another.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Shared;
use crate::topology::{Backend, Topology};

/// Between two samples while sessions ask. With three servers, 300 small questions a second: some per cent of a core.
const PACE: Duration = Duration::from_millis(10);
/// Nobody asks, but there are readers: so often it is seen whether a replica lags.
const AT_LEAST: Duration = Duration::from_secs(1);
/// A look into shared memory takes a fraction of a millisecond.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Ends of WAL that no replica has reached yet: at `PACE`, those of ten seconds; of longer times fewer.
const SAMPLES_MAX: usize = 1_000;

/// A moment of the proxy: microseconds since its start, never 0. The default is before all others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment(u64);

/// Where a server is in its WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Position {
    /// The end of a primary's, unflushed WAL included: what is acknowledged need not be flushed (`synchronous_commit = off`).
    Inserted(u64),
    /// A standby has replayed it up to here.
    Replayed(u64),
}

/// Headers of a WAL page and of a segment's first one: `SizeOfXLogShortPHD` and `SizeOfXLogLongPHD` in xlog_internal.h.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;

impl Position {
    /// By what `pg_current_wal_insert_lsn()` says. Where the next record would begin a page, it stands behind the header of that,
    /// and no standby comes there before there is a record: the last one has ended before the header.
    pub fn inserted(lsn: u64, wal_block_size: u64, wal_segment_size: u64) -> Position {
        let header = match () {
            () if lsn % wal_segment_size == SEGMENT_HEADER => SEGMENT_HEADER,
            () if lsn % wal_block_size == PAGE_HEADER => PAGE_HEADER,
            () => 0,
        };
        Position::Inserted(lsn - header)
    }
}

/// Asks a server for its position. The agent implements it.
pub trait Positions: Send + Sync {
    /// `None` when it cannot be told.
    fn position<'a>(
        &'a self,
        address: &'a str,
    ) -> Pin<Box<dyn Future<Output = Option<Position>> + Send + 'a>>;
}

/// What was seen of the replicas last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    replicas: Vec<Sighting>,
    /// `None`: there is no primary, and whoever lags is better than nobody.
    lag_max: Option<LagMax>,
}

/// What was seen of one replica.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Sighting {
    backend: Backend,
    /// It shows everything up to then; the default when that is not known.
    until: Moment,
    /// For so long at least it has not shown everything; none when it was not asked.
    behind: Duration,
    /// WAL of the primary that it has not replayed; 0 when that is not known.
    behind_bytes: u64,
}

/// A replica that is further behind serves nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LagMax {
    pub time: Duration,
    /// `None`: any.
    pub bytes: Option<u64>,
}

impl Seen {
    /// The replica at `address` may serve somebody who must see everything up to `since`.
    pub fn serves(&self, address: &str, since: Moment) -> bool {
        let known = self.replicas.iter().find(|seen| seen.backend.address == address);
        match known {
            Some(seen) => since <= seen.until && !self.lags(seen),
            None => since == Moment::default(),
        }
    }

    fn lags(&self, seen: &Sighting) -> bool {
        let Some(max) = self.lag_max else { return false };
        seen.behind > max.time || max.bytes.is_some_and(|bytes| seen.behind_bytes > bytes)
    }
}

#[derive(Debug)]
pub struct Freshness {
    start: Instant,
    lag_max: LagMax,
    seen: Mutex<Arc<Seen>>,
    asked: Notify,
    readers: Reader,
}

/// Held by who reads from replicas: nobody is asked while there is none.
pub type Reader = Arc<()>;

impl Freshness {
    pub fn new(lag_max: LagMax) -> Freshness {
        Freshness {
            start: Instant::now(),
            lag_max,
            seen: Mutex::default(),
            asked: Notify::new(),
            readers: Reader::default(),
        }
    }

    pub fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    fn moment(&self, at: Instant) -> Moment {
        Moment(at.duration_since(self.start).as_micros() as u64 + 1)
    }

    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&lock(&self.seen))
    }

    pub fn reader(&self) -> Reader {
        Arc::clone(&self.readers)
    }

    /// Somebody would read from a replica if it were known to be further.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// Samples, as long as the proxy lives and whenever somebody asks.
    pub async fn watch(&self, shared: &Shared, positions: &Arc<dyn Positions>) {
        let mut samples = Samples::default();
        loop {
            tokio::select! {
                () = self.asked.notified() => {}
                () = sleep(AT_LEAST) => {}
            }
            if Arc::strong_count(&self.readers) == 1 {
                continue;
            }
            let topology = shared.topology.borrow().clone();
            let seen = self.sample(&topology, positions, &mut samples).await;
            *lock(&self.seen) = Arc::new(seen);
            shared.workers.look_at_replicas();
            sleep(PACE).await;
        }
    }

    async fn sample(
        &self,
        topology: &Topology,
        positions: &Arc<dyn Positions>,
        samples: &mut Samples,
    ) -> Seen {
        samples.enter(topology.timeline);
        if let Some(primary) = &topology.primary {
            let at = self.now();
            if let Some(Position::Inserted(end)) = ask(positions, &primary.address).await {
                samples.add(at, end);
            }
        }
        let mut asked = JoinSet::new();
        for (place, replica) in topology.replicas.iter().enumerate() {
            let (positions, address) = (Arc::clone(positions), replica.address.clone());
            asked.spawn(async move { (place, ask(&positions, &address).await) });
        }
        let mut replayed = vec![None; topology.replicas.len()];
        while let Some(Ok((place, position))) = asked.join_next().await {
            if let Some(Position::Replayed(lsn)) = position {
                replayed[place] = Some(lsn);
            }
        }
        let sighting = |(backend, lsn): (&Backend, &Option<u64>)| Sighting {
            backend: backend.clone(),
            until: lsn.map_or(Moment::default(), |lsn| samples.seen_at(lsn)),
            behind: lsn.map_or(Duration::ZERO, |lsn| samples.behind(lsn)),
            behind_bytes: lsn.map_or(0, |lsn| samples.end().saturating_sub(lsn)),
        };
        let replicas = topology.replicas.iter().zip(&replayed).map(sighting).collect();
        samples.forget_before(replayed.iter().flatten().min().copied());
        let lag_max = topology.primary.is_some().then_some(self.lag_max);
        Seen { replicas, lag_max }
    }
}

async fn ask(positions: &Arc<dyn Positions>, address: &str) -> Option<Position> {
    timeout(ANSWER_TIMEOUT, positions.position(address)).await.ok().flatten()
}

/// Ends of the primary's WAL, each with a moment before which all acknowledged WAL lies before it; both ascend.
#[derive(Default, Debug)]
struct Samples {
    timeline: u32,
    ends: VecDeque<(Moment, u64)>,
}

impl Samples {
    /// Goes on with this primaryship, or begins with it.
    fn enter(&mut self, timeline: u32) {
        if self.timeline != timeline {
            *self = Samples { timeline, ends: VecDeque::new() };
        }
    }

    fn add(&mut self, at: Moment, end: u64) {
        // The same end again: whoever has it shows what is acknowledged until now.
        if let Some(last) = self.ends.back_mut().filter(|(_, known)| *known == end) {
            last.0 = at;
            return;
        }
        if self.ends.len() == SAMPLES_MAX {
            // Every other one stays, the first among them: it tells how long a replica is behind that has not reached it.
            let mut stays = false;
            self.ends.retain(|_| {
                stays = !stays;
                stays
            });
        }
        self.ends.push_back((at, end));
    }

    /// How long a server that has replayed up to `lsn` has not shown everything, by the primary's last answer: while that gives none
    /// nobody falls behind.
    fn behind(&self, lsn: u64) -> Duration {
        let Some(((first, _), (last, _))) = self.ends.front().zip(self.ends.back()) else {
            return Duration::ZERO;
        };
        Duration::from_micros(last.0.saturating_sub(self.seen_at(lsn).max(*first).0))
    }

    /// Of the primary's WAL, as far as it is known; 0 before that.
    fn end(&self) -> u64 {
        self.ends.back().map_or(0, |(_, end)| *end)
    }

    /// Until when a server that has replayed up to `lsn` shows everything.
    fn seen_at(&self, lsn: u64) -> Moment {
        self.ends.iter().rev().find(|(_, end)| *end <= lsn).map_or(Moment::default(), |(at, _)| *at)
    }

    /// All replicas are at `lsn` at least; the last end before it is their moment.
    fn forget_before(&mut self, lsn: Option<u64>) {
        let Some(lsn) = lsn else { return };
        while self.ends.get(1).is_some_and(|(_, end)| *end <= lsn) {
            self.ends.pop_front();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_shows_what_lay_before_the_end_that_it_has_replayed() {
        let mut samples = Samples::default();
        samples.enter(1);
        for (at, end) in [(10, 100), (20, 200), (30, 200), (40, 300)] {
            samples.add(Moment(at), end);
        }
        let seen: Vec<u64> = [99, 100, 199, 200, 299, 300, 999].map(|lsn| samples.seen_at(lsn).0).to_vec();
        assert_eq!(seen, [0, 10, 10, 30, 30, 40, 40]);
        samples.forget_before(Some(250));
        assert_eq!((samples.seen_at(199).0, samples.seen_at(250).0), (0, 30));
        samples.enter(2);
        assert_eq!(samples.seen_at(999).0, 0, "another primaryship's WAL may be other WAL");
    }

    #[test]
    fn an_empty_page_is_no_end_that_a_standby_could_reach() {
        let (block, segment) = (8192, 16 << 20);
        let end = |lsn| Position::inserted(lsn, block, segment);
        assert_eq!(end((16 << 20) + 40), Position::Inserted(16 << 20));
        assert_eq!(end((16 << 20) + 8192 + 24), Position::Inserted((16 << 20) + 8192));
        for lsn in [(16 << 20) + 8192 + 40, (16 << 20) + 24 + 8, 8192 + 100] {
            assert_eq!(end(lsn), Position::Inserted(lsn));
        }
    }

    #[test]
    fn samples_are_bounded_and_what_is_long_ago_is_known_less_exactly() {
        let mut samples = Samples::default();
        let newest = 5 * SAMPLES_MAX as u64;
        (1..=newest).for_each(|n| samples.add(Moment(n), n));
        assert!(samples.ends.len() <= SAMPLES_MAX);
        assert_eq!(samples.seen_at(u64::MAX), Moment(newest));
        assert_eq!(samples.behind(0), Duration::from_micros(newest - 1), "it has not reached the first");
        let known = samples.seen_at(newest / 2).0;
        assert!((newest / 2 - 40..=newest / 2).contains(&known), "{known}");
    }

    #[test]
    fn who_must_see_something_is_served_by_what_is_known_to_have_it() {
        let backend = |node: &str| Backend { node: node.to_owned(), address: format!("{node}:1") };
        let sighting = |node, until, behind_us, behind_bytes| Sighting {
            backend: backend(node),
            until: Moment(until),
            behind: Duration::from_micros(behind_us),
            behind_bytes,
        };
        let max = |bytes| LagMax { time: Duration::from_micros(60), bytes };
        let seen = Seen {
            replicas: vec![sighting("a", 50, 50, 9), sighting("late", 1, 99, 9), sighting("mute", 0, 0, 0)],
            lag_max: Some(max(None)),
        };
        let served_by =
            |seen: &Seen, address: &str| [0, 50, 51].map(|since| seen.serves(address, Moment(since)));
        let served = |address: &str| served_by(&seen, address);
        assert_eq!(served("a:1"), [true, true, false]);
        assert_eq!(served("late:1"), [false, false, false], "it lags");
        assert_eq!(served("mute:1"), [true, false, false]);
        assert_eq!(served("new:1"), [true, false, false]);
        let with_bytes = |bytes| Seen { lag_max: Some(max(Some(bytes))), ..seen.clone() };
        assert_eq!(served_by(&with_bytes(9), "a:1"), [true, true, false]);
        assert_eq!(served_by(&with_bytes(8), "a:1"), [false, false, false], "too many bytes");
        assert_eq!(served_by(&with_bytes(0), "mute:1"), [true, false, false]);
        let without_primary = Seen { lag_max: None, ..seen.clone() };
        assert_eq!(served_by(&without_primary, "late:1"), [true, false, false]);
    }
}
